"""Leave to pull: bearer tokens and basic logins, got, renewed and, where they are refused, done without.

Owns the state of each repository's grant. Sends a login to the token realm or to the registry
alone, over https (or to a plain-http registry that the site or localhost stands for).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event, Lock
from urllib.parse import quote, urlencode, urljoin, urlsplit

from kiln.errors import BaseError
from kiln.registry.credentials import Credentials, Login
from kiln.registry.transport import Answer, Transport, host_of, shown

TOKEN_LIMIT = 1 << 20
_CHALLENGE = re.compile(r"^\s*(\w+)\s+(.*)$", re.DOTALL)
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True)
class Challenge:
    """What a registry answers to a request without leave."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


@dataclass
class Grant:
    """The leave to pull from one repository, as it stands."""

    challenge: Challenge | None = None
    header: str = ""
    accepted: bool = False
    login: Login | None = None
    started: bool = False
    login_refused: bool = False
    refused: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)


def parse_challenge(header: str) -> Challenge | None:
    """The Bearer challenge of a WWW-Authenticate header, else the Basic one."""
    found: dict[str, Challenge] = {}
    for part in re.split(r",\s*(?=\w+\s+\w+\s*=)", header):
        match = _CHALLENGE.match(part)
        if match:
            values = {m[1].lower(): m[2] or m[3] or "" for m in _PARAMETER.finditer(match[2])}
            known = {key: values.get(key, "") for key in ("realm", "service", "scope")}
            found.setdefault(match[1].lower(), Challenge(match[1].lower(), **known))
    return found.get("bearer") or found.get("basic")


class Authorizer:
    """Grants by registry and repository; one for all threads."""

    def __init__(self, transport: Transport, credentials: Credentials, notify: Callable[[str], None]) -> None:
        self._transport, self._credentials, self._notify = transport, credentials, notify
        self.credentials_path = credentials.path
        self._grants: dict[tuple[str, str], Grant] = {}
        self._lock = Lock()
        for login in credentials.logins.values():
            transport.hide(login.password.reveal())
            transport.hide(_basic(login).removeprefix("Basic "))

    def grant(self, base: str, repository: str) -> Grant:
        with self._lock:
            return self._grants.setdefault((base, repository), Grant())

    def renew(self, base: str, repository: str, used: str, header: str, stop: Event) -> bool:
        """After a 401 to the header `used`: whether there is another one to try now.

        The first realm is kept: nvcr.io names another one to an expired token, which then refuses
        anonymous renewal. Nor does the request for a token carry the old one.
        """
        grant = self.grant(base, repository)
        with grant.lock:
            if grant.header != used:
                return True
            challenge = grant.challenge or parse_challenge(header)
            if challenge is None:
                raise BaseError(f"{host_of(base)} wants a login and doesn't say how", "is it a registry?")
            grant.challenge = challenge
            if not self._next_identity(grant, challenge, base):
                return False
            return self._obtain(grant, challenge, base, f"repository:{repository}:pull", stop)

    def _next_identity(self, grant: Grant, challenge: Challenge, base: str) -> bool:
        """Stay who we are if that was good before; else begin with the login, and then go on without."""
        if not grant.started:
            hosts = filter(None, (host_of(base), host_of(challenge.realm)))
            grant.login, grant.started = self._credentials.find(*hosts), True
            return True
        if grant.accepted:
            grant.accepted = False
            return True
        return self._go_anonymous(grant, base, "the registry did not accept it")

    def _go_anonymous(self, grant: Grant, base: str, said: str) -> bool:
        if grant.login is None:
            grant.refused.append(said)
            return False
        place = grant.login.place
        self._notify(f"{host_of(base)} refused the login in {place} ({said}): expired? Going on without it")
        grant.refused.append(f"the login in {place} was refused ({said})")
        grant.login, grant.login_refused = None, True
        return True

    def _obtain(self, grant: Grant, challenge: Challenge, base: str, scope: str, stop: Event) -> bool:
        if challenge.scheme == "basic":
            grant.header = _basic(grant.login) if grant.login else ""
            return grant.login is not None
        while True:
            answer = self._ask(challenge, grant.login, base, scope, stop)
            if answer.status == 200:
                grant.header = f"Bearer {self._token(answer)}"
                return True
            if not self._go_anonymous(grant, base, self._transport.said(answer.status, answer.body)):
                return False

    def _ask(self, challenge: Challenge, login: Login | None, base: str, scope: str, stop: Event) -> Answer:
        realm = urljoin(base, challenge.realm)
        if urlsplit(base).scheme == "https" and urlsplit(realm).scheme != "https":
            message = f"{host_of(base)} sends logins to {shown(realm)}, which is not https"
            raise BaseError(message, "ask its operators")
        query = {"service": challenge.service, "scope": challenge.scope or scope}
        asked = urlencode({key: value for key, value in query.items() if value}, quote_via=quote)
        headers = {"Authorization": _basic(login)} if login else {}
        url = f"{realm}{'&' if '?' in realm else '?'}{asked}"
        return self._transport.read(url, headers, stop, TOKEN_LIMIT)

    def _token(self, answer: Answer) -> str:
        try:
            body: Mapping[str, object] = json.loads(answer.body)
            token = body.get("token") or body.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise BaseError(f"{shown(answer.url)} gave no token", "a proxy or login page may have answered")
        self._transport.hide(token)
        return token


def _basic(login: Login) -> str:
    pair = f"{login.user}:{login.password.reveal()}".encode("utf-8", "surrogateescape")
    return f"Basic {base64.b64encode(pair).decode()}"
