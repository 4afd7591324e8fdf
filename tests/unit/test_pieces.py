"""A copy in pieces: each verified, those that are there kept, and nothing taken that has other bytes."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kiln import pieces
from kiln.errors import SpaceError, StoreError
from kiln.pieces import Measured

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SIZE", SIZE)


@pytest.fixture(params=[1, SIZE - 1, SIZE, SIZE + 1, 7 * SIZE + 12345], ids=lambda size: f"{size}")
def data(request: pytest.FixtureRequest) -> bytes:
    return os.urandom(int(request.param))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digests(data: bytes) -> list[str]:
    return [sha256(data[at : at + SIZE]) for at in range(0, len(data), SIZE)]


def copy(
    source: bytes,
    folder: Path,
    wanted: bytes,
    there: bytes = b"",
    on_bytes: Callable[[int], None] = lambda done: None,
) -> tuple[list[int], bytes]:
    """Which pieces are bad, and what is in the target."""
    (folder / "source").write_bytes(source)
    (folder / "target").write_bytes(there)
    with (folder / "source").open("rb", 0) as one, (folder / "target").open("r+b", 0) as other:
        bad = pieces.copy(one, other, folder / "target", len(wanted), digests(wanted), on_bytes)
    return bad, (folder / "target").read_bytes()


def test_the_digests_of_a_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    counts: list[int] = []
    found = pieces.measure(tmp_path / "file", counts.append)
    assert found == Measured(len(data), sha256(data), tuple(digests(data)))
    assert pieces.count(len(data)) == len(found.pieces)
    assert counts == sorted(counts) and counts[-1] == len(data)


def test_a_disk_that_gives_less_than_it_was_asked_for(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 70_001)) or b""

    (tmp_path / "file").write_bytes(data)
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Slow(path))
    assert pieces.measure(tmp_path / "file", lambda _: None).pieces == tuple(digests(data))


def test_all_of_it_is_copied(tmp_path: Path, data: bytes) -> None:
    counts: list[int] = []
    assert copy(data, tmp_path, data, on_bytes=counts.append) == ([], data)
    assert counts == sorted(counts) and counts[-1] == len(data)


def test_disks_that_take_and_give_less_than_they_were_asked_for(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda one, rooms, place: read(one, [rooms[0][:70_001]], place))
    monkeypatch.setattr(os, "pwrite", lambda one, piece, place: write(one, piece[:33_333], place))
    assert copy(data, tmp_path, data) == ([], data)


def test_what_is_there_is_not_copied_again(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill leaves it: some pieces, one of them half, and holes."""
    moved: list[int] = []
    usual = os.pwrite

    def seen(target: int, piece: memoryview, place: int) -> int:
        moved.append(place // SIZE)
        return usual(target, piece, place)

    there = bytearray(data + b"of another time")
    bad = {number for number in range(len(digests(data))) if number % 3 == 1}
    for number in bad:
        there[number * SIZE : number * SIZE + 1] = bytes([there[number * SIZE] ^ 1])
    monkeypatch.setattr(os, "pwrite", seen)
    assert copy(data, tmp_path, data, bytes(there)) == ([], data)
    assert set(moved) == bad


def test_pieces_with_other_bytes_are_named(tmp_path: Path) -> None:
    wanted = os.urandom(5 * SIZE + 1)
    changed = bytearray(wanted)
    for number in (1, 5):
        changed[number * SIZE] ^= 1
    assert copy(bytes(changed), tmp_path, wanted)[0] == [1, 5]


def test_a_source_that_is_too_short(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(StoreError, match=rf"source ended after {len(data) - 1} of {len(data)} bytes"):
        copy(data[:-1], tmp_path, data)


def test_a_target_that_loses_bytes_meanwhile(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(StoreError, match="it has become shorter than"):
        copy(data, tmp_path, data, data)


def test_a_full_disk(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SpaceError, match=f"no space left while writing {tmp_path}/target"):
        copy(data, tmp_path, data)


def test_a_source_that_cannot_be_read(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(StoreError, match=f"cannot read {tmp_path}/source: Input/output error"):
        copy(data, tmp_path, data)


def test_an_interruption_ends_every_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece is through, the others are held up until somebody wants an end."""
    data, ended, usual = os.urandom(8 * SIZE), list[bool](), os.pwrite

    def slow(target: int, piece: memoryview, place: int) -> int:
        if place >= SIZE:
            ended.append(stop.wait(30))
        return usual(target, piece, place)

    def interrupted(done: int) -> None:
        raise KeyboardInterrupt

    stop = threading.Event()
    monkeypatch.setattr(pieces, "_Copying", functools.partial(pieces._Copying, stop=stop))
    monkeypatch.setattr(os, "pwrite", slow)
    with pytest.raises(KeyboardInterrupt):
        copy(data, tmp_path, data, on_bytes=interrupted)
    assert all(ended) and len(ended) < 8
