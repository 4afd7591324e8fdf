"""A real registry (Debian's docker-registry) with a token server beside it, and images to put there.

For tests of the client and of both runtimes. `layer` makes a layer's tar from members; `start_registry`
starts the registry for as long as a `with` block; `push_image` and `push_index` fill it.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PROGRAM = "docker-registry"
# The registry takes tokens for a minute after their end, against clocks that differ.
LEEWAY = 60
EPOCH = 1_700_000_000
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
DOCKER_LAYER = f"{DOCKER}.image.rootfs.diff.tar"


def available() -> bool:
    return shutil.which(PROGRAM) is not None and shutil.which("openssl") is not None


class Member(tarfile.TarInfo):
    """An entry with its data."""

    data = b""


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, **rest: Any) -> Member:
    """One entry of a layer. `rest`: mode, mtime, link, xattrs (name to bytes)."""
    info = Member(name)
    info.type, info.data, info.size = kind, data, len(data)
    info.mode = rest.get("mode", 0o755 if kind == tarfile.DIRTYPE else 0o644)
    info.mtime, info.linkname = rest.get("mtime", EPOCH), rest.get("link", "")
    records = {f"SCHILY.xattr.{key}": value for key, value in rest.get("xattrs", {}).items()}
    info.pax_headers = {key: value.decode("utf-8", "surrogateescape") for key, value in records.items()}
    return info


def folder(name: str, **rest: Any) -> Member:
    return member(name, kind=tarfile.DIRTYPE, **rest)


def symlink(name: str, link: str, **rest: Any) -> Member:
    return member(name, kind=tarfile.SYMTYPE, link=link, mode=0o777, **rest)


def hardlink(name: str, link: str) -> Member:
    return member(name, kind=tarfile.LNKTYPE, link=link)


def layer(*members: Member, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed layer."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format, errors="surrogateescape") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(info.data))
    return stream.getvalue()


def compressed(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    return zstd.compress(data) if compression == "zstd" else data


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class TokenServer:
    """Signs tokens, good for `lifetime` seconds. Anonymous ones may pull from `public/…`, `users` all."""

    folder: Path
    users: Mapping[str, str]
    lifetime: float = 300
    port: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)
    _jti: int = 0

    def make_key(self) -> Path:
        """A key and its certificate, which the registry trusts."""
        key, certificate = self.folder / "key.pem", self.folder / "cert.pem"
        subject = ["-subj", "/CN=kiln-test", "-days", "2"]
        options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(["openssl", "req", *options, *subject], check=True, capture_output=True)
        return certificate

    def token(self, repository: str, actions: Sequence[str]) -> str:
        now = int(time.time())
        self._jti += 1
        der = "".join(self.folder.joinpath("cert.pem").read_text().splitlines()[1:-1])
        header = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        claims = {
            "iss": "kiln-test",
            "sub": "",
            "aud": "kiln-registry",
            "exp": now + int(self.lifetime) - LEEWAY,
            "nbf": now - LEEWAY,
            "iat": now,
            "jti": str(self._jti),
            "access": [{"type": "repository", "name": repository, "actions": list(actions)}],
        }
        text = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        argv = ["openssl", "dgst", "-sha256", "-sign", str(self.folder / "key.pem")]
        signature = subprocess.run(argv, input=text.encode(), check=True, capture_output=True).stdout
        self.issued.append(f"{text}.{_base64url(signature)}")
        return self.issued[-1]

    def answer(self, query: str, authorization: str) -> tuple[int, dict[str, Any]]:
        self.requests.append((query, authorization))
        scope = urllib.parse.parse_qs(query).get("scope", [""])[0]
        repository = scope.split(":")[1] if scope.count(":") == 2 else ""
        if authorization:
            user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            if self.users.get(user) != password:
                return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "the key has expired"}]}
            return 200, {"token": self.token(repository, ["pull", "push"])}
        actions = ["pull"] if repository.startswith("public/") else []
        return 200, {"token": self.token(repository, actions), "expires_in": self.lifetime}


@dataclass
class Registry:
    """A running registry. `host` is what image names begin with."""

    host: str
    tokens: TokenServer | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def headers(self, repository: str) -> dict[str, str]:
        if self.tokens is None:
            return {}
        return {"Authorization": f"Bearer {self.tokens.token(repository, ['pull', 'push'])}"}


@dataclass(frozen=True)
class Pushed:
    """An image or index in a registry."""

    digest: str
    size: int
    media_type: str
    layers: tuple[str, ...] = ()
    config_digest: str = ""


@contextlib.contextmanager
def start_registry(
    tmp: Path, auth: bool = False, users: Mapping[str, str] | None = None
) -> Iterator[Registry]:
    """A registry below `tmp`. With `auth` it wants tokens."""
    tmp.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        tokens = TokenServer(tmp, users or {}) if auth else None
        port = _free_port()
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(tmp / "data")}},
            "http": {"addr": f"127.0.0.1:{port}", "secret": "kiln-test"},
        }
        if tokens is not None:
            config["auth"] = {"token": _token_section(tokens, stack)}
        (tmp / "config.json").write_text(json.dumps(config))
        log = stack.enter_context((tmp / "registry.log").open("wb"))
        argv = [PROGRAM, "serve", str(tmp / "config.json")]
        process = stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        )
        stack.callback(process.terminate)
        _wait_until_up(port, process, tmp / "registry.log")
        yield Registry(f"127.0.0.1:{port}", tokens)


def push_image(
    registry: Registry,
    name: str,
    tag: str,
    layers: Sequence[bytes],
    config: Mapping[str, Any] | None = None,
    oci: bool = True,
    compression: str = "gzip",
    architecture: str = "amd64",
) -> Pushed:
    """Push uncompressed `layers` (bytes of tar) as an image. `config`: Env, Cmd, … of the image."""
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [sha256(data) for data in layers]},
    }
    blobs = [compressed(data, compression) for data in layers]
    raw_config = json.dumps(document).encode()
    session = _session(registry, name)
    for blob in (*blobs, raw_config):
        _push_blob(session, registry, name, blob)
    body = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json" if oci else f"{DOCKER}.distribution.manifest.v2+json",
        "config": _descriptor(
            raw_config, f"{OCI}.config.v1+json" if oci else f"{DOCKER}.container.image.v1+json"
        ),
        "layers": [_descriptor(blob, _layer_type(oci, compression)) for blob in blobs],
    }
    digests = tuple(sha256(blob) for blob in blobs)
    return _push_manifest(session, registry, f"{name}/manifests/{tag}", body, digests, sha256(raw_config))


def push_index(
    registry: Registry, name: str, tag: str, images: Mapping[str, Pushed], oci: bool = True
) -> Pushed:
    """Push an index of images by platform (`linux/arm64/v8`) that are in the repository already."""
    entries = []
    for platform, image in images.items():
        system, architecture, *variant = platform.split("/")
        entry = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        described = {"mediaType": image.media_type, "digest": image.digest, "size": image.size}
        entries.append({**described, "platform": entry})
    media_type = f"{OCI}.index.v1+json" if oci else f"{DOCKER}.distribution.manifest.list.v2+json"
    body = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return _push_manifest(_session(registry, name), registry, f"{name}/manifests/{tag}", body, (), "")


def _push_manifest(
    session: requests.Session,
    registry: Registry,
    path: str,
    body: Mapping[str, Any],
    layers: tuple[str, ...],
    config_digest: str,
) -> Pushed:
    data, media_type = json.dumps(body).encode(), str(body["mediaType"])
    url = f"{registry.url}/v2/{path}"
    done = session.put(url, data=data, headers={"Content-Type": media_type}, timeout=30)
    assert done.status_code == 201, done.text
    return Pushed(sha256(data), len(data), media_type, layers, config_digest)


def _push_blob(session: requests.Session, registry: Registry, name: str, data: bytes) -> None:
    started = session.post(f"{registry.url}/v2/{name}/blobs/uploads/", timeout=30)
    assert started.status_code == 202, started.text
    url = urllib.parse.urljoin(registry.url, started.headers["Location"])
    done = session.put(url, params={"digest": sha256(data)}, data=data, timeout=60)
    assert done.status_code == 201, done.text


def _session(registry: Registry, name: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers.update(registry.headers(name))
    return session


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def _layer_type(oci: bool, compression: str) -> str:
    if oci:
        return f"{OCI}.layer.v1.tar{'' if compression == 'none' else f'+{compression}'}"
    return DOCKER_LAYER if compression == "none" else f"{DOCKER_LAYER}.{compression}"


def _token_section(tokens: TokenServer, stack: contextlib.ExitStack) -> dict[str, str]:
    certificate = tokens.make_key()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = urllib.parse.urlsplit(self.path).query
            status, body = tokens.answer(query, self.headers.get("Authorization", ""))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    tokens.port = server.server_address[1]
    return {
        "realm": f"http://127.0.0.1:{tokens.port}/token",
        "service": "kiln-registry",
        "issuer": "kiln-test",
        "rootcertbundle": str(certificate),
    }


def _wait_until_up(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"{PROGRAM} did not start: {log.read_text(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
