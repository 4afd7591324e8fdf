"""What stands between a client and a registry, and goes away after so many requests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

TIMEOUT_SECONDS = 60
PASSED = ("Accept", "Range")
RETURNED = ("Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest", "Link")


class Relay:
    """Up in a `with` block. It hangs up on a request beyond the `allowed` ones, and then listens no more."""

    def __init__(self, target: str) -> None:
        self._target, self._lock = target, threading.Lock()
        self.allowed: int | None = None
        self.requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"relay": self}))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        yield self
        self._stop()

    def take(self) -> bool:
        """Count a request; whether it is answered."""
        with self._lock:
            self.requests += 1
            gone = self.allowed is not None and self.requests > self.allowed
        if gone:
            self._stop()
        return not gone

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.socket.close()

    def ask(self, method: str, path: str, headers: dict[str, str]) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            url = f"http://{self._target}{path}"
            return session.request(method, url, headers=headers, timeout=TIMEOUT_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    relay: Relay
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits for the acknowledgement of its headers.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if not self.relay.take():
            self.close_connection = True
            return
        asked = {name: self.headers[name] for name in PASSED if name in self.headers}
        answer = self.relay.ask(self.command, self.path, asked)
        self.send_response(answer.status_code)
        for name in RETURNED:
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.end_headers()
        self.wfile.write(answer.content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None: ...
