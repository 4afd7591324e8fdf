"""A server of packages: an index of Python's and a mirror of Debian's, whose files can go, change and be cut.

/simple/NAME/            pages of a simple index (PEP 503), with the files' sha256
/files/FILE              wheels and sources
/debian/Packages, ...    a flat mirror without a signature (sources.list(5)), its packages beside
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

WHEEL = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
PROJECT = '[build-system]\nrequires = {requires}\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = """\
import zipfile

TEXTS = {texts!r}

def build_wheel(folder, config_settings=None, metadata_directory=None):
    {check}
    with zipfile.ZipFile(folder + "/{wheel}", "w") as wheel:
        for path, text in TEXTS.items():
            wheel.writestr(path, text)
    return "{wheel}"
"""
EPOCH = (2026, 1, 1, 0, 0, 0)


class Packages:
    """Runs in a `with` block. `files` are bytes by path; `asked` the paths that were asked for, in order.

    With a `login` (USER:PASSWORD) it is wanted at every request. After `cut` bytes each answer ends; `sent`
    counts what came.
    """

    def __init__(self, login: str = "") -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut, self.sent = 0, 0
        self.login = "Basic " + base64.b64encode(login.encode()).decode() if login else ""
        self._debian: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"packages": self}))

    def answer(self, path: str) -> bytes | None:
        """What is at a path; None for nothing."""
        if path.startswith("/simple/"):
            return self._page(path.strip("/").rpartition("/")[2])
        if path in ("/debian/Packages", "/debian/./Packages"):
            return self._index()
        if path in ("/debian/Release", "/debian/./Release"):
            index = self._index()
            sums = f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
            return f"Suite: test\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n{sums}".encode()
        return self.files.get(path.replace("/./", "/"))

    def wheel(self, name: str, version: str, requires: Sequence[str] = ()) -> str:
        """Publish a wheel with one module; returns its path."""
        file = f"{name}-{version}-py3-none-any.whl"
        self.files[f"/files/{file}"] = _zip(_wheel_texts(name, version, requires))
        return f"/files/{file}"

    def source(self, name: str, version: str, requires: Sequence[str] = ()) -> str:
        """Publish a source, whose build needs the modules of `requires`; returns its path."""
        wheel = f"{name}-{version}-py3-none-any.whl"
        texts = _wheel_texts(name, version, ())
        check = "; ".join(f"import {re.split('[^a-z]', each)[0]}" for each in requires) or "pass"
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for path, text in {
                "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
                "pyproject.toml": PROJECT.format(requires=list(requires)),
                "backend.py": BACKEND.format(texts=texts, wheel=wheel, check=check),
            }.items():
                entry = tarfile.TarInfo(f"{name}-{version}/{path}")
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))
        self.files[f"/files/{name}-{version}.tar.gz"] = stream.getvalue()
        return f"/files/{name}-{version}.tar.gz"

    def deb(self, folder: Path, name: str, version: str, depends: str = "", text: str = "") -> str:
        """Publish a Debian package with the file /usr/share/NAME, in place of others; returns its path."""
        tree = folder / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "usr/share").mkdir(parents=True, exist_ok=True)
        (tree / f"usr/share/{name}").write_text(text or f"{name} {version}\n")
        fields = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "a test <t@x>"}
        fields |= {"Depends": depends} if depends else {}
        control = "".join(f"{key}: {value}\n" for key, value in fields.items()) + "Description: of a test\n"
        (tree / "DEBIAN/control").write_text(control)
        path = f"/debian/{name}_{version.partition(':')[2] or version}_all.deb"
        target = folder / path.rpartition("/")[2]
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", tree, target], check=True, capture_output=True
        )
        self.files[path] = target.read_bytes()
        self._debian[name] = control + f"Filename: .{path.removeprefix('/debian')}\n"
        return path

    def remove(self, path: str) -> None:
        """Take a file away, and what leads to it."""
        del self.files[path]
        for name, control in list(self._debian.items()):
            if path.removeprefix("/debian") in control:
                del self._debian[name]

    def change(self, path: str) -> None:
        """Put other bytes, as many, under the same name."""
        data = bytearray(self.files[path])
        data[len(data) // 2] ^= 0xFF
        self.files[path] = bytes(data)

    def _page(self, name: str) -> bytes | None:
        found = {
            path: hashlib.sha256(data).hexdigest()
            for path, data in self.files.items()
            if path.startswith(f"/files/{name.replace('-', '_')}-")
        }
        links = "".join(
            f'<a href="{path}#sha256={digest}">{path.rpartition("/")[2]}</a>\n'
            for path, digest in found.items()
        )
        return f"<!DOCTYPE html><html><body>{links}</body></html>".encode() if found else None

    def _index(self) -> bytes:
        texts = []
        for control in self._debian.values():
            data = self.files["/debian" + control.split("Filename: .")[1].strip()]
            texts.append(f"{control}Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n")
        return "\n".join(texts).encode()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def simple(self) -> str:
        return f"{self.url}/simple"

    @property
    def sources(self) -> bytes:
        """A sources.list with this mirror alone."""
        return f"deb [trusted=yes] {self.url}/debian ./\n".encode()

    def fetched(self) -> list[str]:
        """The packages that were asked for."""
        return [path for path in self.asked if path.endswith((".deb", ".whl", ".tar.gz"))]

    def __enter__(self) -> Packages:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    packages: Packages

    def do_GET(self) -> None:
        self.packages.asked.append(self.path)
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        data, login = self.packages.answer(self.path), self.packages.login
        if login and self.headers.get("Authorization") != login:
            self._refuse(401)
        elif data is None:
            self._refuse(404)
        else:
            self._send(data)

    def _refuse(self, code: int) -> None:
        self.send_response(code)
        if code == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="a test"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes) -> None:
        code, start, end = _part(self.headers.get("Range", ""), len(data))
        self.send_response(code)
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        html = self.path.startswith("/simple/")
        self.send_header("Content-Type", "text/html" if html else "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "GET":
            sent = data[start:end][: self.packages.cut or None]
            self.packages.sent += len(sent)
            self.wfile.write(sent)
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


def _part(asked: str, size: int) -> tuple[int, int, int]:
    """Status, first byte and the one after the last, for a Range header."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    if not match:
        return 200, 0, size
    return 206, int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)


def _wheel_texts(name: str, version: str, requires: Sequence[str]) -> dict[str, str]:
    place = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    texts = {
        f"{name}.py": f'VERSION = "{version}"\n',
        f"{place}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{place}/WHEEL": WHEEL,
    }
    texts[f"{place}/RECORD"] = "".join(f"{path},,\n" for path in (*texts, f"{place}/RECORD"))
    return texts


def _zip(texts: Mapping[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in texts.items():
            archive.writestr(zipfile.ZipInfo(path, EPOCH), text)
    return stream.getvalue()
