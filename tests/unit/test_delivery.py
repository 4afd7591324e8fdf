"""Layers that are read while others are on their way."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
import threading
from pathlib import Path
from threading import Event

import pytest

from kiln.errors import BaseError
from kiln.registry.oci import Resolved
from kiln.run import host_environment
from kiln.runtime.unpacking import unpack
from tests.registry_fixture import sha256
from tests.unit.test_registry_transport import Bench, Fake, Reply, Request, fake

__all__ = ["fake"]

WAIT_SECONDS = 20


@pytest.fixture
def bench(fake: Fake, tmp_path: Path) -> Bench:
    return Bench(fake, tmp_path)


def layer(name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(name)
        archive.addfile(entry, io.BytesIO(name.encode()))
    return stream.getvalue()


def resolve(fake: Fake, bench: Bench, *layers: bytes) -> Resolved:
    fake.image(*layers)
    found = bench.client.resolve(bench.name, "amd64")
    return dataclasses.replace(found, diff_ids=tuple(map(sha256, layers)))


def held(fake: Fake, data: bytes) -> Event:
    """The answer for a layer waits for this."""
    release = Event()

    def answer(_: Request) -> Reply:
        assert release.wait(WAIT_SECONDS)
        return Reply(body=data)

    fake.on(fake.blob(data), answer)
    return release


def lines(descriptor: int, count: int) -> list[str]:
    with os.fdopen(os.dup(descriptor)) as told:
        return [told.readline().strip() for _ in range(count)]


def no_progress(done: int, total: int) -> None: ...


def test_each_layer_is_told_of_once_it_is_there(fake: Fake, bench: Bench) -> None:
    first, second = layer("first"), layer("second")
    resolved = resolve(fake, bench, first, second, first)
    release = held(fake, second)
    with bench.client.delivery(resolved, bench.blobs, no_progress) as delivery:
        assert lines(delivery.arrived, 1) == [sha256(first)]
        assert delivery.paths[0].read_bytes() == first and not delivery.paths[1].exists()
        assert delivery.under_way
        release.set()
        assert lines(delivery.arrived, 2) == [sha256(second), ""]
        delivery.check()
    assert delivery.paths[0] == delivery.paths[2] and delivery.size == len(first) + len(second)


def test_a_layer_is_unpacked_while_the_next_is_on_its_way(
    fake: Fake, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = layer("first"), layer("second")
    resolved, release, tree = resolve(fake, bench, first, second), held(fake, second), tmp_path / "tree"
    steps: list[tuple[int, int]] = []

    def seen(done: int, total: int) -> None:
        steps.append((done, total))
        # The pull says how far it is, time and again.
        if (tree / "first").exists():
            release.set()

    with bench.client.delivery(resolved, bench.blobs, seen) as delivery:
        unpack(delivery.paths, resolved, tree, host_environment(os.environ), seen, delivery)
    assert release.is_set()
    assert [(tree / name).read_text() for name in ("first", "second")] == ["first", "second"]
    assert {total for _, total in steps} == {len(first) + len(second)}


def test_what_ends_the_pull_ends_the_unpacking(fake: Fake, bench: Bench, tmp_path: Path) -> None:
    first, second = layer("first"), layer("second")
    resolved = resolve(fake, bench, first, second)
    fake.on(fake.blob(second), Reply(404))
    with (
        pytest.raises(BaseError, match="does not have the blob"),
        bench.client.delivery(resolved, bench.blobs, no_progress) as delivery,
    ):
        unpack(delivery.paths, resolved, tmp_path / "tree", host_environment({}), no_progress, delivery)


def test_a_damaged_layer_ends_the_pull(fake: Fake, bench: Bench, tmp_path: Path) -> None:
    first, second = b"\x1f\x8bno gzip", layer("second")
    resolved, release = resolve(fake, bench, first, second), held(fake, second)
    with (
        pytest.raises(BaseError, match="layer 1 of 2"),
        bench.client.delivery(resolved, bench.blobs, no_progress) as delivery,
    ):
        unpack(delivery.paths, resolved, tmp_path / "tree", host_environment({}), no_progress, delivery)
    release.set()
    assert not delivery.paths[1].exists()


def test_a_block_that_is_left_early_leaves_nobody_telling(fake: Fake, bench: Bench) -> None:
    data = layer("late")
    resolved, release = resolve(fake, bench, data), held(fake, data)
    before = set(threading.enumerate())
    delivery = bench.client.delivery(resolved, bench.blobs, no_progress)
    with pytest.raises(KeyboardInterrupt), delivery:
        raise KeyboardInterrupt
    # Has the numbers of the pipe's ends: what the late thread tells must not go there.
    others = [os.memfd_create("other") for _ in range(2)]
    release.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.endswith(("(_work)", "(_run)")):
            thread.join(WAIT_SECONDS)
    assert not delivery.under_way
    assert [os.fstat(other).st_size for other in others] == [0, 0]
    for other in others:
        os.close(other)
