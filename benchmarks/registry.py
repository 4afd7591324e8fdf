"""A registry of the benchmark's own: Debian's docker-registry on a folder, and images put there from layers.

The folder is the registry's whole state, so that images made once are there the next time.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import requests

from kiln import files
from kiln.errors import EnvironmentMissing

PROGRAM = "docker-registry"
START_SECONDS, TRANSFER_SECONDS = 20.0, 600.0
# enroot 3 and 4.0 ask for nothing newer.
DOCKER = "application/vnd.docker"
MANIFEST = f"{DOCKER}.distribution.manifest.v2+json"
CONFIG = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]}


@dataclass(frozen=True)
class Registry:
    """A running registry. `host` is what image names begin with: 127.0.0.1:PORT."""

    host: str
    session: requests.Session

    def tags(self, name: str) -> list[str]:
        answer = self.session.get(self._url(name, "tags/list"), timeout=TRANSFER_SECONDS)
        return list(answer.json().get("tags") or []) if answer.ok else []

    def push(self, name: str, tag: str, layers: Sequence[Path]) -> None:
        """Put an image there whose layers are these gzip files, the lowest first."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = {
            "created": now,
            "architecture": "amd64",
            "os": "linux",
            "config": CONFIG,
            "rootfs": {"type": "layers", "diff_ids": [_diff_id(path) for path in layers]},
            # enroot's first question names no format; the registry answers in its oldest, made from this.
            "history": [{"created": now, "created_by": path.name} for path in layers],
        }
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._push_bytes(name, json.dumps(config).encode()),
            "layers": [self._push_layer(name, path) for path in layers],
        }
        self._put_manifest(name, tag, json.dumps(body).encode())

    def layers(self, name: str, tag: str) -> list[tuple[str, int]]:
        """The layers of an image, the lowest first: hex digests and bytes."""
        described = json.loads(self._manifest(name, tag))["layers"]
        return [(layer["digest"].removeprefix("sha256:"), layer["size"]) for layer in described]

    def point(self, name: str, tag: str, other: str) -> None:
        """Move `tag` to the image that the tag `other` names."""
        self._put_manifest(name, tag, self._manifest(name, other))

    def _manifest(self, name: str, tag: str) -> bytes:
        url = self._url(name, f"manifests/{tag}")
        answer = self.session.get(url, headers={"Accept": MANIFEST}, timeout=TRANSFER_SECONDS)
        answer.raise_for_status()
        return answer.content

    def _put_manifest(self, name: str, tag: str, body: bytes) -> None:
        headers = {"Content-Type": MANIFEST}
        url = self._url(name, f"manifests/{tag}")
        self.session.put(url, data=body, headers=headers, timeout=TRANSFER_SECONDS).raise_for_status()

    def _push_layer(self, name: str, path: Path) -> dict[str, Any]:
        digest = f"sha256:{files.sha256_file(path)}"
        with path.open("rb") as stream:
            self._upload(name, digest, stream)
        media_type = f"{DOCKER}.image.rootfs.diff.tar.gzip"
        return {"mediaType": media_type, "digest": digest, "size": path.stat().st_size}

    def _push_bytes(self, name: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._upload(name, digest, data)
        return {"mediaType": f"{DOCKER}.container.image.v1+json", "digest": digest, "size": len(data)}

    def _upload(self, name: str, digest: str, data: Any) -> None:
        started = self.session.post(self._url(name, "blobs/uploads/"), timeout=TRANSFER_SECONDS)
        started.raise_for_status()
        url = urllib.parse.urljoin(started.url, started.headers["Location"])
        done = self.session.put(url, params={"digest": digest}, data=data, timeout=TRANSFER_SECONDS)
        done.raise_for_status()

    def _url(self, name: str, rest: str) -> str:
        return f"http://{self.host}/v2/{name}/{rest}"


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Registry]:
    """A registry on `folder`, for as long as the block runs; it dies with this process, come what may."""
    if shutil.which(PROGRAM) is None:
        raise EnvironmentMissing(f"'{PROGRAM}' is not installed; the base is pulled from it", _hint())
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "kiln-bench"},
    }
    described = folder / "config.json"
    described.write_text(json.dumps(config))
    argv = ["setpriv", "--pdeathsig", "KILL", "--", PROGRAM, "serve", str(described)]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_up(port, process)
        with requests.Session() as session:
            session.trust_env = False  # a proxy has no way to this machine's own address
            yield Registry(f"127.0.0.1:{port}", session)
    finally:
        process.kill()
        process.wait()


def _hint() -> str:
    return f"run: apt-get install {PROGRAM}"


def _wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise EnvironmentMissing(f"'{PROGRAM}' did not start on port {port}", _hint())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _diff_id(path: Path) -> str:
    digest = hashlib.sha256()
    with gzip.open(path) as stream:
        while data := stream.read(1 << 20):
            digest.update(data)
    return f"sha256:{digest.hexdigest()}"
