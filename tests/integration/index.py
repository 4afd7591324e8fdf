"""An index of two Python packages: `ready`, a wheel, and `made`, whose wheel depends on where it is made.

Or of any others.
"""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# Without any requirement, so that no other index is asked.
BACKEND = f"""\
import os, sys, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name, place = "made-1.0-py3-none-any.whl", "made-1.0.dist-info"
    packages = "/run/kiln/packages"
    assert not os.path.isdir(packages) or len(os.listdir(packages)) == 1
    texts = {{
        "made.py": f"SEED = {{os.environ['SEED']!r}}\\n",
        f"{{place}}/METADATA": {METADATA.format(name="made")!r},
        f"{{place}}/WHEEL": {WHEEL!r},
    }}
    texts[f"{{place}}/RECORD"] = "".join(f"{{path}},,\\n" for path in (*texts, f"{{place}}/RECORD"))
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in texts.items():
            wheel.writestr(path, text)
    return name
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def wheel(name: str, version: str = "1.0", requires: Sequence[str] = ()) -> tuple[str, bytes]:
    """A wheel with one module, which has its version: the file's name, and its bytes."""
    module = name.replace("-", "_")
    stream, place = io.BytesIO(), f"{module}-{version}.dist-info"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in requires)]
    texts = {
        f"{module}.py": f"VALUE = {version!r}\n",
        f"{place}/METADATA": "\n".join(("Metadata-Version: 2.1", *lines, "")),
        f"{place}/WHEEL": WHEEL,
    }
    texts[f"{place}/RECORD"] = "".join(f"{path},,\n" for path in (*texts, f"{place}/RECORD"))
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in texts.items():
            archive.writestr(path, text)
    return f"{module}-{version}-py3-none-any.whl", stream.getvalue()


def _made() -> bytes:
    stream = io.BytesIO()
    texts = {"PKG-INFO": METADATA.format(name="made"), "pyproject.toml": PROJECT, "backend.py": BACKEND}
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(f"made-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


class Index:
    """Runs in a `with` block, with those two or with `wheels` by their file names.

    `asked` are the paths that were asked of it with GET, in order.
    """

    def __init__(self, wheels: Mapping[str, bytes] | None = None) -> None:
        self.asked: list[str] = []
        index = self
        files = wheels or {**dict([wheel("ready")]), "made-1.0.tar.gz": _made()}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def _answer(self, *, body: bool) -> None:
                name = self.path.strip("/").rpartition("/")[2]
                if self.path.startswith("/simple/"):
                    found = [file for file in files if file.startswith(f"{name.replace('-', '_')}-")]
                    text = "".join(f'<a href="/files/{file}">{file}</a>' for file in found)
                    data = f"<!DOCTYPE html><html><body>{text}</body></html>".encode()
                    kind, seconds = "text/html", 600
                else:
                    data, kind, seconds = files[name], "application/octet-stream", 365_000_000
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                # As PyPI answers.
                self.send_header("Cache-Control", f"max-age={seconds}, public")
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/simple"

    def __enter__(self) -> Index:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
