"""Versions that were taken out of the store, and can be put back for a while.

    <images>/.trash/NAME-VERSION/       the version's files; its own time is when it went
    <images>/NAME/NAME-VERSION.removed  a note for who has the path written down: what to use instead

A version is out of sight from the first rename on, that of its .sqsh; what a kill leaves of the others is
moved by the next call. Who has the file open keeps it: nothing is removed that somebody holds a lock on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kiln import files, publish
from kiln.errors import StoreError, UsageError
from kiln.store import CURRENT, Entry, Store

FOLDER = ".trash"
NOTE = ".removed"
# struct flock of Linux on 64 bits: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Thrown:
    """One version in the trash; `moment` (Unix seconds) is when it went."""

    name: str
    version: str
    path: Path
    size: int
    moment: float


def throw(store: Store, entry: Entry, notify: Notify) -> bool:
    """Move a version to the trash; False for one that somebody reads just now, or a channel leads to."""
    place = store.root / FOLDER / f"{entry.name}-{entry.version}"
    with publish.image_lock(store, entry.name, notify), files.translated(place):
        if entry.version in store.channels(entry.name).values() or in_use(entry.path):
            return False
        files.make_group_folder(place)
        files.write_atomic(entry.path.with_suffix(NOTE), _note(store, entry).encode(), 0o444)
        entry.path.rename(place / entry.path.name)
        _move_rest(store, entry.name, entry.version, place)
        os.utime(place)
    return True


def put_back(store: Store, reference: str, notify: Notify) -> Entry:
    """Have a version of the trash in the store again. Raises `UsageError`, `StoreError`."""
    name, _, version = reference.partition(":")
    found = [thrown for thrown in listing(store) if (thrown.name, thrown.version) == (name, version)]
    if not found:
        there = ", ".join(f"{thrown.name}:{thrown.version}" for thrown in listing(store)) or "nothing"
        raise UsageError(f"{reference} is not in the trash", f"there is: {there}")
    [thrown] = found
    with publish.image_lock(store, name, notify), files.translated(store.folder(name)):
        image = store.image(name, version)
        if image.exists():
            raise StoreError(f"{image} is there")
        # Its .sqsh last: with it the version is there.
        for path in sorted(thrown.path.iterdir(), key=lambda path: path.suffix == ".sqsh"):
            path.rename(store.folder(name) / path.name)
        image.with_suffix(NOTE).unlink(missing_ok=True)
        thrown.path.rmdir()
    return store.entry(name, version)


def listing(store: Store) -> list[Thrown]:
    """What is in the trash, the oldest first."""
    found = []
    for place in (store.root / FOLDER).glob("*"):
        images = list(place.glob("*.sqsh"))
        if len(images) != 1:
            continue
        stem, name = images[0].stem, _name(store, images[0].stem)
        if name:
            version, status = stem.removeprefix(f"{name}-"), images[0].stat()
            found.append(Thrown(name, version, place, status.st_size, place.stat().st_mtime))
    return sorted(found, key=lambda thrown: thrown.moment)


def _name(store: Store, stem: str) -> str:
    """The image whose version a file is; names and versions both have dashes, so its folder says it."""
    parts = stem.split("-")
    names = ("-".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return next((name for name in names if (store.folder(name) / f"{stem}{NOTE}").exists()), "")


def old(store: Store, seconds: float) -> Iterator[Thrown]:
    """What has been in the trash for longer than that."""
    return (thrown for thrown in listing(store) if time.time() - thrown.moment > seconds)


def litter(store: Store, seconds: float) -> Iterator[Path]:
    """What a killed call left in the trash, without an image, for longer than that."""
    for place in (store.root / FOLDER).glob("*"):
        if not list(place.glob("*.sqsh")) and time.time() - place.stat().st_mtime > seconds:
            yield place


def empty(thrown: Thrown) -> bool:
    """Remove a version for good; False for one that somebody still reads."""
    if any(in_use(path) for path in thrown.path.glob("*.sqsh")):
        return False
    with files.translated(thrown.path):
        files.remove_tree(thrown.path)
    return True


def mend(store: Store, notify: Notify) -> None:
    """Move what a killed move left beside."""
    for thrown in listing(store):
        with publish.image_lock(store, thrown.name, notify), files.translated(thrown.path):
            if not store.image(thrown.name, thrown.version).exists():
                _move_rest(store, thrown.name, thrown.version, thrown.path)


def in_use(path: Path) -> bool:
    """Whether a process on any node holds a lock on the file (a pull does), or has it open on this one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        if _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK:
            return True
        return _open_elsewhere(descriptor)
    finally:
        os.close(descriptor)


def _open_elsewhere(descriptor: int) -> bool:
    """By a lease, which the kernel gives only where nobody else on this node has the file open (fcntl(2))."""
    with contextlib.suppress(OSError):
        # Only the file's owner is told; and the lease is for writing, which needs no right to write.
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return True
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _move_rest(store: Store, name: str, version: str, place: Path) -> None:
    stem = f"{name}-{version}"
    for path in store.folder(name).glob(f"{stem}.*"):
        if path.suffix != NOTE and not path.is_symlink():
            path.rename(place / path.name)


def _note(store: Store, entry: Entry) -> str:
    current = store.channels(entry.name).get(CURRENT, "")
    instead = f"{entry.name}:{current}, {store.image(entry.name, current)}" if current else "see: invoke list"
    return (
        f"{entry.path.name} was removed on {time.strftime('%Y-%m-%d')}.\n"
        f"Use instead: {instead}\n"
        f"To get it back for a while: invoke gc --undelete {entry.name}:{entry.version}\n"
    )
