"""Pulls from a real registry: the embedded client, enroot's stand-in, and enroot where it is."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiln.errors import BaseError
from kiln.files import remove_tree
from kiln.registry.client import Client, Network, Resolved
from kiln.registry.credentials import Credentials
from kiln.registry.reference import Reference
from kiln.runtime.contract import Output
from kiln.runtime.embedded import Embedded
from kiln.runtime.enroot import Enroot
from kiln.runtime.enrootcall import Places
from tests import registry_fixture
from tests.conformance.conftest import MISSING, NO_ENROOT, OPTIONS, STANDIN, real_enroot
from tests.conformance.test_standin import Side
from tests.registry_fixture import Registry, folder, layer, member, push_image, push_index, symlink

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
CONFIG = {
    "Env": ["PATH=/usr/bin:/bin", "A=b c"], "Entrypoint": ["/bin/sh", "-c", "it's"], "Cmd": ["x y"],
    "WorkingDir": "/work dir", "Labels": {"a": "one\ntwo"}, "Volumes": {"/vol": {}},
}  # fmt: skip
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
    """One runtime, with a folder and a credentials file of its own."""

    def __init__(self, kind: str, work: Path, login: str = "") -> None:
        (work / "config").mkdir()
        (work / "config/.credentials").write_text(f"machine 127.0.0.1 {login}\n" if login else "")
        (work / "config/.credentials").chmod(0o600)
        for name in ("containers", "private"):
            (work / name).mkdir()
        self.said: list[str] = []
        self.output = Output(on_line=self.said.append)
        environ = {**os.environ, "ENROOT_CONFIG_PATH": str(work / "config")}
        self.runtime: Embedded | Enroot
        if kind == "embedded":
            client = Client(Network({}, None, "test"), Credentials(work / "none"))
            self.runtime = Embedded(
                work / "containers", work / "scratch", work / "blobs", client, environ, OPTIONS
            )
            return
        real = real_enroot()
        environ["PATH"] = f"{STANDIN if kind == 'standin' or real is None else real.parent}:{environ['PATH']}"
        places = Places(work / "containers", work / "private", work / "scratch", work / "cache")
        self.runtime = Enroot(places, environ, options=OPTIONS)

    def pull(self, resolved: Resolved) -> dict[str, tuple[str, str]]:
        """Pull into a container; its tree, path to mode and contents."""
        self.runtime.import_base(resolved, "base", self.output, lambda done, total: None)
        tree, found = self.runtime.rootfs("base"), {}
        for path in tree.rglob("*"):
            text = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
            found[str(path.relative_to(tree))] = (oct(path.lstat().st_mode), text)
        return found


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    remove_tree(tmp_path)


def test_a_pull_gives_the_same_tree(kind: str, registry: Registry, work: Path) -> None:
    trees = []
    for number, each in enumerate((kind, "embedded")):
        (work / str(number)).mkdir()
        trees.append(Puller(each, work / str(number)).pull(resolve(registry, "public/img")))
    # enroot opens files to their owner that the layer had closed.
    closed = [tree.pop("closed") for tree in trees]
    assert {text for _, text in closed} == {"c"}
    assert trees[0]["plain"][1] == "second"
    setuid = [tree.pop("setuid")[0] for tree in trees]
    # unsquashfs keeps the bit for root alone, so enroot does.
    assert setuid == ["0o104755" if os.getuid() == 0 or kind == "embedded" else "0o100755", "0o104755"]
    assert "gone" not in trees[0]
    assert "opaque/old" not in trees[0]
    assert trees[0] == trees[1]


def test_an_old_login_does_not_stop_a_public_pull(kind: str, registry: Registry, work: Path) -> None:
    if kind == "embedded":
        pytest.skip("tests/unit/test_client.py has this for the embedded runtime")
    puller = Puller(kind, work, "login me password wrong")
    assert "plain" in puller.pull(resolve(registry, "public/img"))
    assert [line for line in puller.said if "refuses the login of me; trying without" in line]


def test_a_private_image(kind: str, registry: Registry, work: Path) -> None:
    if kind == "embedded":
        pytest.skip("tests/unit/test_client.py has this for the embedded runtime")
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
    wrong = dataclasses.replace(resolved, digest="sha256:" + "0" * 64, index_digest=None)
    puller = Puller(kind, work)
    with pytest.raises(BaseError, match="has no docker://"):
        puller.pull(wrong)
    reference = dataclasses.replace(resolved.reference, registry="127.0.0.1:1")  # type: ignore[type-var]
    with pytest.raises(BaseError, match="cannot reach"):
        puller.pull(dataclasses.replace(resolved, reference=reference))
    assert puller.runtime.list() == []


def test_credentials_open_to_others(kind: str, registry: Registry, work: Path) -> None:
    if kind == "embedded":
        pytest.skip("kiln.registry.credentials has this")
    puller = Puller(kind, work, "login me password right")
    (work / "config/.credentials").chmod(0o644)
    with pytest.raises(BaseError, match="open to others"):
        puller.pull(resolve(registry, "public/img"))


def test_the_standin_pulls_with_the_same_words(
    registry: Registry, work: Path, request: pytest.FixtureRequest
) -> None:
    real = real_enroot()
    if real is None:
        request.config.stash.setdefault(MISSING, []).append(request.node.nodeid)
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
