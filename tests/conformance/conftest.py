"""Both runtimes, and what stands in for enroot, on one small tree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kiln.files import remove_tree
from kiln.run import Result
from kiln.runtime.contract import Command, Output, Runtime
from kiln.runtime.embedded import Embedded
from kiln.runtime.enroot import Enroot
from kiln.runtime.enrootcall import Places
from tests.conformance import small_tree
from tests.conftest import NO_ENROOT

STANDIN = Path(__file__).parent.parent / "standin"
OPTIONS = ("-comp", "zstd", "-Xcompression-level", "1")


def real_enroot() -> Path | None:
    """The real enroot of this machine: KILN_REAL_ENROOT, else the one on PATH."""
    found = os.environ.get("KILN_REAL_ENROOT") or shutil.which("enroot")
    return Path(found) if found and Path(found).resolve().parent != STANDIN.resolve() else None


@dataclass(frozen=True)
class Bench:
    """A runtime with a container `base` of the small tree."""

    kind: str
    runtime: Runtime
    work: Path

    @property
    def tree(self) -> Path:
        return self.runtime.rootfs("base")

    def shell(self, script: str, **more: object) -> Result:
        return self.start(("/bin/sh", "-c", script), **more)

    def start(self, argv: tuple[str, ...], **more: object) -> Result:
        command = Command(argv=argv, what="try", **more)  # type: ignore[arg-type]
        return self.runtime.start("base", command, Output())


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tree.make(tmp_path_factory.mktemp("small") / "tree")


@pytest.fixture(params=["embedded", "standin", "enroot"])
def kind(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name == "enroot" and real_enroot() is None:
        pytest.skip(NO_ENROOT)
    return name


@pytest.fixture
def bench(kind: str, small: Path, tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(kind, tmp_path, small)
    yield made
    remove_tree(tmp_path)


def make_bench(kind: str, work: Path, small: Path) -> Bench:
    for name in ("containers", "private", "scratch", "export"):
        (work / name).mkdir()
    bench = Bench(kind, _runtime(kind, work), work)
    shutil.copytree(small, bench.tree, symlinks=True)
    return bench


def _runtime(kind: str, work: Path) -> Runtime:
    environ = {**os.environ, "TERM": "dumb", "SECRET_OF_THE_HOST": "1"}
    if kind == "embedded":
        return Embedded(work / "containers", work / "scratch", environ, OPTIONS)
    real = real_enroot()
    folder = STANDIN if kind == "standin" or real is None else real.parent
    environ["PATH"] = f"{folder}:{environ['PATH']}"
    places = Places(work / "containers", work / "private", work / "scratch", work / "cache")
    return Enroot(places, environ, options=OPTIONS)
