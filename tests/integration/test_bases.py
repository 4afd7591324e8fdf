"""Every kind of base that comes in layers, from the real registry to the published file, on both runtimes."""

from __future__ import annotations

import io
import json
import platform
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import registry_fixture as fixture
from tests.integration import trees
from tests.integration.project import Project
from tests.integration.runtimes import enroot_path

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
CONFIG = {"Env": ["PATH=/usr/bin:/bin", "FROM=registry"], "WorkingDir": "/data", "Cmd": ["/bin/bash"]}
SECOND = ("data/.wh.removed", "opaque/.wh..wh..opq", "opaque/new")

pytestmark = pytest.mark.skipif(not fixture.available(), reason="docker-registry is not installed")


@dataclass(frozen=True)
class Served:
    """A registry that wants tokens, and the pushed image: `digest` is its index's."""

    registry: fixture.Registry
    index: fixture.Pushed
    layers: tuple[bytes, ...]


def tar_of(tree: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(tree, arcname=".")
    return stream.getvalue()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Iterator[Served]:
    first = tar_of(small_tree)
    second = fixture.layer(
        fixture.folder("data"), fixture.member("data/kept", b"1"), fixture.member("data/removed", b"2"),
        fixture.folder("opaque"), fixture.member("opaque/old", b"3"),
    )  # fmt: skip
    third = fixture.layer(
        *(fixture.member(name, b"") for name in SECOND),
        fixture.member("data/kept", b"1"),
        fixture.hardlink("data/linked", "data/kept"),
        fixture.member("data/odd name\u00e9 \n-x", b"4"),
    )
    layers = (first, second, third)
    with fixture.start_registry(
        tmp_path_factory.mktemp("registry"), auth=True, users={"kiln": "pa$$"}
    ) as running:
        images = {}
        for number, architecture in enumerate((MACHINE, "s390x")):
            images[f"linux/{architecture}"] = fixture.push_image(
                running, "private/base", f"part{number}", layers, CONFIG, architecture=architecture
            )
        yield Served(running, fixture.push_index(running, "private/base", "1.0", images), layers)


@pytest.fixture(params=["embedded", "enroot", "enroot, which unpacks"])
def runtime(request: pytest.FixtureRequest, project: Project) -> tuple[str, dict[str, str]]:
    """The runtime, and the variables with which it is found: the real enroot, else what stands in for it."""
    name, _, unpacks = str(request.param).partition(",")
    return name, {**(enroot_path() if name == "enroot" else {}), **(site(project) if unpacks else {})}


def site(project: Project) -> dict[str, str]:
    """A site where enroot unpacks bases."""
    return {"KILN_SITE": project.site("enroot-unpacks", unpack="enroot")}


def anew(name: str, tmp_path: Path) -> dict[str, str]:
    """A cache of the runtime's own: else the second one would take the base that the first has made."""
    return {**enroot_path(), "KILN_CACHE": str(tmp_path / f"cache-{name}")}


def log_in(project: Project, served: Served) -> None:
    folder = project.root / "home/.config/enroot"
    folder.mkdir(parents=True)
    (folder / ".credentials").write_text("machine 127.0.0.1 login kiln password pa$$\n")
    (folder / ".credentials").chmod(0o600)


LAYERS = [{"run": 'test "$FROM" = registry\nls -A /data /opaque > /listing'}]


def check_image(project: Project, name: str, tmp_path: Path) -> None:
    """What the layers of the base say, as one tree."""
    tree = trees.unpack(project.store.find(name).path, tmp_path / "tree")
    assert sorted(path.name for path in (tree / "data").iterdir()) == [
        "kept",
        "linked",
        "odd name\u00e9 \n-x",
    ]
    assert [path.name for path in (tree / "opaque").iterdir()] == ["new"]
    assert (tree / "data/kept").stat().st_ino == (tree / "data/linked").stat().st_ino
    assert "FROM=registry" in (tree / "etc/environment").read_text()
    assert 'cd "/data"' in (tree / "etc/rc").read_text()
    assert (tree / "listing").is_file()


def test_an_index_behind_a_token_and_a_login(
    project: Project, served: Served, runtime: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    log_in(project, served)
    name, env = runtime
    project.manifest("demo", LAYERS, base=f"{served.registry.host}/private/base:1.0")
    record = project.build("demo", "--runtime", name, env=env)
    assert record.version == "1.0-r1"
    assert record.base_digest == served.index.digest
    assert record.platform_digest != record.base_digest
    assert record.runtime.startswith(name)
    check_image(project, "demo", tmp_path)


def test_without_the_login_the_place_to_write_it_is_named(project: Project, served: Served) -> None:
    project.manifest("demo", LAYERS, base=f"{served.registry.host}/private/base:1.0")
    project.run("plan", "demo").expect(5, "private/base", ".credentials")
    project.nothing_published()


@pytest.mark.parametrize(
    ("base", "texts"),
    [
        ("{host}/private/base:9.9", ("9.9", "1.0")),
        ("{host}/private/nothing:1.0", ("private/nothing",)),
        ("{host}/private/base@sha256:" + "0" * 64, ("0000",)),
        ("127.0.0.1:9/private/base:1.0", ("127.0.0.1:9",)),
    ],
)
def test_a_base_that_is_not_there(
    project: Project, served: Served, base: str, texts: tuple[str, ...]
) -> None:
    log_in(project, served)
    project.manifest("demo", LAYERS, base=base.format(host=served.registry.host))
    project.run("build", "demo").expect(5, *texts)
    project.nothing_published()
    assert project.workspaces() == []


def blob(folder: Path, data: bytes) -> dict[str, object]:
    (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    digest = fixture.sha256(data)
    (folder / "blobs/sha256" / digest.removeprefix("sha256:")).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def oci_layout(folder: Path, layers: tuple[bytes, ...]) -> Path:
    """An OCI image layout: https://github.com/opencontainers/image-spec/blob/main/image-layout.md"""
    diff_ids = [fixture.sha256(data) for data in layers]
    config = {
        "architecture": MACHINE,
        "os": "linux",
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    prefix = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{prefix}manifest.v1+json",
        "config": {"mediaType": f"{prefix}config.v1+json", **blob(folder, json.dumps(config).encode())},
        "layers": [
            {"mediaType": f"{prefix}layer.v1.tar+zstd", **blob(folder, fixture.compressed(data, "zstd"))}
            for data in layers
        ],
    }
    entry = {"mediaType": f"{prefix}manifest.v1+json", **blob(folder, json.dumps(manifest).encode())}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def docker_archive(file: Path, layers: tuple[bytes, ...]) -> Path:
    """What `docker save` wrote before it wrote OCI layouts."""
    diff_ids = [fixture.sha256(data) for data in layers]
    config = {
        "architecture": MACHINE,
        "os": "linux",
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["demo:1"], "Layers": names}]
    with tarfile.open(file, "w") as archive:
        members = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
        for name, data in {**members, **dict(zip(names, layers, strict=True))}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_an_image_in_a_file(
    project: Project, served: Served, runtime: tuple[str, dict[str, str]], tmp_path: Path, kind: str
) -> None:
    name, env = runtime
    if kind == "oci":
        oci_layout(project.root / "manifests/layout", served.layers)
        base = "oci:layout"
    else:
        docker_archive(project.root / "manifests/saved.tar", served.layers)
        base = "docker-archive:saved.tar"
    project.manifest("demo", LAYERS, base=base)
    record = project.build("demo", "--runtime", name, env=env)
    assert record.base == base
    check_image(project, "demo", tmp_path)


HOSTILE = {
    "dots": (fixture.member("../outside", b"x"), "../outside"),
    "absolute": (fixture.member("/outside", b"x"), "/outside"),
    "a hard link": (fixture.hardlink("shadow", "../../../etc/shadow"), "etc/shadow"),
    "a device": (fixture.member("disk", kind=tarfile.BLKTYPE), "disk"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_layer_is_refused_and_nothing_is_written_outside(project: Project, kind: str) -> None:
    entry, named = HOSTILE[kind]
    oci_layout(project.root / "manifests/layout", (fixture.layer(entry),))
    project.manifest("demo", base="oci:layout")
    project.run("build", "demo", "--runtime", "embedded").expect(5, named, "sha256:")
    project.nothing_published()
    assert project.workspaces() == []
    assert not list(project.root.rglob("outside"))


def test_a_hard_link_to_a_lower_layer(project: Project, small_tree: Path, tmp_path: Path) -> None:
    """enroot unpacks each layer by itself; the message says who else can."""
    second = fixture.layer(fixture.hardlink("passwd", "etc/passwd"))
    with fixture.start_registry(tmp_path / "registry") as running:
        fixture.push_image(
            running, "base", "1.0", (tar_of(small_tree), second), oci=False, architecture=MACHINE
        )
        project.manifest("demo", base=f"{running.host}/base:1.0")
        for name in ("embedded", "enroot"):
            project.build("demo", "--no-cache", "--runtime", name, env=anew(name, tmp_path))
        project.run("build", "demo", "--runtime", "enroot", env={**enroot_path(), **site(project)}).expect(
            5, "Cannot hard link", "unpack: kiln"
        )


def test_both_runtimes_make_the_same_tree(project: Project, served: Served, tmp_path: Path) -> None:
    """Paths, modes, link targets and contents of the published files, all owned by root.

    What differs, and should, is the name of the runtime that each has on record.
    """
    log_in(project, served)
    layers = [
        *LAYERS,
        {"run": "chmod 2755 /data; ln -s /nowhere /link; touch /data/kept"},
        {"copy": {"a/tool": "/usr/bin/"}},
    ]
    project.file("a/tool", b"#!/bin/sh\n")
    project.manifest(
        "demo", layers, base=f"{served.registry.host}/private/base:1.0", env={"A": "b"}, command=["x"]
    )
    found = []
    for name in ("embedded", "enroot"):
        record = project.build("demo", "--no-cache", "--runtime", name, env=anew(name, tmp_path))
        path = project.store.image("demo", record.version)
        found.append(trees.state(trees.unpack(path, tmp_path / name)))
        assert found[-1].pop(".kiln/provenance.json")
    assert found[0] == found[1]
