"""What may go from a cache: what no build has used for long, and the least recently used above a size.

Owns the order. Only the caller's own things are looked at; what a running or a kept build has mounted stays,
and so does everything young, which a build may be about to use.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln import files
from kiln.errors import BusyError
from kiln.layers.entry import Entry
from kiln.layers.local import Local
from kiln.layers.shared import Shared
from kiln.layers.store import age
from kiln.ui import size_text

YOUNG_SECONDS = 3600.0


@dataclass(frozen=True)
class Item:
    """Something that can go: `size` in bytes, `used` Unix seconds; `remove` says whether it went."""

    kind: str
    title: str
    path: Path
    size: int
    used: float
    remove: Callable[[], bool]


@dataclass(frozen=True)
class Doomed:
    item: Item
    reason: str


@dataclass(frozen=True)
class Limits:
    """`unused` is seconds, `size` bytes."""

    unused: float
    size: int


def doomed(items: Iterable[Item], limits: Limits) -> list[Doomed]:
    """What goes, least recently used first."""
    now = time.time()
    by_use = sorted(items, key=lambda item: item.used)
    total, found = sum(item.size for item in by_use), []
    for item in by_use:
        if now - item.used < YOUNG_SECONDS:
            break
        if now - item.used > limits.unused:
            found.append(Doomed(item, f"unused for {age(item.used)}"))
        elif total > limits.size:
            found.append(Doomed(item, f"{size_text(total)} are more than {size_text(limits.size)}"))
        else:
            break
        total -= item.size
    return found


def local_items(local: Local, held: frozenset[str]) -> Iterator[Item]:
    """The entries of the local tier that no build has mounted, but for those whose ids are in `held`."""
    for entry in local.entries():
        if entry.id not in held and local.free(entry):
            remove = functools.partial(local.remove, entry, held)
            path = local.folder(entry.kind, entry.key)
            yield Item(entry.kind, entry.title, path, entry.size, local.last_used(entry), remove)


def shared_items(shared: Shared) -> Iterator[Item]:
    """The caller's own entries of the shared tier."""
    for entry, used in shared.entries():
        path = shared.folder(entry.kind, entry.key)
        yield Item(
            f"shared {entry.kind}",
            entry.title,
            path,
            entry.size,
            used,
            functools.partial(_gone, shared, entry),
        )


def file_items(kind: str, paths: Iterable[Path]) -> Iterator[Item]:
    """The caller's own files among `paths`, each complete and of use by itself."""
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat(follow_symlinks=False)
            if status.st_uid == os.getuid():
                used = max(status.st_atime, status.st_mtime)
                yield Item(kind, path.name, path, status.st_size, used, functools.partial(_unlinked, path))


def _gone(shared: Shared, entry: Entry) -> bool:
    try:
        shared.remove(entry)
    except OSError:
        return False  # what was written on another node may be read-only here
    return True


def _unlinked(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def tidy(local: Local) -> None:
    """Remove what is no entry: trash, damaged folders, the locks of keys that are gone."""
    for folder in local.broken():
        files.remove_tree(folder)
    local.sweep()
    locks = local.root / "locks"
    for path in sorted(locks.iterdir()) if locks.is_dir() else []:
        kind, _, key = path.name.partition("-")
        if local.look(kind, key) is None:
            with contextlib.suppress(BusyError), files.locked(path, wait=0.0):
                path.unlink(missing_ok=True)


def remove(found: Sequence[Doomed]) -> list[Doomed]:
    """Remove them; returns those that went: a build may have begun to use one meanwhile."""
    return [each for each in found if each.item.remove()]
