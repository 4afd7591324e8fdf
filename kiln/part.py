"""The part of a file that has come so far: written, read back, and digested meanwhile.

Owns how bytes get into it. What is digested is what was written, not what came. The system copies from file
to file by itself; a thread of its own reads back and takes the sha256, which is the longer work of the two.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kiln import files

# Bytes. What is copied at once; what is read back at once, so that it stays in a core's own cache; and how
# far the digest may lag behind what is written: the progress shown is that of the slower one.
STRETCH, PIECE, AHEAD = 1 << 22, 1 << 18, 1 << 26


class Part:
    """What has come, in the open file `stream` at `path`: `begin` it, then `write` and `copy` to its end.

    `on_bytes` gets the count of bytes in it.
    """

    def __init__(self, stream: IO[bytes], path: Path, on_bytes: Callable[[int], None]) -> None:
        self.begun = self.size = 0
        self._stream, self._path, self._on_bytes = stream, path, on_bytes
        self._digest = _Digest(stream.fileno())

    def __enter__(self) -> Part:
        self._digest.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._digest.end()

    def begin(self, offset: int) -> None:
        """Go on from `offset`: what is before it counts, what is after it goes. Raises `StoreError`."""
        self.begun = offset
        with files.translated(self._path):
            # ext4 writes a file that was ever made empty to the disk at its close (auto_da_alloc),
            # which took 0.8 s of 2 for 2 GB.
            if os.fstat(self._stream.fileno()).st_size > offset:
                self._stream.truncate(offset)
            self._stream.seek(offset)
        while self.size < offset:
            self._add(min(STRETCH, offset - self.size))

    def write(self, piece: bytes | memoryview) -> None:
        """Add bytes. Raises `SpaceError`, `StoreError`."""
        left = memoryview(piece)
        with files.translated(self._path):
            while left:
                left = left[self._stream.write(left) :]
        self._add(len(piece))

    def copy(self, source: IO[bytes]) -> bool:
        """Add a stretch of another file from where that stands; False where it can't be, or at its end."""
        try:
            count = os.copy_file_range(source.fileno(), self._stream.fileno(), STRETCH)
        except OSError:
            return False  # whoever reads and writes is told by which of both
        self._add(count)
        return count > 0

    def digest(self) -> str:
        """Of all that is in it, as `sha256:<hex>`. Raises `StoreError`."""
        self._digest.end()
        with files.translated(self._path):
            return self._digest.found()

    def _add(self, count: int) -> None:
        """Have that many more bytes of it digested. Raises `StoreError` where earlier ones couldn't be."""
        self.size += count
        with files.translated(self._path):
            self._digest.reach(self.size)
        self._on_bytes(self.size)


class _Digest:
    """sha256 of an open file by a thread of its own, which follows what is written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._hash = descriptor, hashlib.sha256()
        self._written = self._done = 0
        self._ended = False
        self._failed: Exception | None = None
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def reach(self, end: int) -> None:
        """There are that many bytes now; waits for its thread to be near. Raises what reading back raised."""
        with self._moved:
            self._written = end
            self._moved.notify()
            self._moved.wait_for(lambda: self._failed or end - self._done < AHEAD)
        self._check()

    def end(self) -> None:
        """Have all that was written digested, and no more."""
        with self._moved:
            self._ended = True
            self._moved.notify()
        self._thread.join()

    def found(self) -> str:
        """The digest. Raises what reading back raised."""
        self._check()
        return f"sha256:{self._hash.hexdigest()}"

    def _check(self) -> None:
        if self._failed:
            raise self._failed

    def _run(self) -> None:
        room = memoryview(bytearray(PIECE))
        try:
            while (end := self._wait()) > self._done:
                self._read(room, min(end, self._done + STRETCH))
        except Exception as error:
            # Whatever it is: who writes would wait for this thread without end.
            with self._moved:
                self._failed = error
                self._moved.notify()

    def _wait(self) -> int:
        """Until there is more, or won't be; returns how much there is."""
        with self._moved:
            self._moved.wait_for(lambda: self._written > self._done or self._ended)
            return self._written

    def _read(self, room: memoryview, end: int) -> None:
        """Digest on, up to `end`."""
        place = self._done
        while place < end:
            count = os.preadv(self._descriptor, [room[: end - place]], place)
            if not count:
                raise OSError(f"it has become shorter than {end} bytes")
            self._hash.update(room[:count])
            place += count
        with self._moved:
            self._done = place
            self._moved.notify()
