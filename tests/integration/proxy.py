"""An HTTP proxy that wants a password, for CONNECT and for plain requests.

It goes on through the caller's own proxy where there is one. At each request it looks at the command
lines of all processes, since that is when pip, uv and apt are at work.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import select
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import proxy_bypass

from tests.integration.processes import command_lines

CHUNK = 1 << 16
TIMEOUT_SECONDS = 120
HOP = ("connection", "proxy-connection", "proxy-authorization", "keep-alive", "te", "transfer-encoding")


class Proxy:
    """What was asked of it, as `METHOD TARGET`, and every command line that was seen meanwhile."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.command_lines: set[str] = set()
        self.expected = "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._user}:{self._password}@127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, format: str, *args: object) -> None: ...

    def _admitted(self) -> bool:
        self.proxy.command_lines.update(command_lines())
        asked = f"{self.command} {self.path}"
        if self.headers.get("Proxy-Authorization") == self.proxy.expected:
            self.proxy.requests.append(asked)
            return True
        self.proxy.refused.append(asked)
        self.send_response(407)
        self.send_header("Proxy-Authenticate", 'Basic realm="a test"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def do_CONNECT(self) -> None:
        if not self._admitted():
            return
        host, _, port = self.path.rpartition(":")
        upstream = _upstream("https", host)
        if upstream:
            connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port or 80)
            connection.set_tunnel(host, int(port), _login(upstream))
            connection.connect()
            far: socket.socket = connection.sock
        else:
            far = socket.create_connection((host, int(port)), TIMEOUT_SECONDS)
        self.send_response(200)
        self.end_headers()
        with far:
            _relay(self.connection, far)
        self.close_connection = True

    def do_GET(self) -> None:
        if not self._admitted():
            return
        url = urlsplit(self.path)
        upstream = _upstream("http", url.hostname or "")
        place, target = (
            (upstream, self.path) if upstream else (url, url._replace(scheme="", netloc="").geturl())
        )
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        headers.update(_login(upstream) if upstream else {})
        connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            connection.request(self.command, target, headers=headers)
            self._answer(connection.getresponse())

    do_HEAD = do_GET

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        if answer.length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while chunk := answer.read(CHUNK):
            self.wfile.write(chunk)


def _upstream(scheme: str, host: str) -> SplitResult | None:
    """The caller's own proxy for a host."""
    named = next(
        filter(None, (os.environ.get(name) for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"))), ""
    )
    return urlsplit(named) if named and not proxy_bypass(host) else None


def _login(url: SplitResult) -> dict[str, str]:
    if url.username is None:
        return {}
    login = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def _relay(near: socket.socket, far: socket.socket) -> None:
    other = {near: far, far: near}
    with contextlib.suppress(OSError):
        while True:
            ready, _, _ = select.select(list(other), [], [], TIMEOUT_SECONDS)
            if not ready:
                return
            for side in ready:
                data = side.recv(CHUNK)
                if not data:
                    return
                other[side].sendall(data)
