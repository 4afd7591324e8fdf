"""One repository of a registry: authorised requests, and what each answer means.

Owns the URLs of the distribution API below `/v2/<repository>/` and the messages for refusals. Knows
nothing of images: it hands out documents as bytes, blobs as streams, and tags.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Event
from urllib.parse import urljoin, urlsplit

import requests

from kiln.errors import BaseError
from kiln.registry import oci
from kiln.registry.auth import Authorizer, Grant
from kiln.registry.transport import Cut, Transport, bounded, origin

TAG_PAGES = 20
NEAR_TAGS = 6
# The login, its renewal, the way without it, and the renewal of that.
GRANTS = 4
CUTS = 4


@dataclass(frozen=True)
class Endpoint:
    """Where requests go; `place` is what messages call it."""

    base: str
    repository: str
    place: str

    def url(self, path: str) -> str:
        return f"{self.base}/v2/{self.repository}/{path}"


@dataclass(frozen=True)
class Reply:
    """A document, and the headers that came with it."""

    body: bytes
    headers: Mapping[str, str]


class Repository:
    """Requests to one endpoint, with leave."""

    def __init__(self, endpoint: Endpoint, transport: Transport, authorizer: Authorizer) -> None:
        self.endpoint, self.place = endpoint, endpoint.place
        self._transport, self._authorizer = transport, authorizer

    def manifest(self, wanted: str, what: str, stop: Event) -> Reply:
        return self._read(self.endpoint.url(f"manifests/{wanted}"), {"Accept": oci.ACCEPT}, what, stop)

    def digest(self, tag: str, what: str, stop: Event) -> str | None:
        """What a tag leads to now, None where there is no such tag. Registries don't count this as a pull."""
        url, headers = self.endpoint.url(f"manifests/{tag}"), {"Accept": oci.ACCEPT}
        with self._opened(url, headers, stop, "HEAD") as response:
            if response.status_code == 404:
                return None
            if response.status_code != 200:
                raise self._refusal(url, response.status_code, b"", what, stop)
            named = str(response.headers.get("Docker-Content-Digest", ""))
        return named if named.startswith("sha256:") else oci.sha256(self.manifest(tag, what, stop).body)

    def small_blob(self, digest: str, what: str, stop: Event) -> Reply:
        return self._read(self.endpoint.url(f"blobs/{digest}"), {}, what, stop)

    def tags(self, stop: Event) -> list[str]:
        """All tags, at most 20 pages of 1000."""
        found: list[str] = []
        url: str | None = self.endpoint.url("tags/list?n=1000")
        for _ in range(TAG_PAGES):
            if url is None:
                break
            reply = self._read(url, {}, f"the tags of {self.endpoint.repository}", stop)
            try:
                found += [tag for tag in json.loads(reply.body).get("tags") or [] if isinstance(tag, str)]
            except (ValueError, AttributeError, TypeError) as error:
                raise BaseError(f"{self.place} gave no list of tags", "is it a registry?") from error
            url = _next_page(url, reply.headers.get("Link", ""))
        return found

    @contextlib.contextmanager
    def open_blob(self, digest: str, headers: Mapping[str, str], stop: Event) -> Iterator[requests.Response]:
        """A blob's stream, or the part that a Range header names: 200, 206 or 416 come back, others raise."""
        url = self.endpoint.url(f"blobs/{digest}")
        with self._opened(url, headers, stop) as response:
            if response.status_code not in (200, 206, 416):
                body = b"".join(bounded(response, oci.DOCUMENT_LIMIT, stop))
                raise self._refusal(url, response.status_code, body, f"the blob {digest}", stop)
            yield response

    def pause(self, attempt: int, trouble: str, stop: Event) -> None:
        self._transport.pause(attempt, None, f"{self.place}: {trouble}", stop)

    def unreachable(self, trouble: str) -> BaseError:
        return self._transport.unreachable(self.endpoint.base, trouble)

    def _read(self, url: str, headers: Mapping[str, str], what: str, stop: Event) -> Reply:
        for attempt in range(1, CUTS + 1):
            with self._opened(url, headers, stop) as response:
                try:
                    body = b"".join(bounded(response, oci.DOCUMENT_LIMIT, stop))
                except Cut as error:
                    self.pause(attempt, str(error), stop)
                    continue
                if response.status_code != 200:
                    raise self._refusal(url, response.status_code, body, what, stop)
                return Reply(body, response.headers)
        raise self.unreachable("the connection was cut each time")

    @contextlib.contextmanager
    def _opened(
        self, url: str, headers: Mapping[str, str], stop: Event, method: str = "GET"
    ) -> Iterator[requests.Response]:
        """Ask with leave: a 401 is answered with a login, a new token, or none. Yields what comes then."""
        endpoint, said = self.endpoint, ""
        grant = self._authorizer.grant(endpoint.base, endpoint.repository)
        for _ in range(GRANTS):
            used = grant.header
            sent = {**headers, "Authorization": used} if used else headers
            with self._transport.open(url, sent, stop, method) as response:
                if response.status_code != 401:
                    grant.accepted = True
                    yield response
                    return
                said = self._transport.said(401, self._words(response, stop))
                challenge = response.headers.get("WWW-Authenticate", "")
            if not self._authorizer.renew(endpoint.base, endpoint.repository, used, challenge, stop):
                break
        raise self._no_leave(grant, said)

    def _words(self, response: requests.Response, stop: Event) -> bytes:
        try:
            return b"".join(bounded(response, oci.DOCUMENT_LIMIT, stop))
        except Cut:
            return b""

    def _no_leave(self, grant: Grant, said: str) -> BaseError:
        host, path = urlsplit(self.endpoint.base).hostname or "", self._authorizer.credentials_path
        tried = "; ".join(dict.fromkeys(grant.refused)) or "no login was tried"
        if grant.login_refused:
            hint = f"renew the key in {path}; to pull without it, take the line out"
        else:
            user = "$oauthtoken" if host == "nvcr.io" else "USER"
            entry = f"machine {host} login {user} password KEY"
            hint = f"check the name, or add this line to {path} (mode 600): {entry}"
        message = f"{self.place} gives no leave to pull {self.endpoint.repository}: {said} ({tried})"
        return BaseError(message, hint)

    def _refusal(self, url: str, status: int, body: bytes, what: str, stop: Event) -> BaseError:
        said = self._transport.said(status, body)
        if status == 403:
            hint = f"the login may lack the right to it; look at {self._authorizer.credentials_path}"
            return BaseError(f"{self.place} forbids {what}: {said}", hint)
        if status == 404:
            wanted = re.search(r"/manifests/([^/:]+)$", url)
            hint = self._near(wanted[1], stop) if wanted else "check the name and the digest"
            return BaseError(f"{self.place} does not have {what}: {said}", hint)
        hint = "its own fault, or the proxy's: run it again later"
        return BaseError(f"{self.place} does not give {what}: {said}", hint)

    def _near(self, wanted: str, stop: Event) -> str:
        """Tags like the one that isn't there, if the registry tells."""
        try:
            there = self.tags(stop)
        except BaseError:
            return f"check the name: {self.place} lists no tags of {self.endpoint.repository} either"
        near = difflib.get_close_matches(wanted, there, NEAR_TAGS, 0.5) or sorted(there)[-NEAR_TAGS:]
        return f"near it are: {', '.join(near)}" if near else "the repository has no tags at all"


def _next_page(url: str, link: str) -> str | None:
    """The next page of a list, which must be on the same host: the request carries a token."""
    match = re.search(r'<([^>]+)>\s*;\s*rel="?next"?', link)
    goal = urljoin(url, match[1]) if match else ""
    return goal if goal and origin(goal) == origin(url) else None
