"""What integration tests share: one small base a session, one real Debian, a project for each test."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import registry_fixture
from tests.integration import project as projects
from tests.integration import trees
from tests.integration.debian import Debian
from tests.integration.debian import build as build_debian
from tests.integration.layered import Layered
from tests.integration.mirror import Mirror
from tests.integration.project import Project
from tests.integration.runtimes import enroot_path
from tests.integration.upstream import Upstream


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made once, also when several workers of pytest-xdist want it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def small_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with a shell and little else, and beside it the same as `small.sqsh`."""

    def make(folder: Path) -> None:
        trees.small(folder / "tree")
        trees.pack(folder / "tree", folder / "small.sqsh")

    return _once(tmp_path_factory, "small", make) / "tree"


@pytest.fixture(scope="session")
def small_base(small_tree: Path) -> Path:
    return small_tree.with_name("small.sqsh")


@pytest.fixture
def project(tmp_path: Path, small_base: Path) -> Project:
    return projects.make(tmp_path / "project", small_base)


@pytest.fixture
def layered(project: Project, tmp_path: Path) -> Layered:
    (tmp_path / "diary").mkdir()
    return Layered(project, tmp_path / "diary")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> Path:
    """An images folder with one image x, built once a session."""

    def make(folder: Path) -> None:
        built = projects.make(folder / "project", small_base)
        built.hook("fine", "exit 0")
        data = built.file("data", os.urandom(3_000_000))
        built.build(built.manifest("x", [{"copy": {data: "/data"}}], smoke=["fine"]))

    return _once(tmp_path_factory, "published", make) / "project/images"


@pytest.fixture
def user(project: Project, published: Path) -> Project:
    """One who has that folder, as a project of a test's own."""
    shutil.copytree(published, project.images, symlinks=True)
    return project


@pytest.fixture(params=["embedded", "enroot"])
def runtime(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """The runtime, and the PATH with which it is found: the real enroot, else what stands in for it."""
    name = str(request.param)
    return name, enroot_path() if name == "enroot" else {}


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Debian:
    """A Debian built by Kiln from the real mirrors and indexes, behind a proxy that wants a password."""
    return Debian(_once(tmp_path_factory, "debian", build_debian))


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as running:
        yield running


@pytest.fixture
def upstream(tmp_path: Path, small_tree: Path) -> Iterator[Upstream]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(small_tree, ".")
    with registry_fixture.start_registry(tmp_path / "registry") as registry:
        yield Upstream(registry, stream.getvalue())
