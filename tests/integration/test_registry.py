"""The client and the unpacker against a real registry: Debian's docker-registry, with token logins."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from kiln.errors import BaseError
from kiln.registry.client import Client, Network
from kiln.registry.credentials import Credentials, load
from kiln.registry.reference import Reference
from kiln.registry.unpack import Layer, failure, unpack
from tests.registry_fixture import (
    Registry,
    available,
    folder,
    hardlink,
    layer,
    member,
    push_image,
    push_index,
    start_registry,
    symlink,
)

pytestmark = pytest.mark.skipif(
    not available(), reason="NOT TESTED against a real registry: apt-get install docker-registry openssl"
)

ROOT = Path(__file__).resolve().parents[2]
USERS = {"$oauthtoken": "the-key"}
CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
ODD = ["ünï 日本", "two\nlines", "-rf", " space ", "n" * 255, "back\\slash", "$(x)"]
LOWER = layer(
    folder("usr"),
    folder("usr/bin"),
    member("usr/bin/su", b"root", mode=0o4755),
    member("usr/bin/ping", b"ping", mode=0o755, xattrs={"security.capability": CAPABILITY}),
    hardlink("usr/bin/ping4", "usr/bin/ping"),
    symlink("bin", "usr/bin"),
    folder("tmp", mode=0o1777),
    folder("odd"),
    *(member(f"odd/{name}", name.encode()) for name in ODD),
    folder("gone"),
    member("gone/file"),
    folder("opaque"),
    member("opaque/lower"),
    member("hidden"),
    member("big", os.urandom(3 << 20)),
)
UPPER = layer(
    member(".wh.gone"),
    member(".wh.hidden"),
    folder("opaque"),
    member("opaque/.wh..wh..opq"),
    member("opaque/upper"),
)
KINDS = [
    (oci, compression)
    for oci in (True, False)
    for compression in ("none", "gzip", "zstd")
    if oci or compression != "zstd"
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with start_registry(tmp_path_factory.mktemp("registry"), auth=True, users=USERS) as running:
        yield running


def login(tmp: Path, host: str, password: str) -> Credentials:
    path = tmp / ".credentials"
    path.write_text(f"machine {host} login $oauthtoken password {password}\n")
    path.chmod(0o600)
    return load(path, {"KEY": "the-key"})


def client(tmp: Path, said: list[str] | None = None, credentials: Credentials | None = None) -> Client:
    notify = (said if said is not None else list[str]()).append
    return Client(Network(), credentials or Credentials(tmp / "none"), notify=notify)


@pytest.mark.parametrize(("oci", "compression"), KINDS)
def test_every_kind_of_image_to_a_tree(
    registry: Registry, tmp_path: Path, oci: bool, compression: str
) -> None:
    name = f"public/{'oci' if oci else 'docker'}-{compression}"
    pushed = push_image(registry, name, "1.0", [LOWER, UPPER], {"Env": ["A=1"]}, oci, compression)
    one = client(tmp_path)
    resolved = one.resolve(Reference(registry.host, name, "1.0"), "amd64")
    assert (resolved.digest, resolved.media_type) == (pushed.digest, pushed.media_type)
    assert resolved.config["config"] == {"Env": ["A=1"]}
    blobs = one.pull(resolved, tmp_path / "blobs")
    (tmp_path / "root").mkdir()
    layers = [Layer(path, diff_id) for path, diff_id in zip(blobs, resolved.diff_ids, strict=True)]
    unpack(layers, tmp_path / "root")
    check(tmp_path / "root")


def check(root: Path) -> None:
    assert sorted(path.name for path in root.iterdir()) == ["big", "bin", "odd", "opaque", "tmp", "usr"]
    assert {path.name for path in (root / "opaque").iterdir()} == {"upper"}
    assert {path.name: path.read_bytes() for path in (root / "odd").iterdir()} == {n: n.encode() for n in ODD}
    assert stat.S_IMODE((root / "usr/bin/su").stat().st_mode) == 0o4755
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert (root / "usr/bin/ping").stat().st_ino == (root / "usr/bin/ping4").stat().st_ino
    assert os.readlink(root / "bin") == "usr/bin"


def test_the_child_in_a_user_namespace_keeps_capabilities(registry: Registry, tmp_path: Path) -> None:
    prefix = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("NOT TESTED: no user namespaces here")
    push_image(registry, "public/child", "1.0", [LOWER, UPPER])
    one = client(tmp_path)
    resolved = one.resolve(Reference(registry.host, "public/child", "1.0"), "amd64")
    root = tmp_path / "root"
    root.mkdir()
    argv = [*prefix, sys.executable, "-m", "kiln.registry.unpack", str(root)]
    for path, diff_id in zip(one.pull(resolved, tmp_path / "blobs"), resolved.diff_ids, strict=True):
        argv += [str(path), diff_id]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, failure(done.stdout.splitlines()[-1])
    check(root)
    look = "import os,sys; print(os.getxattr(sys.argv[1], 'security.capability').hex())"
    argv = [*prefix, sys.executable, "-c", look, str(root / "usr/bin/ping")]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == CAPABILITY.hex()


@pytest.mark.parametrize("oci", [True, False])
def test_a_manifest_list(registry: Registry, tmp_path: Path, oci: bool) -> None:
    name = f"public/list-{'oci' if oci else 'docker'}"
    arm = push_image(registry, name, "arm", [LOWER], oci=oci, architecture="arm64")
    amd = push_image(registry, name, "amd", [UPPER], oci=oci)
    index = push_index(registry, name, "1.0", {"linux/arm64/v8": arm, "linux/amd64": amd}, oci)
    one, reference = client(tmp_path), Reference(registry.host, name, "1.0")
    found = one.resolve(reference, "arm64")
    assert (found.index_digest, found.digest) == (index.digest, arm.digest)
    pinned = Reference(registry.host, name, None, index.digest)
    assert one.resolve(pinned, "amd64").digest == amd.digest
    with pytest.raises(BaseError, match="no image for linux/ppc64le") as caught:
        one.resolve(reference, "ppc64le")
    assert caught.value.hint == "there is: linux/amd64, linux/arm64/v8"


def test_a_private_image_needs_the_login(registry: Registry, tmp_path: Path) -> None:
    push_image(registry, "private/image", "1.0", [UPPER])
    reference = Reference(registry.host, "private/image", "1.0")
    with pytest.raises(BaseError, match="no leave to pull private/image: 401 Unauthorized: UNAUTHORIZED"):
        client(tmp_path).resolve(reference, "amd64")
    with_login = client(tmp_path, None, login(tmp_path, "127.0.0.1", "${KEY}"))
    assert with_login.pull(with_login.resolve(reference, "amd64"), tmp_path / "blobs")


def test_an_expired_login_does_not_break_public_pulls(registry: Registry, tmp_path: Path) -> None:
    push_image(registry, "public/open", "1.0", [UPPER])
    said: list[str] = []
    one = client(tmp_path, said, login(tmp_path, "127.0.0.1", "old-key"))
    assert one.resolve(Reference(registry.host, "public/open", "1.0"), "amd64")
    assert "UNAUTHORIZED: the key has expired" in said[0] and "old-key" not in said[0]


def test_tokens_that_end_between_requests(tmp_path: Path) -> None:
    with start_registry(tmp_path / "registry", auth=True, users=USERS) as running:
        push_image(running, "public/long", "1.0", [LOWER, UPPER])
        one, tokens = client(tmp_path), running.tokens
        assert tokens is not None
        tokens.lifetime = 3
        resolved = one.resolve(Reference(running.host, "public/long", "1.0"), "amd64")
        before = len(tokens.requests)
        tokens.lifetime = 300
        wait_for_refusal(f"{running.url}/v2/public/long/manifests/1.0", tokens.issued[-1])
        assert len(one.pull(resolved, tmp_path / "blobs")) == 2
        assert len(tokens.requests) == before + 1
        assert {authorization for _, authorization in tokens.requests} == {""}


def wait_for_refusal(url: str, token: str) -> None:
    """Until the registry, whose clock counts, takes a token for ended."""
    deadline = time.monotonic() + 60
    while requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).status_code != 401:
        assert time.monotonic() < deadline, "the token never ended"
        time.sleep(0.1)


def test_an_unknown_tag_digest_and_repository(registry: Registry, tmp_path: Path) -> None:
    push_image(registry, "public/tags", "25.04-py3", [UPPER])
    push_image(registry, "public/tags", "24.12-py3", [UPPER])
    one = client(tmp_path)
    with pytest.raises(BaseError, match="MANIFEST_UNKNOWN") as caught:
        one.resolve(Reference(registry.host, "public/tags", "25.4-py3"), "amd64")
    assert caught.value.hint == "near it are: 25.04-py3, 24.12-py3"
    assert one.tags(Reference(registry.host, "public/tags")) == ["24.12-py3", "25.04-py3"]
    with pytest.raises(BaseError, match="does not have"):
        one.resolve(Reference(registry.host, "public/tags", None, "sha256:" + "0" * 64), "amd64")
    with pytest.raises(BaseError) as caught:
        one.resolve(Reference(registry.host, "public/nothing", "1.0"), "amd64")
    assert "lists no tags of public/nothing either" in caught.value.hint


def test_a_mirror_stands_for_a_registry(registry: Registry, tmp_path: Path) -> None:
    push_image(registry, "public/nvidia/pytorch", "1.0", [UPPER])
    one = Client(Network(), Credentials(tmp_path / "none"), mirrors={"nvcr.io": f"{registry.url}/public"})
    found = one.resolve(Reference("nvcr.io", "nvidia/pytorch", "1.0"), "amd64")
    assert found.uri == f"docker://nvcr.io#nvidia/pytorch:{found.digest}"
    assert one.pull(found, tmp_path / "blobs")


def test_a_pull_that_was_cut_goes_on(registry: Registry, tmp_path: Path) -> None:
    push_image(registry, "public/cut", "1.0", [LOWER], compression="none")
    one = client(tmp_path)
    resolved = one.resolve(Reference(registry.host, "public/cut", "1.0"), "amd64")
    partial = tmp_path / "blobs/sha256" / f"{resolved.layers[0].hex}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(LOWER[: 1 << 20])
    steps: list[int] = []
    (path,) = one.pull(resolved, tmp_path / "blobs", progress=lambda done, total: steps.append(done))
    assert path.read_bytes() == LOWER and steps[-1] == len(LOWER)


def test_a_registry_that_is_down(tmp_path: Path) -> None:
    with start_registry(tmp_path / "registry") as running:
        push_image(running, "x", "1.0", [UPPER])
        host = running.host
        assert client(tmp_path).resolve(Reference(host, "x", "1.0"), "amd64")
    down = Client(Network(), Credentials(tmp_path / "none"), wait=lambda stop, seconds: False)
    with pytest.raises(BaseError, match=f"cannot reach {host}: Connection refused"):
        down.resolve(Reference(host, "x", "1.0"), "amd64")
