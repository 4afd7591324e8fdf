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
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from kiln import files, pieces
from kiln.errors import SpaceError, StoreError, VerifyError
from kiln.part import PIECE, Part
from kiln.ui import size_text

RESERVE_BYTES = 64 << 20
# Of which `st_blocks` counts (stat(2)).
BLOCK = 512

Progress = Callable[[int, int], None]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is to come: `digest` is `sha256:<hex>`, `time` its modification time, in Unix seconds.

    `pieces` are the digests of its pieces, none where they are not known.
    """

    file: str
    size: int
    digest: str
    time: int
    pieces: tuple[str, ...] = ()


class Source(Protocol):
    def send(self, part: Part, offset: int) -> None:
        """Begin `part` at `offset`, or at 0, and add all bytes from there on. Raises `KilnError`."""
        ...

    def open(self) -> IO[bytes] | None:
        """The file itself, where it is one of this machine. Raises `KilnError`."""
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
    # One that is copied in pieces may have holes.
    there = part.stat().st_blocks * BLOCK if part.exists() else 0
    needed, free = wanted.size - there + RESERVE_BYTES, files.free_bytes(part.parent)
    if free < needed:
        raise SpaceError(
            f"{part.parent} has {size_text(free)} free, and {wanted.file} needs {size_text(needed)}",
            "free some, or name another folder: --to DIR",
        )


def _fill(wanted: Wanted, source: Source, part: Path, notify: Notify, progress: Progress) -> None:
    """Have all bytes in `part`, verified."""
    with files.translated(part):
        descriptor = _opened(part)
    with os.fdopen(descriptor, "r+b", buffering=0) as stream:
        in_pieces = wanted.pieces and len(wanted.pieces) == pieces.count(wanted.size)
        original = source.open() if in_pieces else None
        if original:
            with original:
                wrong = _copy(wanted, original, stream, part, progress)
        else:
            wrong = _receive(wanted, source, stream, part, notify, progress)
    if wrong:
        part.unlink()
        raise VerifyError(
            f"{wanted.file} has other bytes than its record says: {wrong}",
            "it was changed on its disk, or on the way: run it again, and tell whoever keeps the images",
        )


def _opened(part: Path) -> int:
    """A descriptor of it, to read and write: also where a pull was killed when only the name was missing."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(part, os.O_RDWR | os.O_CREAT | flags, 0o600)
    except PermissionError:
        # In a folder that others write to it may be anything: a pipe would wait for who writes to it.
        closed = os.open(part, os.O_RDONLY | os.O_NONBLOCK | flags)
    try:
        os.fchmod(closed, 0o600)
    finally:
        os.close(closed)
    return os.open(part, os.O_RDWR | flags)


def _copy(wanted: Wanted, original: IO[bytes], stream: IO[bytes], part: Path, progress: Progress) -> str:
    """Copy a file of this machine with several cores; returns which bytes are wrong, '' for none."""
    total = wanted.size
    bad = pieces.copy(original, stream, part, total, wanted.pieces, lambda done: progress(done, total))
    return f"in {len(bad)} of {len(wanted.pieces)} pieces, from byte {bad[0] * pieces.SIZE} on" if bad else ""


def _receive(
    wanted: Wanted, source: Source, stream: IO[bytes], part: Path, notify: Notify, progress: Progress
) -> str:
    """Have what a source sends; returns how its digest differs, '' for not.

    What an earlier try left may be damaged: then it comes from the start.
    """
    there = os.fstat(stream.fileno()).st_size
    begin = there if 0 < there <= wanted.size else 0
    begun, found = _write(wanted, source, stream, part, begin, progress)
    if begun and found != wanted.digest:
        notify("what an earlier try left was damaged: it comes from the start")
        _, found = _write(wanted, source, stream, part, 0, progress)
    return "" if found == wanted.digest else f"{found[:19]}…, not {wanted.digest[:19]}…"


def _write(
    wanted: Wanted, source: Source, stream: IO[bytes], path: Path, offset: int, progress: Progress
) -> tuple[int, str]:
    """Write from `offset` on; returns where it began, and the digest of all."""

    def check(done: int) -> None:
        if done > wanted.size:
            raise _TooLong
        progress(done, wanted.size)

    with Part(stream, path, check) as part:
        try:
            source.send(part, offset)
        except _TooLong:
            return part.begun, f"more than {wanted.size} bytes"
        if part.size < wanted.size:
            raise StoreError(
                f"{wanted.file} ended after {part.size} of {wanted.size} bytes",
                "run it again: it goes on from there",
            )
        return part.begun, part.digest()


def _land(wanted: Wanted, part: Path, target: Path) -> None:
    """Give it its name, which nothing else may have got meanwhile.

    Its bytes needn't be on the disk yet, as with `cp`: it can be pulled again, and one that a crash of the
    machine cut short is told by its size.
    """
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


class _TooLong(Exception):
    """More has come than there is to come."""


class LocalFile:
    """A file of a mounted store; it is opened once, whatever takes its name meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> IO[bytes]:
        with self._told():
            stream = self.path.open("rb", buffering=0)
        # Tells whoever clears the store that it is read; not every file system has locks.
        with contextlib.suppress(OSError):
            fcntl.lockf(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return stream

    def send(self, part: Part, offset: int) -> None:
        with self.open() as stream:
            part.begin(offset)
            stream.seek(offset)
            while part.copy(stream) or self._by_hand(stream, part):
                pass

    def _by_hand(self, stream: IO[bytes], part: Part) -> bool:
        """Read and write a piece, where the system doesn't copy between two disks; False at the end."""
        with self._told():
            piece = stream.read(PIECE)
        part.write(piece)
        return bool(piece)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from error
