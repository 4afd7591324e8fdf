"""Bases from a real registry: unpacked by Kiln, by enroot's stand-in, and by enroot where it is."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kiln.base import parse_base
from kiln.bases import Found, Maker
from kiln.errors import BaseError
from kiln.files import remove_tree
from kiln.registry.client import Client, Network, Resolved
from kiln.registry.credentials import Credentials
from kiln.registry.credentials import load as load_credentials
from kiln.registry.reference import Reference
from kiln.runtime.contract import Output, Progress
from kiln.runtime.embedded import Embedded
from kiln.runtime.enroot import Enroot
from kiln.runtime.enrootcall import Places
from tests import registry_fixture
from tests.conformance.conftest import OPTIONS, STANDIN, real_enroot
from tests.conformance.test_standin import Side
from tests.conftest import NO_ENROOT
from tests.registry_fixture import Registry, folder, layer, member, push_image, push_index, symlink

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
CONFIG = {
    "Env": ["PATH=/usr/bin:/bin", "A=b c"], "Entrypoint": ["/bin/sh", "-c", "it's"], "Cmd": ["x y"],
    "WorkingDir": "/work dir", "Labels": {"a": "one\ntwo"}, "Volumes": {"/vol": {}},
}  # fmt: skip
CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
pytestmark = pytest.mark.skipif(not registry_fixture.available(), reason="no docker-registry here")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_fixture.start_registry(
        tmp_path_factory.mktemp("registry"), auth=True, users={"me": "right"}
    ) as made:
        for name in ("public/img", "private/img"):
            first = layer(
                folder("etc"), folder("gone"), member("gone/file", b"x"), folder("opaque"),
                member("opaque/old", b"x"),
                member("setuid", b"s", mode=0o4755), member("plain", b"first"), symlink("link", "plain"),
                member("an odd name", b"o"), folder("dev"), member("dev/made", b"x"),
                member("closed", b"c", mode=0o000),
                member("capable", b"c", mode=0o755, xattrs={"security.capability": CAPABILITY}),
            )  # fmt: skip
            second = layer(
                member(".wh.gone", b""), member("plain", b"second"), folder("opaque"),
                member("opaque/.wh..wh..opq", b""), member("opaque/new", b"n"),
            )  # fmt: skip
            image = push_image(
                made, name, "plain", [first, second], CONFIG, oci=False, architecture=ARCHITECTURE
            )
            push_index(made, name, "1", {f"linux/{ARCHITECTURE}": image}, oci=False)
        yield made


def resolve(registry: Registry, repository: str, tag: str = "1") -> Resolved:
    """As the client sees it; a private one is asked for with a login."""
    logins = Credentials(Path("/none"))
    reference = Reference(registry.host, repository, tag)
    public = Client(Network({}, None, "test"), logins).resolve(
        dataclasses.replace(reference, repository="public/img"), platform.machine()
    )
    uri = public.uri.replace("public/img", repository)
    return dataclasses.replace(public, reference=reference, uri=uri)


class Puller:
    """One runtime in a folder of its own. `login` is enroot's; Kiln's client has the right one."""

    def __init__(self, kind: str, work: Path, login: str = "") -> None:
        for name in ("config", "good"):
            (work / name).mkdir()
            text = f"machine 127.0.0.1 {login if name == 'config' else 'login me password right'}\n"
            (work / name / ".credentials").write_text(text if login or name == "good" else "")
            (work / name / ".credentials").chmod(0o600)
        for name in ("containers", "private"):
            (work / name).mkdir()
        self.said: list[str] = []
        self.output, self.work = Output(on_line=self.said.append), work
        self.environ = {**os.environ, "ENROOT_CONFIG_PATH": str(work / "config")}
        self.client = Client(Network({}, None, "test"), load_credentials(work / "good/.credentials", {}))
        self.runtime: Embedded | Enroot
        if kind == "embedded":
            self.runtime = Embedded(work / "containers", work / "scratch", self.environ, OPTIONS)
            return
        real = real_enroot()
        folder = STANDIN if kind == "standin" or real is None else real.parent
        self.environ["PATH"] = f"{folder}:{self.environ['PATH']}"
        places = Places(work / "containers", work / "private", work / "scratch", work / "cache")
        self.runtime = Enroot(places, self.environ, options=OPTIONS)

    def pull(self, resolved: Resolved, unpack: str = "enroot") -> dict[str, tuple[str, str]]:
        """Pull into a container; its tree, path to mode and contents."""
        base = parse_base(f"{resolved.reference.registry}/x:1" if resolved.reference else "")
        found = Found(base, base.label, resolved.pinned, resolved.digest, 0, 0, 0, resolved=resolved)
        blobs = self.work / "blobs"
        maker = Maker(self.runtime, self.client, blobs, unpack, self.environ, self.output, ignored)
        maker.make(found, "base")
        return self.tree()

    def tree(self) -> dict[str, tuple[str, str]]:
        tree, found = self.runtime.rootfs("base"), {}
        for path in tree.rglob("*"):
            text = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
            found[str(path.relative_to(tree))] = (oct(path.lstat().st_mode), text)
        return found


def ignored(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    remove_tree(tmp_path)


def capability(path: Path) -> bytes:
    """A file's capabilities without their namespace; b"" for none."""
    try:
        return os.getxattr(path, "security.capability")[4:20]
    except OSError:
        return b""


def test_kiln_unpacks_the_same_tree_with_every_runtime(kind: str, registry: Registry, work: Path) -> None:
    trees = []
    for number, each in enumerate((kind, "embedded")):
        (work / str(number)).mkdir()
        puller = Puller(each, work / str(number))
        trees.append(puller.pull(resolve(registry, "public/img"), "kiln"))
        assert capability(puller.runtime.rootfs("base") / "capable")[:2] == CAPABILITY[4:6]
        assert not [line for line in puller.said if "layers" in line], "enroot was asked"
    assert trees[0]["setuid"][0] == "0o104755"
    assert trees[0]["plain"][1] == "second"
    assert "gone" not in trees[0]
    assert "opaque/old" not in trees[0]
    assert trees[0] == trees[1]


def test_enroot_unpacks_the_same_tree_but_for_what_it_loses(
    kind: str, registry: Registry, work: Path
) -> None:
    if kind == "embedded":
        pytest.skip("it has no unpacking of its own")
    trees = []
    for number, unpack in enumerate(("enroot", "kiln")):
        (work / str(number)).mkdir()
        puller = Puller(kind, work / str(number))
        trees.append(puller.pull(resolve(registry, "public/img"), unpack))
        if unpack == "enroot":
            assert capability(puller.runtime.rootfs("base") / "capable") == b""
    # Both open files to their owner that the layer had closed.
    assert trees[0]["closed"] == ("0o100400", "c")
    # unsquashfs keeps the bit for root alone, so enroot does.
    setuid = [tree.pop("setuid")[0] for tree in trees]
    assert setuid == ["0o104755" if os.getuid() == 0 else "0o100755", "0o104755"]
    assert trees[0] == trees[1]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_enroot_downloads_nothing(kind: str, work: Path, compression: str) -> None:
    """The registry can no longer give a layer once Kiln has it."""
    if kind == "embedded":
        pytest.skip("it has no unpacking of its own")
    (work / "puller").mkdir()
    puller, layers = Puller(kind, work / "puller"), [layer(member("a", b"1")), layer(member("b", b"2"))]
    assert isinstance(puller.runtime, Enroot)
    with registry_fixture.start_registry(work / "registry") as made:
        # zstd is known to OCI alone, whose manifests enroot finds by an index alone.
        oci, tag = compression == "zstd", "1"
        image = push_image(
            made, "img", tag, layers, CONFIG, oci=oci, compression=compression, architecture=ARCHITECTURE
        )
        push_index(made, "img", tag, {f"linux/{ARCHITECTURE}": image}, oci=False)
        resolved = puller.client.resolve(Reference(made.host, "img", tag), platform.machine())

        def fetch(wanted: Resolved, progress: Progress) -> Sequence[Path]:
            blobs = puller.client.pull(wanted, work / "blobs", progress=progress)
            for digest in (*image.layers, image.config_digest):
                name = digest.removeprefix("sha256:")
                (work / f"registry/data/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data").unlink()
            return blobs

        puller.runtime.import_base(resolved, "base", fetch, puller.output, ignored)
    assert {name: text for name, (_, text) in puller.tree().items() if name in ("a", "b")} == {
        "a": "1",
        "b": "2",
    }
    assert "[INFO] Found all layers in cache" in puller.said


def test_an_old_login_does_not_stop_a_public_pull(kind: str, registry: Registry, work: Path) -> None:
    if kind == "embedded":
        pytest.skip("tests/unit/test_registry_auth.py has this for Kiln's client")
    puller = Puller(kind, work, "login me password wrong")
    assert "plain" in puller.pull(resolve(registry, "public/img"))
    assert [line for line in puller.said if "refuses the login of me; trying without" in line]


def test_a_private_image(kind: str, registry: Registry, work: Path) -> None:
    if kind == "embedded":
        pytest.skip("tests/unit/test_registry_auth.py has this for Kiln's client")
    for number, login in enumerate(("", "login me password wrong")):
        (work / str(number)).mkdir()
        with pytest.raises(BaseError, match="wants a login") as caught:
            Puller(kind, work / str(number), login).pull(resolve(registry, "private/img"))
        assert "machine 127.0.0.1 login USER" in caught.value.hint
    (work / "2").mkdir()
    assert "plain" in Puller(kind, work / "2", "login me password right").pull(
        resolve(registry, "private/img")
    )
    assert not list((work / "2/private").glob("*.sqsh"))


def test_what_is_not_there(kind: str, registry: Registry, work: Path) -> None:
    if kind == "embedded":
        pytest.skip("its blobs are named one by one")
    resolved = resolve(registry, "public/img")
    puller = Puller(kind, work)
    wrong = dataclasses.replace(resolved, digest="sha256:" + "0" * 64, index_digest=None)
    with pytest.raises(BaseError, match="has no docker://"):
        puller.pull(wrong)
    # The layers are there by now: it is enroot that asks in vain.
    reference = dataclasses.replace(resolved.reference, registry="127.0.0.1:1")  # type: ignore[type-var]
    with pytest.raises(BaseError, match="cannot reach"):
        puller.pull(dataclasses.replace(resolved, reference=reference))
    assert puller.runtime.list() == []


def test_credentials_open_to_others(kind: str, registry: Registry, work: Path) -> None:
    if kind == "embedded":
        pytest.skip("tests/unit/test_registry_auth.py has this for Kiln's client")
    puller = Puller(kind, work, "login me password right")
    (work / "config/.credentials").chmod(0o644)
    with pytest.raises(BaseError, match="open to others"):
        puller.pull(resolve(registry, "public/img"))


def test_the_standin_pulls_with_the_same_words(
    registry: Registry, work: Path, request: pytest.FixtureRequest
) -> None:
    real = real_enroot()
    if real is None:
        pytest.skip(NO_ENROOT)
    image = work / "good"
    image.write_bytes(b"")
    sides = Side(STANDIN / "enroot", work / "standin"), Side(real, work / "real")
    for side in sides:
        side.prepare(image)
    host = registry.host
    digest = resolve(registry, "public/img").pinned
    for line in (
        f"import -o a.sqsh docker://{host}#public/img:1",
        f"import -o b.sqsh docker://{host}/public/img:1",
        f"import -o c.sqsh docker://{host}#public/img:{digest}",
        f"import -o d.sqsh docker://{host}#public/img@{digest}",
        f"import -o e.sqsh docker://{host}#public/img:nope",
        f"import -o e.sqsh docker://{host}#public/none:1",
        f"import -o e.sqsh docker://{host}#private/img:1",
        f"import -o e.sqsh docker://me@{host}#public/img:{digest[:-8]}00000000",
        f"digest docker://{host}#public/img:1",
        f"digest docker://{host}#public/img:nope",
    ):
        standin, found = (side.call(f"{line}", ENROOT_ALLOW_HTTP="y") for side in sides)
        assert standin == found, line
