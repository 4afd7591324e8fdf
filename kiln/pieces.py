"""The pieces of an image, each with a digest of its own: so that cores can share the verifying of a copy.

One core takes a sha256 at about half the speed at which a system copies. Owns the size of a piece, to which
records keep, and the copying from file to file in them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from kiln import files
from kiln.errors import StoreError

SIZE = 1 << 26
"""Bytes of a piece; the last one of a file may have fewer. Part of the record's format."""
# Bytes that are read, written and digested while a core's own cache has them.
STRETCH = 1 << 18
MOST_THREADS = 4


@dataclass(frozen=True)
class Measured:
    """A file's bytes: how many, their digest, and those of its pieces, each as `sha256:<hex>`."""

    size: int
    digest: str
    pieces: tuple[str, ...]


def measure(path: Path, on_bytes: Callable[[int], None]) -> Measured:
    """Read a file once; `on_bytes` gets the count of bytes read so far."""
    whole, pieces, done = hashlib.sha256(), list[str](), 0
    with path.open("rb", buffering=0) as stream, ThreadPoolExecutor(1) as other:
        piece = hashlib.sha256()
        while chunk := stream.read(min(files.CHUNK, SIZE - done % SIZE)):
            both = other.submit(whole.update, chunk)
            piece.update(chunk)
            both.result()
            done += len(chunk)
            if done % SIZE == 0:
                pieces.append(f"sha256:{piece.hexdigest()}")
                piece = hashlib.sha256()
            on_bytes(done)
    if done % SIZE:
        pieces.append(f"sha256:{piece.hexdigest()}")
    return Measured(done, f"sha256:{whole.hexdigest()}", tuple(pieces))


def count(size: int) -> int:
    """How many pieces a file of `size` bytes has."""
    return -(-size // SIZE)


def copy(
    source: IO[bytes],
    target: IO[bytes],
    path: Path,
    size: int,
    wanted: Sequence[str],
    on_bytes: Callable[[int], None],
) -> list[int]:
    """Have `size` bytes of `source` in `target`, the open file `path`; returns which pieces have other bytes.

    A piece that is in `target` already is not copied. Raises `StoreError`, `SpaceError`.
    """
    with files.translated(path):
        there = os.fstat(target.fileno()).st_size
        if there > size:
            target.truncate(size)
    copying = _Copying(str(source.name), target, path, min(there, size), size, wanted)
    # One more than cores: each waits now and then, for the disk or for memory.
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)) + 1, count(size))
    with contextlib.ExitStack() as ending:
        for _ in range(threads):
            copying.sources.put(ending.enter_context(_again(source)))
        pool = ending.enter_context(ThreadPoolExecutor(threads))
        ending.callback(copying.stop.set)
        running = {pool.submit(copying.piece, number): number for number in range(count(size))}
        ending.callback(lambda: [each.cancel() for each in running])
        done, bad = 0, list[int]()
        for each in as_completed(running):
            number = running[each]
            if not each.result():
                bad.append(number)
            done += min(SIZE, size - number * SIZE)
            on_bytes(done)
    return sorted(bad)


def _again(source: IO[bytes]) -> IO[bytes]:
    """The same file once more: the system reads ahead for each opening by itself.

    Closing any of them loses its locks (fcntl(2)).
    """
    try:
        return Path(f"/proc/self/fd/{source.fileno()}").open("rb", buffering=0)
    except OSError as error:
        raise StoreError(f"cannot read {source.name}: {error.strerror}") from error


@dataclass(frozen=True)
class _Copying:
    """What the threads share: `sources` has the file named `name` open for each of them.

    `target` had `there` bytes; the pieces are to have the digests `wanted`.
    """

    name: str
    target: IO[bytes]
    path: Path
    there: int
    size: int
    wanted: Sequence[str]
    sources: SimpleQueue[IO[bytes]] = field(default_factory=SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)

    def piece(self, number: int) -> bool:
        """Have that piece in the target; whether it has the bytes of its digest."""
        begin, wanted = number * SIZE, self.wanted[number]
        end = min(begin + SIZE, self.size)
        if end <= self.there and self._digest(begin, end, self._kept) == wanted:
            return True
        source = self.sources.get()
        try:
            return self._digest(begin, end, partial(self._copied, source.fileno())) == wanted
        finally:
            self.sources.put(source)

    def _digest(self, begin: int, end: int, taken: Callable[[memoryview, int], int]) -> str:
        """Of what is from `begin` to `end`; `taken` puts some of it into memory, and returns how much."""
        digest, room, place = hashlib.sha256(), memoryview(bytearray(STRETCH)), begin
        while place < end:
            if self.stop.is_set():
                raise _Stopped
            count = taken(room[: end - place], place)
            digest.update(room[:count])
            place += count
        return f"sha256:{digest.hexdigest()}"

    def _kept(self, room: memoryview, place: int) -> int:
        """What is in the target already."""
        with files.translated(self.path):
            count = os.preadv(self.target.fileno(), [room], place)
            if not count:
                raise OSError(f"it has become shorter than {self.there} bytes")
        return count

    def _copied(self, source: int, room: memoryview, place: int) -> int:
        """What is in the source, and now in the target, too."""
        try:
            count = os.preadv(source, [room], place)
        except OSError as error:
            raise StoreError(f"cannot read {self.name}: {error.strerror}") from error
        if not count:
            raise StoreError(f"{self.name} ended after {place} of {self.size} bytes", "run it again")
        with files.translated(self.path):
            done = 0
            while done < count:
                done += os.pwrite(self.target.fileno(), room[done:count], place + done)
        return count


class _Stopped(Exception):
    """Another thread failed, or somebody wants an end."""
