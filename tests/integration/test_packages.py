"""The package cache in real builds: what is downloaded, what is believed, that the images are the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import trees
from tests.integration.debian import PASSWORD, USER, Debian
from tests.integration.index import Index
from tests.integration.namespaces import read_only
from tests.integration.project import Done, Project
from tests.integration.proxy import Proxy

# As Docker's images of Debian and Ubuntu have it; it tells as well which caches an apt layer sees.
DOCKER_CLEAN = """\
cat > /etc/apt/apt.conf.d/docker-clean <<'END'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb || true"; };
DPkg::Post-Invoke { "[ ! -d /run/kiln/packages ] || ls /run/kiln/packages > /var/log/seen"; };
APT::Keep-Downloaded-Packages "false";
Binary::apt-get::APT::Keep-Downloaded-Packages "false";
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
END
"""
# Its packages have an epoch in their versions, and a dependency of the same source.
APT = "file"
DEBS = 3
# What its own hook writes where there is a cache.
SEEN = "var/log/seen"
NO_CACHES = "[ ! -e /run/kiln/packages ]"


@pytest.fixture
def index() -> Iterator[Index]:
    with Index() as running:
        yield running


class Builds:
    """Builds on the Debian image, one package cache for all."""

    def __init__(self, project: Project, index: Index) -> None:
        self.project, self.index = project, index
        self.cache = project.cache / f"v1/packages/{os.getuid()}"

    def manifest(self, name: str, layers: list[Any], seed: str = "seed") -> str:
        # pip keeps only what comes by https, or from such a host.
        env = {"SEED": seed, "PIP_CONSTRAINT": "", "PIP_TRUSTED_HOST": "127.0.0.1"}
        return self.project.manifest(name, layers, env=env)

    def all_kinds(self, name: str, seed: str = "seed") -> str:
        def python() -> dict[str, Any]:
            return {"packages": ["ready", "made"], "index_url": self.index.url}

        layers = [
            {"run": f"{NO_CACHES}\n{DOCKER_CLEAN}"},
            {"apt": [APT]},
            {"pip": python()},
            {"uv": {"venv": "/opt/other", **python()}},
            {"run": NO_CACHES},
        ]
        return self.manifest(name, layers, seed)

    def run(self, name: str, within: list[str] | None = None) -> tuple[Done, list[str], list[str]]:
        """Run every layer; returns how it went, what was asked of Debian's mirror, and of the index."""
        proxy = Proxy(USER, PASSWORD)
        before = len(self.index.asked)
        with proxy.running():
            env = {"http_proxy": proxy.url, "https_proxy": proxy.url, "no_proxy": "127.0.0.1"}
            done = self.project.run("build", name, "--no-cache", env=env, within=within or [])
        files = [path for path in self.index.asked[before:] if path.startswith("/files/")]
        return done, [asked for asked in proxy.requests if "/pool/" in asked], files

    def debs(self) -> list[Path]:
        return sorted((self.cache / "apt").iterdir())

    def check_debs(self) -> None:
        """Whether the cache holds whole archives and nothing else."""
        for path in self.debs():
            assert path.name == hashlib.sha256(path.read_bytes()).hexdigest() + ".deb"

    def tree(self, name: str, place: Path) -> Path:
        versions = self.project.store.versions(name)
        return trees.unpack(self.project.store.image(name, versions[-1]), place)


@pytest.fixture
def builds(debian: Debian, index: Index, tmp_path: Path) -> Builds:
    return Builds(debian.beside(tmp_path / "project"), index)


def state(tree: Path) -> dict[str, tuple[str, str]]:
    """Every path of a tree with its mode, and the digest of its contents or where it leads."""
    found = {}
    for parent, folders, names in os.walk(tree):
        for path in (Path(parent, name) for name in (*folders, *names)):
            name, what = str(path.relative_to(tree)), ""
            if path.is_symlink():
                what = f"-> {path.readlink()}"
            elif path.is_file():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            if name != SEEN:
                found[name] = (oct(path.lstat().st_mode), what)
    return found


def test_a_second_build_downloads_nothing_and_makes_the_same_tree(builds: Builds, tmp_path: Path) -> None:
    builds.all_kinds("x")
    (builds.cache.parent.parent / "packages").mkdir(parents=True)
    blocked = builds.cache
    blocked.write_text("")
    done, without, _ = builds.run("x")
    done.expect(0, f"packages are downloaded without a cache: {blocked}")
    assert done.said.count("without a cache") == 1
    expected = state(builds.tree("x", tmp_path / "without"))
    blocked.unlink()

    done, cold, files = builds.run("x")
    done.expect(0)
    assert len(cold) == len(without) == len(builds.debs()) == DEBS
    assert set(files) == {"/files/made-1.0.tar.gz", "/files/ready-1.0-py3-none-any.whl"}
    builds.check_debs()
    assert state(builds.tree("x", tmp_path / "cold")) == expected

    done, warm, files = builds.run("x")
    done.expect(0)
    assert warm == []
    # What an image makes of a source is made in each, and uv asks for sources again.
    assert set(files) == {"/files/made-1.0.tar.gz"}
    tree = builds.tree("x", tmp_path / "warm")
    assert state(tree) == expected
    assert (tree / SEEN).read_text() == "apt\n"


def test_a_damaged_archive_is_noticed_and_downloaded_again(builds: Builds) -> None:
    builds.manifest("x", [{"apt": [APT]}])
    builds.run("x")[0].expect(0)
    damaged, *whole = builds.debs()
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    os.utime(whole[0], (1_000_000, 1_000_000))
    done, asked, _ = builds.run("x")
    done.expect(0)
    assert len(asked) == 1
    [log] = [
        path.read_text()
        for path in builds.project.cache.glob("v1/logs/x-*/01-apt.log")
        if "kiln:" in path.read_text()
    ]
    assert log.count("is damaged in the package cache; it is downloaded again") == 1
    assert len(builds.debs()) == DEBS
    builds.check_debs()
    # It was used, which is what keeps it from being cleaned away.
    assert whole[0].stat().st_mtime > 1_000_000


def test_two_builds_at_once_fill_one_cache_and_share_no_wheel_of_their_own(
    builds: Builds, tmp_path: Path
) -> None:
    running = [
        builds.project.start("build", builds.all_kinds(name, name), "--no-cache") for name in ("one", "two")
    ]
    for each in running:
        each.end().expect(0)
    assert len(builds.debs()) == DEBS
    builds.check_debs()
    assert sorted(path.name for path in (builds.cache / "uv").iterdir()) == ["archive-v0", "wheels-v8"]
    done, archives, _ = builds.run(builds.all_kinds("three", "three"))
    done.expect(0)
    assert archives == []
    modules = list(builds.tree("three", tmp_path / "three").rglob("made.py"))
    assert [module.read_text() for module in modules] == ["SEED = 'three'\n"] * 2


def test_a_read_only_cache_is_said_and_done_without(builds: Builds) -> None:
    builds.manifest("x", [{"apt": [APT]}, {"run": NO_CACHES}, {"apt": ["rolldice"]}])
    builds.cache.mkdir(parents=True, mode=0o700)
    done, archives, _ = builds.run("x", within=read_only(builds.cache.parent))
    done.expect(0, "packages are downloaded without a cache", "Read-only file system")
    assert done.said.count("without a cache") == 1
    assert len(archives) == DEBS
    assert list(builds.cache.iterdir()) == []


def test_what_a_failing_layer_downloaded_serves_its_next_try(builds: Builds) -> None:
    fails = "echo 'DPkg::Pre-Invoke { \"false\"; };' > /etc/apt/apt.conf.d/fails"
    builds.manifest("x", [{"run": fails}, {"apt": [APT]}])
    done, archives, _ = builds.run("x")
    done.expect(6, "layer 2")
    assert len(archives) == len(builds.debs()) == DEBS
    builds.manifest("x", [{"apt": [APT]}])
    done, archives, _ = builds.run("x")
    done.expect(0)
    assert archives == []
