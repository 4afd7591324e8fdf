"""A mirror of packages that answers Kiln's question for a suite and then lets apt wait for ever."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

RELEASE = b"Origin: a test\nSuite: stuck\nDate: Sat, 01 Nov 2025 10:00:00 UTC\n"
WAIT_SECONDS = 120


class Mirror:
    """Runs in a `with` block. `asked` is set once apt waits for its answer."""

    def __init__(self) -> None:
        self.asked, self._over = threading.Event(), threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if "APT" in self.headers.get("User-Agent", ""):
                    mirror.asked.set()
                    mirror._over.wait()
                elif "-" in self.path.rpartition("/dists/")[2]:
                    self.send_error(404)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(RELEASE)))
                    self.end_headers()
                    self.wfile.write(RELEASE)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/debian"

    def until_asked(self) -> None:
        assert self.asked.wait(WAIT_SECONDS), "apt never asked the mirror"

    def __enter__(self) -> Mirror:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
