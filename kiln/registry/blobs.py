"""Verified blobs by digest, on this machine.

    <blobs>/sha256/<hex>            complete: put there by rename, after its bytes were verified
    <blobs>/sha256/<hex>.partial    on its way; kept when a download is cut, and gone on with
    <blobs>/sha256/<hex>.lock       held while it is on its way; gone once it is complete

Owns this layout. Knows nothing of where blobs come from.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from kiln import files
from kiln.errors import BaseError, SpaceError, StoreError
from kiln.registry.oci import Descriptor

# A blob of 10 GB over a slow line takes hours; a process that holds the lock longer is stuck.
LOCK_SECONDS = 6 * 3600.0


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
    """A blob on its way: what is there already is digested first, so that it can be gone on with."""

    def __init__(self, path: Path, wanted: Descriptor, *, sized: bool = True) -> None:
        self._final, self._path = path, path.with_name(f"{path.name}.partial")
        self._wanted, self._sized = wanted, sized
        self._digest, self.size = hashlib.sha256(), 0
        with self._space():
            self._file = self._path.open("a+b", buffering=0)
        if sized and os.fstat(self._file.fileno()).st_size <= wanted.size:
            self._file.seek(0)
            while chunk := self._file.read(files.CHUNK):
                self._digest.update(chunk)
                self.size += len(chunk)
        else:
            self.restart()

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()

    def write(self, chunk: bytes) -> None:
        if self._sized and self.size + len(chunk) > self._wanted.size:
            raise WrongBytes(f"more than the {self._wanted.size} bytes that the manifest names")
        with self._space():
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]
        self._digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        with self._space():
            self._file.truncate(0)
        self._digest, self.size = hashlib.sha256(), 0

    def finish(self) -> None:
        """Verify, and put the blob under its name; `WrongBytes` removes what was there."""
        got = f"sha256:{self._digest.hexdigest()}"
        if got != self._wanted.digest or (self._sized and self.size != self._wanted.size):
            self.remove()
            raise WrongBytes(f"{self.size} bytes with the digest {got}")
        with self._space():
            # A rename can survive a power cut that the bytes don't, and the name is trusted later.
            os.fsync(self._file.fileno())
            self._path.replace(self._final)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _space(self) -> Iterator[None]:
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
