"""One HTTP request to a registry, made to arrive: proxies, redirects, time limits, patience.

Owns what may be tried again and what is said about it. Knows nothing of logins or images; it only
makes sure that an Authorization header goes to the host that it was meant for, and that nothing
hidden with `hide` gets into a message.
"""

from __future__ import annotations

import contextlib
import email.utils
import http
import http.cookiejar
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from kiln.errors import BaseError
from kiln.registry.proxy import choose_proxy, without_login

TRIES = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
# A server may name any time; beyond this it is better to fail and let the person decide.
LONGEST_RETRY_AFTER = 300.0
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
# Pieces of 8 KiB cost eight times the processor time of these.
PIECE = 1 << 20
SHORT_BODY = 1 << 14
MESSAGE_LIMIT = 300

Notify = Callable[[str], None]
Wait = Callable[[Event, float], bool]
"""Waits so many seconds, or less if the event is set; true then."""


def silent(text: str) -> None:
    """Tell nobody."""


class Stopped(Exception):
    """The work was cancelled. Never leaves `kiln.registry`."""


class Cut(Exception):
    """A connection ended in the middle of an answer."""


class Unreachable(BaseError):
    """No answer at all, after all tries."""


@dataclass(frozen=True)
class Network:
    """How this site reaches the outside. `proxies`: http, https, no_proxy."""

    proxies: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: Path | None = None
    user_agent: str = "kiln"
    connect_seconds: float = 15.0
    read_seconds: float = 60.0
    tries: int = TRIES


@dataclass(frozen=True)
class Answer:
    """A small answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class Transport:
    """Requests over one pool of connections; safe to use from several threads."""

    def __init__(
        self, network: Network, notify: Notify, wait: Wait = Event.wait, connections: int = 16
    ) -> None:
        self._network, self._notify, self._wait = network, notify, wait
        self.notify = notify
        self._hidden: set[str] = set()
        self._session = requests.Session()
        # Otherwise requests takes logins from ~/.netrc and proxies from the environment.
        self._session.trust_env = False
        self._session.headers["User-Agent"] = network.user_agent
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        adapter = HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def hide(self, text: str) -> None:
        """Keep `text` out of every message from now on."""
        if text:
            self._hidden.add(text)

    def read(self, url: str, headers: Mapping[str, str], stop: Event, limit: int) -> Answer:
        """GET a small document; an answer that is cut is asked for again."""
        for attempt in range(1, self._network.tries + 1):
            with self.open(url, headers, stop) as response:
                try:
                    body = b"".join(bounded(response, limit, stop))
                except Cut as error:
                    self.pause(attempt, None, f"{host_of(url)}: {error}", stop)
                    continue
                return Answer(response.status_code, response.headers, body, response.url)
        raise self.unreachable(url, "the connection was cut each time")

    @contextlib.contextmanager
    def open(
        self, url: str, headers: Mapping[str, str], stop: Event, method: str = "GET"
    ) -> Iterator[requests.Response]:
        """Ask for `url`; yields any answer that isn't worth trying again, its body unread."""
        attempt = 0
        while True:
            attempt += 1
            response, trouble, delay = self._attempt(url, headers, method)
            if response is not None and not trouble:
                break
            if attempt >= self._network.tries:
                raise self._given_up(url, response, trouble)
            self.pause(attempt, delay, f"{host_of(url)}: {trouble}", stop)
        try:
            yield response
        finally:
            leave(response)

    def _attempt(
        self, url: str, headers: Mapping[str, str], method: str
    ) -> tuple[requests.Response | None, str, float | None]:
        try:
            response = self._follow(url, headers, method)
        except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
            raise self._untrusted(url, error) from None
        except requests.RequestException as error:
            return None, reason(error), None
        if response.status_code not in RETRIED:
            return response, "", None
        delay = retry_after(response.headers.get("Retry-After", ""), time.time())
        with response:
            said = self.said(response.status_code, b"".join(quietly(response)))
        if delay is not None and delay > LONGEST_RETRY_AFTER:
            raise self._given_up(url, response, f"{said}; it asks to wait {delay:.0f} s")
        return response, said, delay

    def _follow(self, url: str, headers: Mapping[str, str], method: str) -> requests.Response:
        sent = dict(headers)
        for _ in range(MAX_REDIRECTS):
            response = self._ask(url, sent, method)
            target = response.headers.get("Location", "")
            if response.status_code not in REDIRECTS or not target:
                return response
            leave(response)
            goal = urljoin(url, target)
            if urlsplit(url).scheme == "https" and urlsplit(goal).scheme != "https":
                message = f"{host_of(url)} redirects to {shown(goal)}, which is not https"
                raise BaseError(message, "ask its operators")
            if origin(goal) != origin(url):
                # The storage behind a registry must not see its tokens, and refuses requests with one.
                sent.pop("Authorization", None)
            url = goal
        raise BaseError(f"{host_of(url)} redirects without end", "ask its operators")

    def _ask(self, url: str, headers: Mapping[str, str], method: str) -> requests.Response:
        proxy = choose_proxy(url, self._network.proxies)
        return self._session.request(
            method,
            url,
            headers=headers,
            allow_redirects=False,
            stream=True,
            proxies={"http": proxy, "https": proxy} if proxy else {},
            timeout=(self._network.connect_seconds, self._network.read_seconds),
            verify=str(self._network.ca_bundle) if self._network.ca_bundle else True,
        )

    def pause(self, attempt: int, delay: float | None, trouble: str, stop: Event) -> None:
        """Wait before the next try, longer each time, and say why. Raises `Stopped`."""
        if delay is None:
            delay = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.8, 1.2)  # noqa: S311
        self._notify(f"{trouble}; trying again in {delay:.0f} s ({attempt} of {self._network.tries - 1})")
        if self._wait(stop, delay):
            raise Stopped

    def said(self, status: int, body: bytes) -> str:
        """What a server said, for a message: its own words, short, in one line, without secrets."""
        text = server_words(body)
        for secret in self._hidden:
            text = text.replace(secret, "***")
        name = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else ""
        return f"{status} {name}".strip() + (f": {text}" if text else "")

    def unreachable(self, url: str, trouble: str) -> Unreachable:
        return Unreachable(
            f"cannot reach {host_of(url)}{self._way(url)}: {trouble}",
            f"check the network and the site's proxy: curl -sSI {urlsplit(url).scheme}://{host_of(url)}/v2/",
        )

    def _given_up(self, url: str, response: requests.Response | None, trouble: str) -> BaseError:
        if response is None:
            return self.unreachable(url, trouble)
        if response.status_code == 429:
            hint = "run it again in some minutes (what is downloaded is kept); a login raises most limits"
            return BaseError(f"{host_of(url)} takes no more requests for now: {trouble}", hint)
        return BaseError(
            f"{host_of(url)} fails{self._way(url)}: {trouble}",
            "its own fault, or the proxy's: run it again later; what is downloaded is kept",
        )

    def _untrusted(self, url: str, error: Exception) -> BaseError:
        bundle = self._network.ca_bundle or "the built-in list"
        return BaseError(
            f"no trusted connection to {host_of(url)}{self._way(url)}: {reason(error)} (CA: {bundle})",
            "behind an intercepting proxy, the site's CA bundle must hold the proxy's certificate",
        )

    def _way(self, url: str) -> str:
        proxy = choose_proxy(url, self._network.proxies)
        return f" through the proxy {without_login(proxy)}" if proxy else ""


def bounded(
    response: requests.Response, limit: int | None, stop: Event, piece: int = PIECE
) -> Iterator[bytes]:
    """The body in pieces; `Cut` where it ends early, `BaseError` where it passes `limit`."""
    done = 0
    try:
        for chunk in response.iter_content(piece):
            if stop.is_set():
                raise Stopped
            done += len(chunk)
            if limit is not None and done > limit:
                raise BaseError(f"{shown(response.url)}: more than {limit} bytes", "is it a registry?")
            yield chunk
    except requests.RequestException as error:
        raise Cut(reason(error)) from None


def leave(response: requests.Response) -> None:
    """Be done with an answer. A body read to its end leaves its connection to the next request."""
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) <= SHORT_BODY:
        response.raw.drain_conn()
    response.close()


def quietly(response: requests.Response) -> Iterator[bytes]:
    """The beginning of an error's body, as far as it comes."""
    with contextlib.suppress(requests.RequestException):
        yield next(response.iter_content(1 << 14), b"")


def server_words(body: bytes) -> str:
    """The text of a registry's error document, or of whatever else came."""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, AttributeError, TypeError, LookupError, RecursionError):
        first = json.loads(text)["errors"][0]
        text = ": ".join(str(first[key]) for key in ("code", "message") if first.get(key))
    if text.lstrip()[:1] in ("<", "{"):
        return ""
    printable = re.sub(r"[^\x21-\x7e\u00a0-\uffff]+", " ", text).strip()
    return printable[:MESSAGE_LIMIT]


def reason(error: BaseException) -> str:
    """Why a connection failed, in the words of its innermost cause: the outer ones hold whole URLs."""
    if isinstance(error, requests.ConnectTimeout):
        return "no connection within the time limit"
    if isinstance(error, requests.ReadTimeout) or "Read timed out" in str(error):
        return "no data within the time limit"
    seen: BaseException = error
    for _ in range(10):
        inner = seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)
        if inner is None and seen.args and isinstance(seen.args[-1], BaseException):
            inner = seen.args[-1]
        if not isinstance(inner, BaseException):
            break
        seen = inner
    words = getattr(seen, "verify_message", None) or getattr(seen, "strerror", None)
    if not words:
        cut = "IncompleteRead" in repr(seen)
        words = "the connection was cut" if cut else str(seen) or type(seen).__name__
    return re.sub(r"\s+", " ", re.sub(r"//[^/@\s]*@", "//", str(words)))[:MESSAGE_LIMIT]


def retry_after(value: str, now: float) -> float | None:
    """Seconds to wait, from either form of the header."""
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    return None


def host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def origin(url: str) -> tuple[str, str]:
    return urlsplit(url).scheme, host_of(url)


def shown(url: str) -> str:
    """A URL without its login and its query, which may hold a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{host_of(url)}{parts.path}"
