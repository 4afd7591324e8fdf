"""The part of a file that has come so far: written, read back, and digested meanwhile.

Owns how bytes get into it. What is digested is what was written, not what came. The system copies from file
to file by itself; a thread of its own takes the sha256 of what is read back.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kiln import files

# Bytes: of what is copied at once, and of what is digested at once, of which so many pieces may wait.
STRETCH, PIECE, AHEAD = 1 << 22, 1 << 20, 4


class Part:
    """What has come, in the open file `stream` at `path`: `begin` it, then `write` and `copy` to its end.

    `on_bytes` gets the count of bytes in it.
    """

    def __init__(self, stream: IO[bytes], path: Path, on_bytes: Callable[[int], None]) -> None:
        self.begun = self.size = 0
        self._stream, self._path, self._on_bytes = stream, path, on_bytes
        self._digest = _Digest()
        self._room = itertools.cycle([memoryview(bytearray(PIECE)) for _ in range(AHEAD + 2)])

    def __enter__(self) -> Part:
        self._digest.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._digest.end()

    def begin(self, offset: int) -> None:
        """Go on from `offset`: what is before it counts, what is after it goes. Raises `StoreError`."""
        self.begun = offset
        with files.translated(self._path):
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
        """Of all that is in it, as `sha256:<hex>`."""
        return self._digest.end()

    def _add(self, count: int) -> None:
        """Have that many more bytes of it digested."""
        end = self.size + count
        while self.size < end:
            piece = next(self._room)[: end - self.size]
            with files.translated(self._path):
                read = os.preadv(self._stream.fileno(), [piece], self.size)
                if not read:
                    raise OSError(f"it has become shorter than {end} bytes")
            self._digest.add(piece[:read])
            self.size += read
        self._on_bytes(self.size)


class _Digest:
    """sha256 by a thread of its own: it takes as long as copying and reading together."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._pieces: queue.Queue[memoryview | None] = queue.Queue(AHEAD)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, piece: memoryview) -> None:
        """A piece's memory may be used again once AHEAD + 1 more have been added."""
        self._pieces.put(piece)

    def end(self) -> str:
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()
        return f"sha256:{self._hash.hexdigest()}"

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._hash.update(piece)
