"""Verified blobs by digest, on this machine.

    <blobs>/sha256/<hex>            complete: put there by rename, after its bytes were verified
    <blobs>/sha256/<hex>.partial    on its way; kept when a download is cut, and gone on with
    <blobs>/sha256/<hex>.lock       held while it is on its way; gone once it is complete

A partial file is told by its length. One that is no longer than the blob holds the blob's first
bytes: so come blobs below 2 * RANGE. A longer one holds bytes of a larger blob at their offsets, with
holes, and behind the blob's end a table of little-endian 64-bit numbers: MAGIC, RANGE, and for each
RANGE bytes of the blob how many of them are there, counted from the range's start. Any other is begun
anew. A count is written after its bytes, so what a killed process leaves is true. What a power cut
leaves need not be, in either form; then the digest is wrong.

Owns this layout. Knows nothing of where blobs come from.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock

from kiln import files
from kiln.errors import BaseError, SpaceError, StoreError
from kiln.registry.oci import Descriptor

# A blob of 10 GB over a slow line takes hours; a process that holds the lock longer is stuck.
LOCK_SECONDS = 6 * 3600.0
# Bytes. Below the 30 MB after which a known proxy cuts each answer. Four connections of 20 MB/s, with 0.15 s
# for each request, bring 52 MB/s by ranges of 8 MiB, 62 by these, 70 by 32 MiB, and 42 where they are cut.
RANGE = 24 << 20
MAGIC = int.from_bytes(b"kilnpart", "little")
# Fewer, and the digest falls behind on a fast line; many more, and the connection of who digests idles.
CHUNKS_AT_ONCE = 32
_NUMBER = struct.Struct("<Q")


def blob_path(blobs: Path, digest: str) -> Path:
    return blobs / "sha256" / digest.removeprefix("sha256:")


def complete(blobs: Path, wanted: Descriptor, *, check_size: bool = True) -> bool:
    """Whether the blob is there. Its name is proof of its bytes, so only the size is looked at."""
    path = blob_path(blobs, wanted.digest)
    try:
        size = path.stat().st_size
    except OSError:
        # Whatever else is wrong with the folder is told by who writes there.
        return False
    if check_size and size != wanted.size:
        path.unlink(missing_ok=True)
        return False
    return True


@contextlib.contextmanager
def claimed(blobs: Path, wanted: Descriptor, notify: Callable[[str], None]) -> Iterator[Path]:
    """Be the one process that brings this blob; yields its path, complete or not by then."""
    path = blob_path(blobs, wanted.digest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make {path.parent}: {error.strerror}"
        raise StoreError(message, f"look at: ls -ld {blobs}") from error
    lock = path.with_name(f"{path.name}.lock")
    with files.locked(lock, wait=LOCK_SECONDS, on_wait=notify):
        yield path
        # Whoever still waits for the removed file finds the blob complete and needs no lock.
        lock.unlink(missing_ok=True)


class Partial:
    """A blob on its way, in ranges that grow from their starts; threads may write different ones at once.

    No byte is written twice, so the digest can follow the unbroken beginning as it grows. `sized`: the
    size in `wanted` is the blob's own; otherwise nothing that is there is gone on with.
    """

    def __init__(self, path: Path, wanted: Descriptor, *, sized: bool = True) -> None:
        self._final, self._path = path, path.with_name(f"{path.name}.partial")
        self._wanted, self._sized = wanted, sized
        large = sized and wanted.size >= 2 * RANGE
        self._step = RANGE if large else sys.maxsize
        self._counts = [0] * (-(-wanted.size // RANGE) if large else 1)
        self._table = struct.Struct(f"<{2 + len(self._counts)}Q")
        self._locks = [Lock() for _ in self._counts]
        self._digest, self._digested, self._digesting = hashlib.sha256(), 0, Lock()
        with self._told():
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
            found = self._read_counts() if sized else None
        if found is None:
            self.restart()
        else:
            self._counts = found
            self._write_table()

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return sum(self._counts)

    def gap(self, index: int) -> tuple[int, int]:
        """What is missing of a range: offset of the first byte, and of the one after the last."""
        start = index * self._step
        return start + self._counts[index], min(start + self._step, self._wanted.size)

    def unfinished(self) -> list[int]:
        """The ranges of which bytes are missing, in order."""
        gaps = enumerate(map(self.gap, range(len(self._counts))))
        return [index for index, (offset, end) in gaps if offset < end]

    def write(self, offset: int, chunk: bytes) -> int:
        """Put `chunk` at `offset`, up to which its range must be there. Returns how much of it was missing.

        Raises `WrongBytes` beyond the blob's end, `SpaceError` and `StoreError`.
        """
        if self._sized and offset + len(chunk) > self._wanted.size:
            raise WrongBytes(f"more than the {self._wanted.size} bytes that the manifest names")
        fresh, view = 0, memoryview(chunk)
        while view:
            index, within = divmod(offset, self._step)
            part = view[: self._step - within]
            fresh += self._extend(index, within, part)
            offset, view = offset + len(part), view[len(part) :]
        return fresh

    def restart(self) -> None:
        """Forget what is there."""
        with self._told():
            self._file.truncate(0)
        self._counts = [0] * len(self._counts)
        self._digest, self._digested = hashlib.sha256(), 0
        self._write_table()

    def finish(self) -> None:
        """Verify, and put the blob under its name; `WrongBytes` removes what was there."""
        while chunk := self._undigested():
            self._update(chunk)
        got = f"sha256:{self._digest.hexdigest()}"
        if got != self._wanted.digest or (self._sized and self.size != self._wanted.size):
            self.remove()
            raise WrongBytes(f"{self.size} bytes with the digest {got}")
        with self._told():
            self._file.truncate(self.size)
            # A rename can survive a power cut that the bytes don't, and the name is trusted later.
            os.fsync(self._file.fileno())
            self._path.replace(self._final)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _extend(self, index: int, within: int, part: memoryview) -> int:
        with self._locks[index]:
            there = self._counts[index]
            part, offset = part[max(0, there - within) :], index * self._step + there
            if not part:
                return 0
            self._write_at(offset, part)
            self._write_count(index, there + len(part))
            self._counts[index] = there + len(part)
        self._follow(offset, part)
        return len(part)

    def _follow(self, offset: int, part: memoryview) -> None:
        """Digest what came if it is next, and of what waits some chunks; one thread at a time does."""
        if not self._digesting.acquire(blocking=False):
            return
        try:
            if offset == self._digested:
                self._update(part)
            for chunk in itertools.islice(iter(self._undigested, b""), CHUNKS_AT_ONCE):
                self._update(chunk)
        finally:
            self._digesting.release()

    def _update(self, chunk: bytes | memoryview) -> None:
        self._digest.update(chunk)
        self._digested += len(chunk)

    def _undigested(self) -> bytes:
        """What is there of the next chunk to digest."""
        index, within = divmod(self._digested, self._step)
        ready = self._counts[index] - within if index < len(self._counts) else 0
        return os.pread(self._file.fileno(), min(files.CHUNK, ready), self._digested) if ready else b""

    def _read_counts(self) -> list[int] | None:
        """How much of each range the file holds; None where it doesn't say so."""
        descriptor, size = self._file.fileno(), self._wanted.size
        length = os.fstat(descriptor).st_size
        if length <= size:
            starts = range(0, max(size, 1), self._step)
            return [max(0, min(length - start, self._step)) for start in starts]
        table = os.pread(descriptor, self._table.size, size)
        if len(self._counts) == 1 or length != size + self._table.size or len(table) != self._table.size:
            return None
        magic, step, *counts = self._table.unpack(table)
        limits = [min(self._step, size - index * self._step) for index in range(len(counts))]
        sound = all(count <= limit for count, limit in zip(counts, limits, strict=True))
        return counts if sound and (magic, step) == (MAGIC, self._step) else None

    def _write_table(self) -> None:
        if len(self._counts) > 1:
            table = self._table.pack(MAGIC, self._step, *self._counts)
            self._write_at(self._wanted.size, memoryview(table))

    def _write_count(self, index: int, count: int) -> None:
        if len(self._counts) > 1:
            offset = self._wanted.size + (2 + index) * _NUMBER.size
            self._write_at(offset, memoryview(_NUMBER.pack(count)))

    def _write_at(self, offset: int, view: memoryview) -> None:
        with self._told():
            while view:
                done = os.pwrite(self._file.fileno(), view, offset)
                offset, view = offset + done, view[done:]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                message = f"cannot write {self._path}: {error.strerror}"
                raise StoreError(message, f"look at: ls -ld {self._path.parent}") from error
            folder, need = self._path.parent, max(0, self._wanted.size - self.size)
            raise SpaceError(
                f"no space left in {folder}: {need} more bytes are needed for {self._wanted.digest}",
                f"free some and run it again, what is there is kept: df -h {folder}",
            ) from error


class WrongBytes(BaseError):
    """The bytes that came are not those of the digest; becomes a message of the caller's."""
