"""A file that is brought to a folder: verified as it comes, gone on with after a break, whole or not there.

    FOLDER/.FILE.part      what has come so far; kept when it breaks off
    FOLDER/.FILE.lock      held by the one process that brings it, on whichever node; removed at the end

Owns these two, and when a file counts as the same. What has come is the digest's word alone; a file that
lies at the target is taken for it by its size and its time, which every change of it would move on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from kiln import files
from kiln.errors import SpaceError, StoreError, VerifyError
from kiln.ui import size_text

# Bytes at a time: of a copy, and of what is read back to be digested.
COPY, READ = 4 << 20, 1 << 20
RESERVE_BYTES = 64 << 20
# What the kernel, a file system or a sandbox says where it can't copy by itself.
NO_COPYING = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)

Progress = Callable[[int, int], None]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is to come: `digest` is `sha256:<hex>`, `time` its modification time, in Unix seconds."""

    file: str
    size: int
    digest: str
    time: int


class Source(Protocol):
    def write(self, target: int, offset: int) -> Generator[int, None, None]:
        """Write the bytes from `offset` on to the open file `target`; gives where it is after each piece.

        The first is where it begins: `offset`, or 0 for a source that has no other way. Raises `KilnError`,
        and the OSError of a write.
        """
        ...


def bring(wanted: Wanted, source: Source, folder: Path, notify: Notify, progress: Progress) -> bool:
    """Have the file in `folder`; returns whether it had to be brought.

    Raises `StoreError` where another file has its name, `VerifyError` where the bytes are not those of the
    digest, `SpaceError`, `BusyError`, and what the source raises.
    """
    target = folder / wanted.file
    if _is_there(wanted, target):
        return False
    with files.translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{wanted.file}.lock"
    with files.locked(lock, wait=math.inf, on_wait=notify):
        try:
            if _is_there(wanted, target):
                return False
            part = folder / f".{wanted.file}.part"
            _check_space(wanted, part)
            _fill(wanted, source, part, notify, progress)
            _land(wanted, part, target)
        finally:
            lock.unlink(missing_ok=True)
    return True


def _is_there(wanted: Wanted, target: Path) -> bool:
    """Whether the file is there. Raises `StoreError` where something else is."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"cannot look at {target}: {error.strerror}") from error
    same_size = target.is_file() and status.st_size == wanted.size
    if same_size and status.st_mtime_ns == wanted.time * 1_000_000_000:
        return True
    if same_size and f"sha256:{files.sha256_file(target)}" == wanted.digest:
        return True
    raise StoreError(
        f"{target} is there already, and is another file", "move it away, or name another folder: --to DIR"
    )


def _check_space(wanted: Wanted, part: Path) -> None:
    there = part.stat().st_size if part.exists() else 0
    needed, free = wanted.size - there + RESERVE_BYTES, files.free_bytes(part.parent)
    if free < needed:
        raise SpaceError(
            f"{part.parent} has {size_text(free)} free, and {wanted.file} needs {size_text(needed)}",
            "free some, or name another folder: --to DIR",
        )


def _fill(wanted: Wanted, source: Source, part: Path, notify: Notify, progress: Progress) -> None:
    """Have all bytes in `part`. What an earlier try left may be damaged: then they come from the start."""
    with files.translated(part):
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as stream:
        there = os.fstat(descriptor).st_size
        begin = there if 0 < there <= wanted.size else 0
        begun, found = _write(wanted, source, stream, part, begin, progress)
        if begun and found != wanted.digest:
            notify("what an earlier try left was damaged: it comes from the start")
            _, found = _write(wanted, source, stream, part, 0, progress)
    if found != wanted.digest:
        part.unlink()
        raise VerifyError(
            f"{wanted.file} has other bytes than its record says: {found[:19]}…, not {wanted.digest[:19]}…",
            "it was changed on its disk, or on the way: run it again, and tell whoever keeps the images",
        )


def _write(
    wanted: Wanted, source: Source, stream: IO[bytes], part: Path, offset: int, progress: Progress
) -> tuple[int, str]:
    """Write from `offset` on; returns where it began, and the digest of all."""
    descriptor = stream.fileno()
    with (
        _Digest(descriptor) as digest,
        files.translated(part),
        contextlib.closing(source.write(descriptor, offset)) as positions,
    ):
        begin = next(positions)
        os.ftruncate(descriptor, begin)
        digest.reach(begin)
        done = begin
        for done in positions:
            digest.reach(min(done, wanted.size))
            progress(min(done, wanted.size), wanted.size)
            if done > wanted.size:
                break
        if done < wanted.size:
            raise StoreError(
                f"{wanted.file} ended after {done} of {wanted.size} bytes",
                "run it again: it goes on from there",
            )
        os.fsync(descriptor)
        return begin, digest.text() if done == wanted.size else f"more than {wanted.size} bytes"


def _land(wanted: Wanted, part: Path, target: Path) -> None:
    """Give it its name, which nothing else may have got meanwhile."""
    with files.translated(target):
        os.utime(part, (wanted.time, wanted.time))
        os.chmod(part, 0o444)
        try:
            os.link(part, target)
            part.unlink()
        except FileExistsError:
            raise StoreError(f"{target} has come to be there meanwhile", "run it again") from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            # No hard links here, as on some network file systems; the lock keeps other pulls away.
            os.rename(part, target)
        files.sync_folder(target.parent)


class _Digest:
    """sha256 of a file that is being written, by a thread of its own: it takes as long as the writing.

    It reads what was written, which is in memory still, so that it is the file's own bytes that count.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._hash = descriptor, hashlib.sha256()
        self._reached, self._over = 0, False
        self._error: OSError | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Digest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def reach(self, position: int) -> None:
        """The file is written up to there."""
        with self._news:
            self._reached = position
            self._news.notify()

    def text(self) -> str:
        """Of all that was reached, as `sha256:<hex>`. Raises OSError where that can't be read."""
        self._end()
        if self._error:
            raise self._error
        return f"sha256:{self._hash.hexdigest()}"

    def _end(self) -> None:
        with self._news:
            self._over = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        view, done = memoryview(bytearray(READ)), 0
        while (goal := self._next(done)) > done:
            try:
                count = os.preadv(self._descriptor, [view[: min(READ, goal - done)]], done)
            except OSError as error:
                self._error = error
                return
            if not count:
                return  # somebody made it shorter: the digest will tell
            self._hash.update(view[:count])
            done += count

    def _next(self, done: int) -> int:
        """How far there is something to read; `done` once all is."""
        with self._news:
            self._news.wait_for(lambda: self._over or self._reached > done)
            return self._reached


def write_all(target: int, piece: bytes | memoryview, position: int) -> int:
    """Write a piece; returns the position behind it."""
    left = memoryview(piece)
    while left:
        count = os.pwrite(target, left, position)
        left, position = left[count:], position + count
    return position


class LocalFile:
    """A file of a mounted store; it is opened once, whatever takes its name meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, target: int, offset: int) -> Generator[int, None, None]:
        try:
            stream = self.path.open("rb", buffering=0)
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from error
        with stream:
            # Tells whoever clears the store that it is read; not every file system has locks.
            with contextlib.suppress(OSError):
                fcntl.lockf(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield offset
            copy, position = _copied, offset
            while True:
                try:
                    count = copy(stream.fileno(), target, position)
                except OSError as error:
                    if copy is _copied and error.errno in NO_COPYING:
                        copy = _read
                        continue
                    if error.errno in files.FULL:
                        raise
                    raise StoreError(f"cannot copy {self.path}: {error.strerror}") from error
                if not count and copy is _copied:
                    # Some file systems say so where they can't, too.
                    copy = _read
                    continue
                if not count:
                    return
                position += count
                yield position


def _copied(source: int, target: int, position: int) -> int:
    """By the kernel: without a copy in this process, or without any where the file system can share."""
    return os.copy_file_range(source, target, COPY, position, position)


def _read(source: int, target: int, position: int) -> int:
    piece = os.pread(source, READ, position)
    write_all(target, piece, position)
    return len(piece)
