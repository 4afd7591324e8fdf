"""Where two trees differ that should be the same, path by path. Owns what counts as a difference.

Owners are not compared: in an image everything belongs to root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from kiln import files


@dataclass(frozen=True, order=True)
class PathDifference:
    """A path, and in words what is not the same there: first what `one` has, then `two`.

    `owner` is the package that it belongs to, '' where none says so.
    """

    path: str
    what: str
    owner: str = ""


def compare(one: Path, two: Path) -> list[PathDifference]:
    """All differences of two trees, sorted by path. What the caller may not read is compared by its size."""
    top = ", ".join(_status(one.stat(), two.stat()))
    found = [PathDifference("/", top)] if top else []
    return sorted([*found, *_below(os.fsencode(one), os.fsencode(two), "")])


def _below(one: bytes | None, two: bytes | None, path: str) -> Iterator[PathDifference]:
    """The differences in two folders, of which one may not be there; no more than these are in memory."""
    before, after = _entries(one), _entries(two)
    for name in sorted({*before, *after}):
        was, is_now = before.get(name), after.get(name)
        here = f"{path}/{name.decode('utf-8', 'replace')}"
        if was is None or is_now is None:
            yield PathDifference(here, "is new" if was is None else "is gone")
        elif words := ", ".join(_words(was, is_now)):
            yield PathDifference(here, words)
        folders = [
            each.path if each and each.is_dir(follow_symlinks=False) else None for each in (was, is_now)
        ]
        if any(folders):
            yield from _below(folders[0], folders[1], here)


def _entries(folder: bytes | None) -> dict[bytes, os.DirEntry[bytes]]:
    try:
        return {entry.name: entry for entry in os.scandir(folder)} if folder else {}
    except PermissionError:
        return {}


def _words(one: os.DirEntry[bytes], two: os.DirEntry[bytes]) -> Iterator[str]:
    before, after = one.stat(follow_symlinks=False), two.stat(follow_symlinks=False)
    if stat.S_IFMT(before.st_mode) != stat.S_IFMT(after.st_mode):
        yield f"mode {stat.filemode(before.st_mode)} and {stat.filemode(after.st_mode)}"
        return
    if stat.S_ISREG(before.st_mode):
        yield from _contents(one, two, before.st_size, after.st_size)
    if stat.S_ISLNK(before.st_mode):
        targets = [os.readlink(each.path).decode("utf-8", "replace") for each in (one, two)]
        if targets[0] != targets[1]:
            yield " and ".join(f"leads to {target}" for target in targets)
    yield from _status(before, after)


def _status(before: os.stat_result, after: os.stat_result) -> Iterator[str]:
    if before.st_mode != after.st_mode:
        yield f"mode {stat.filemode(before.st_mode)} and {stat.filemode(after.st_mode)}"
    # A squashfs has whole seconds.
    if int(before.st_mtime) != int(after.st_mtime):
        yield f"time {_time(before.st_mtime)} and {_time(after.st_mtime)}"


def _contents(one: os.DirEntry[bytes], two: os.DirEntry[bytes], size: int, other: int) -> Iterator[str]:
    if size != other:
        yield f"{size:,} and {other:,} bytes"
    try:
        digests = [files.sha256_file(Path(os.fsdecode(each.path))) for each in (one, two)]
    except PermissionError:
        return
    if digests[0] != digests[1]:
        yield f"contents sha256:{digests[0][:12]}... and sha256:{digests[1][:12]}..."


def _time(moment: float) -> str:
    return datetime.fromtimestamp(int(moment), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
