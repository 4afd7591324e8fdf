"""A blob on its way: what is there, what is missing, and that nothing is written twice."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from threading import Event

import pytest

from kiln.registry import blobs
from kiln.registry.blobs import Partial, WrongBytes
from kiln.registry.oci import Descriptor
from tests.registry_fixture import sha256

RANGE = 1 << 16
COUNT = 5
DATA = b"".join(b"%16d" % number for number in range(COUNT * RANGE // 16))[:-1000]
WANTED = Descriptor(sha256(DATA), len(DATA), "")


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "RANGE", RANGE)


def test_a_part_of_a_range_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    with Partial(path, WANTED) as partial:
        assert partial.write(RANGE, DATA[RANGE : RANGE + 300]) == 300
        assert partial.write(2 * RANGE, DATA[2 * RANGE : 3 * RANGE]) == RANGE
    with Partial(path, WANTED) as partial:
        assert partial.size == RANGE + 300
        assert partial.gap(1) == (RANGE + 300, 2 * RANGE)
        assert partial.unfinished() == [0, 1, *range(3, COUNT)]
        # What is there stays as it came.
        assert partial.write(0, DATA) == len(DATA) - RANGE - 300
        partial.finish()
    assert path.read_bytes() == DATA


def test_two_threads_that_bring_the_same_write_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gained, writes, both, real = list[int](), list[int](), Event(), os.pwrite

    def pwrite(descriptor: int, part: memoryview, offset: int) -> int:
        if offset < len(DATA):
            writes.append(offset)
            if len(writes) == 1:
                other.start()
                # In vain: the other one can't begin to write what this one is writing.
                both.wait(0.2)
            else:
                both.set()
        return real(descriptor, part, offset)

    with Partial(tmp_path / "blob", WANTED) as partial:
        monkeypatch.setattr(os, "pwrite", pwrite)
        other = threading.Thread(target=lambda: gained.append(partial.write(0, DATA)))
        gained.append(partial.write(0, DATA))
        other.join()
        assert sum(gained) == partial.size == len(DATA) and len(writes) == COUNT
        with pytest.raises(WrongBytes, match="more than"):
            partial.write(len(DATA), b"x")
        partial.finish()
    assert (tmp_path / "blob").read_bytes() == DATA


def test_what_waits_is_digested_when_its_turn_comes(tmp_path: Path) -> None:
    """Whatever the order, and without a second pass at the end."""
    with Partial(tmp_path / "blob", WANTED) as partial:
        for index in (3, 1, 4, 2, 0):
            partial.write(index * RANGE, DATA[index * RANGE : (index + 1) * RANGE])
        assert partial._digested == len(DATA)
        partial.finish()
