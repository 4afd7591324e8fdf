"""What has come of a file: the digest is of what was written, wherever it began."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from kiln.errors import SpaceError, StoreError
from kiln.part import AHEAD, PIECE, Part

# More than the digest may lag behind.
DATA = os.urandom(PIECE) * (AHEAD // PIECE + 4) + b"end"


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "part").open("w+b", buffering=0) as opened:
        yield opened


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_written_and_copied_bytes_are_digested_in_their_order(stream: IO[bytes], tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    counts: list[int] = []
    with (
        Part(stream, tmp_path / "part", counts.append) as part,
        (tmp_path / "source").open("rb", 0) as source,
    ):
        part.begin(0)
        part.write(b"head")
        while part.copy(source):
            pass
        part.write(b"tail")
        assert part.digest() == sha256(b"head" + DATA + b"tail")
    assert (tmp_path / "part").read_bytes() == b"head" + DATA + b"tail"
    assert counts[0] == 4 and counts == sorted(counts) and counts[-1] == part.size == len(DATA) + 8


def test_what_is_there_before_counts_and_what_is_after_goes(stream: IO[bytes], tmp_path: Path) -> None:
    stream.write(DATA)
    with Part(stream, tmp_path / "part", lambda count: None) as part:
        part.begin(PIECE + 1)
        part.write(b"new")
        assert part.digest() == sha256(DATA[: PIECE + 1] + b"new")
    assert (tmp_path / "part").read_bytes() == DATA[: PIECE + 1] + b"new"


def test_what_was_written_is_no_longer_there(
    stream: IO[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with Part(stream, tmp_path / "part", lambda count: None) as part:
        part.begin(0)
        with pytest.raises(StoreError, match="it has become shorter than 1 bytes"):
            part.write(b"1")
            part.digest()


def test_reading_back_fails_far_before_the_end(
    stream: IO[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "preadv", broken)
    counts: list[int] = []
    with Part(stream, tmp_path / "part", counts.append) as part:
        part.begin(0)
        with pytest.raises(StoreError, match="Input/output error"):
            while part.size < 2 * AHEAD:
                part.write(DATA[: 8 * PIECE])
    assert not counts or counts[-1] < 2 * AHEAD


def test_a_full_disk(tmp_path: Path) -> None:
    with (
        open("/dev/full", "r+b", buffering=0) as stream,
        Part(stream, tmp_path / "part", lambda count: None) as part,
        pytest.raises(SpaceError, match=f"no space left while writing {tmp_path}/part"),
    ):
        part.write(b"1")
