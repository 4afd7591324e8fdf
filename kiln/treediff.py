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
    before, after = (dict(_walk(os.fsencode(tree), b"")) for tree in (one, two))
    top = ", ".join(_status(one.stat(), two.stat()))
    found = [PathDifference("/", top)] if top else []
    for name in sorted({*before, *after}):
        path = "/" + name.decode("utf-8", "replace")
        if name not in after:
            found.append(PathDifference(path, "is gone"))
        elif name not in before:
            found.append(PathDifference(path, "is new"))
        elif words := ", ".join(_words(before[name], after[name])):
            found.append(PathDifference(path, words))
    return found


def _walk(tree: bytes, below: bytes) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    try:
        entries = sorted(os.scandir(os.path.join(tree, below)), key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in entries:
        name = os.path.join(below, entry.name)
        yield name, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(tree, name)


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
