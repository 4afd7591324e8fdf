"""Small finished things for unit tests."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kiln import files, publish
from kiln.record import Record, SmokeResult
from kiln.run import host_environment, run
from kiln.runtime import namespace
from kiln.squashfs import arguments
from kiln.store import Store

RECORD = Record(
    name="demo",
    version="",
    file="",
    digest="sha256:" + "0" * 64,
    size=0,
    base="debootstrap:bookworm",
    base_digest="sha256:" + "1" * 64,
    platform_digest="sha256:" + "1" * 64,
    built="2026-01-02T03:04:05Z",
)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real .sqsh."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "tree/etc").mkdir(parents=True)
    (folder / "tree/etc/rc").write_text('exec "$@"\n')
    argv = ["mksquashfs", str(folder / "tree"), str(folder / "x.sqsh"), *arguments(())]
    run(argv, what="make an image", env=host_environment(os.environ), timeout=60)
    return folder / "x.sqsh"


@pytest.fixture(scope="session")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> None:
    """That overlays can be mounted here; a test without them is skipped."""
    if why := namespace.refusal(tmp_path_factory.mktemp("overlay"), host_environment(os.environ)):
        pytest.skip(why)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


Publisher = Callable[..., tuple[Record, str]]


@pytest.fixture
def put(store: Store, image: Path, tmp_path: Path) -> Publisher:
    """Publish `image` under a name: put("demo", smoke=("passed",), label="1.0")."""

    return functools.partial(publish_copy, store, image.read_bytes(), tmp_path)


def publish_copy(  # the last two are what a test says
    store: Store,
    data: bytes,
    folder: Path,
    name: str,
    smoke: tuple[str, ...] = ("passed",),
    label: str = "1.0",
) -> tuple[Record, str]:
    """Publish an image of these bytes; it is made in `folder`."""
    finished = folder / f"{name}.sqsh"
    # The one before is published: it is the same file under two names.
    finished.unlink(missing_ok=True)
    finished.write_bytes(data)
    results = tuple(SmokeResult("hook", (), state, True, 0.1) for state in smoke)
    digest = f"sha256:{files.sha256_file(finished)}"
    record = dataclasses.replace(
        RECORD, name=name, digest=digest, size=finished.stat().st_size, smoke=results
    )
    return publish.publish(store, finished, record, label, lambda text: None)
