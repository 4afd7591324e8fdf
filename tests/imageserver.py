"""A web server of images, with ranges or without, that can cut a line."""

from __future__ import annotations

import functools
import http.server
from pathlib import Path


class Served(http.server.SimpleHTTPRequestHandler):
    """A folder as a plain web server has it; `ranges` and `cut` are of the server."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked.append((self.path, self.headers.get("Range", "")))
        if not self.path.endswith(".sqsh"):
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        begin = 0
        if server.ranges and self.headers.get("Range"):
            begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        body = data[begin:]
        if server.cut and len(server.asked) < server.cut:
            self.wfile.write(body[: len(body) // 3])
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


class Server(http.server.ThreadingHTTPServer):
    """Serves the folder `root`; cuts a file at a third until it was asked `cut` times, of anything."""

    ranges, cut = True, 0

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Served, directory=str(root)))
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"
