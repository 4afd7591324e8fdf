"""Files that others can see, and trees that must go: atomic writes, locks, digests, safe look-ups.

Owns how Kiln writes, locks, reads inside a foreign tree, and removes. Knows no path of Kiln's own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import select
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from kiln.errors import BusyError, SpaceError, StoreError

CHUNK = 1 << 20
MAX_LINKS = 40
POLL_SECONDS = 0.1
FULL = (errno.ENOSPC, errno.EDQUOT)


def canonical_json(data: Any) -> str:
    """The one text for equal data: what digests and keys are made of."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """The hex digest of a file; `on_bytes` gets the count of bytes read so far."""
    with path.open("rb") as stream:
        return sha256_stream(stream, on_bytes)


def sha256_stream(stream: IO[bytes], on_bytes: Callable[[int], None] | None = None) -> str:
    """The hex digest of what is left to read."""
    digest, done = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
        done += len(chunk)
        if on_bytes:
            on_bytes(done)
    return digest.hexdigest()


def sha256_path(path: Path) -> str:
    """The digest of a file, or of a folder's names, modes, link targets and contents."""
    if not path.is_dir() or path.is_symlink():
        return _sha256_entry(path)
    entries = [(str(p.relative_to(path)), _sha256_entry(p)) for p in sorted(path.rglob("*"))]
    return hashlib.sha256(canonical_json(entries).encode("utf-8", "surrogateescape")).hexdigest()


def _sha256_entry(path: Path) -> str:
    if path.is_symlink():
        return "link:" + os.readlink(path)
    if path.is_dir():
        return "folder"
    if not path.is_file():
        path.stat()
        return "neither file nor folder"  # a pipe would be waited for
    executable = "x" if path.stat().st_mode & 0o111 else "-"
    return executable + sha256_file(path)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path` by rename, so that a reader sees the old file or the new one.

    Raises `SpaceError` on a full disk and `StoreError` where writing isn't allowed; leaves nothing
    half-made beside the target.
    """
    with translated(path), _temporary_beside(path) as (descriptor, temporary):
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        sync_folder(path.parent)


def link_atomic(path: Path, target: str) -> None:
    """Make or move the symbolic link `path` to `target` by rename."""
    with translated(path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        os.symlink(target, temporary)
        try:
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[tuple[int, str]]:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        yield descriptor, temporary
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse to sync a folder; nothing else may be wrong.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what the system says about a write into a `SpaceError` or `StoreError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise SpaceError(
                f"no space left while writing {path}", f"free some and run again; see: df -h {path.parent}"
            ) from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StoreError(f"cannot write {path}: {reason}", f"look at: ls -ld {path.parent}") from error


class Log(io.TextIOWrapper):
    """A log to append to. On a full disk it loses lines and says nothing: what filled the disk tells that."""

    def __init__(self, path: Path) -> None:
        with translated(path):
            super().__init__(path.open("ab"), encoding="utf-8")

    def write(self, text: str) -> int:
        with _unless_full():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with _unless_full():
            super().flush()

    def close(self) -> None:
        with _unless_full():
            super().close()


@contextlib.contextmanager
def _unless_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


@contextlib.contextmanager
def full_disk_told() -> Iterator[None]:
    """Turn a full disk into a `SpaceError`, whatever it was that could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" at {error.filename}" if error.filename else ""
        raise SpaceError(
            f"no space left on the disk{where}", "free some and run again; see: df -h"
        ) from error


@contextlib.contextmanager
def locked(path: Path, *, wait: float, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold an exclusive fcntl lock on the file `path`, made if missing and left in place.

    POSIX locks work between nodes on NFS and Lustre, and vanish with their process. The file holds
    the owner for people to read. Raises `BusyError` after `wait` seconds.
    """
    while True:
        with translated(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _acquire(descriptor, path, wait, on_wait)
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # it was removed while we waited: others would lock a new one
    try:
        _share(descriptor, path.parent)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.uname().nodename} pid {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _share(descriptor: int, folder: Path) -> None:
    """Let those lock a file of the caller's who may write to its folder, whatever the umask was."""
    status = os.fstat(descriptor)
    if group_bits(folder) and not status.st_mode & stat.S_IWGRP and status.st_uid == os.geteuid():
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) | stat.S_IRGRP | stat.S_IWGRP)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _acquire(descriptor: int, path: Path, wait: float, on_wait: Callable[[str], None] | None) -> None:
    deadline, told = time.monotonic() + wait, False
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise StoreError(
                    f"cannot lock {path}: {error.strerror}", "see docs/store.md, 'Locks'"
                ) from error
        owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
        if time.monotonic() >= deadline:
            raise BusyError(f"{path} is held by {owner}", "wait for it to end, or end it")
        if on_wait and not told:
            on_wait(f"waiting for {owner}, which holds {path}")
            told = True
        # fcntl has no waiting with a limit; a signal ends this turn early.
        select.select([], [], [], POLL_SECONDS)


def make_folder(path: Path) -> None:
    """Make a folder of an image, and those above it that are missing: 0755, whatever the caller's umask."""
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    with translated(path):
        for place in reversed(missing):
            place.mkdir()
            place.chmod(0o755)


def group_bits(folder: Path) -> int:
    """What a folder of a group hands on to those in it: that the group may write, and owns what is made."""
    mode = folder.stat().st_mode
    return mode & (stat.S_IWGRP | stat.S_ISGID) if mode & stat.S_IWGRP else 0


def make_group_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder, and those above it that are missing, as open to its group as the one above it is.

    Whatever the caller's umask.
    """
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    with translated(path):
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            bits = group_bits(place.parent)
            shared = bits | (stat.S_IRWXG if bits else 0)
            place.chmod((mode if place == path else 0o755) | shared)


def free_bytes(path: Path) -> int:
    """Bytes that the caller may still write at `path` or, where it isn't made yet, at its nearest parent."""
    # A folder that may not be looked into isn't told from a missing one.
    while not os.path.exists(path):
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """A folder that its owner may write to for the moment."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o300 == 0o300:
        yield
        return
    folder.chmod(mode | 0o700)
    try:
        yield
    finally:
        folder.chmod(mode)


def remove_tree(path: Path) -> None:
    """Remove a tree of the caller's own, whatever the modes in it; a missing one is fine."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        _open_folders(path)
        shutil.rmtree(path)


def _open_folders(path: Path) -> None:
    os.chmod(path, 0o700)
    for parent, names, _ in os.walk(path):
        for name in names:
            child = os.path.join(parent, name)
            if not os.path.islink(child):
                os.chmod(child, 0o700)


def resolve_inside(root: Path, path: str) -> PurePosixPath:
    """Where `path` leads inside the tree `root` when links are followed as a process chrooted there would.

    Returns an absolute path relative to `root` none of whose existing components is a link. A foreign
    tree can hold links to anywhere: never open something in it by joining paths.
    """
    resolved: list[str] = []
    pending = list(reversed(PurePosixPath("/", path).parts[1:]))
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            del resolved[-1:]
            continue
        here = root.joinpath(*resolved, part)
        if not here.is_symlink():
            resolved.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise StoreError(f"too many links at {path} in {root}")
        target = PurePosixPath(os.readlink(here))
        if target.is_absolute():
            resolved = []
        pending.extend(reversed([p for p in target.parts if p != "/"]))
    return PurePosixPath("/", *resolved)


def leads_out(root: Path, path: str) -> bool:
    """Whether a program of the host that opens `path` in the foreign tree `root` would leave it by a link."""
    depth: list[str] = []
    pending, links = list(reversed(PurePosixPath(path.strip("/")).parts)), 0
    while pending:
        part = pending.pop()
        if part == "..":
            if not depth:
                return True
            depth.pop()
            continue
        here = root.joinpath(*depth, part)
        if not here.is_symlink():
            depth.append(part)
            continue
        links += 1
        target = os.readlink(here)
        if links > MAX_LINKS or target.startswith("/"):
            return True
        pending.extend(reversed(PurePosixPath(target).parts))
    return False


def inside(root: Path, path: str, *, follow_last: bool = False) -> Path:
    """Where to write `path` in the foreign tree `root`: links lead on inside it, the last one not."""
    if follow_last:
        return root.joinpath(*resolve_inside(root, path).parts[1:])
    pure = PurePosixPath("/", path)
    return root.joinpath(*resolve_inside(root, str(pure.parent)).parts[1:], pure.name)


def read_inside(root: Path, path: str, limit: int = CHUNK) -> bytes | None:
    """The contents of a regular file in a foreign tree (at most `limit` bytes), None where there is none."""
    try:
        descriptor = os.open(
            inside(root, path, follow_last=True), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        )
    except OSError:
        return None
    try:
        return os.read(descriptor, limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)
