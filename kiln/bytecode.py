"""Python's bytecode in a finished tree: what depends on a time is given the one that the image will have.

Export clamps the times of files. A `.pyc` that holds its source's time (PEP 552) would not fit any more, so
Python would compile again at each start, in an image that can't keep it; and it would differ from build to
build. Owns the head of a `.pyc`: magic number, flags, then source time and size, 4 bytes each.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from kiln import files

FOLDER = "__pycache__"
HEAD = struct.Struct("<4sIII")
BY_HASH = 1
TIME_OFFSET = 8
# Where no modules are.
PASSED_OVER = frozenset(("/proc", "/sys", "/dev", "/run", "/tmp", "/var/lib", "/var/cache", "/usr/include"))


def settle(tree: Path, epoch: int) -> list[str]:
    """Give every `.pyc` that a layer wrote the time that its source has after export.

    One that doesn't fit its source is removed: Python never reads it. Returns the paths of those.
    """
    removed = []
    for folder in _folders(tree):
        # What the base brought is older, and export leaves it as it is.
        if os.stat(folder).st_mtime <= epoch:
            continue
        for name in sorted(os.listdir(folder)):
            if name.endswith(".pyc") and not _settled(folder, name, epoch):
                with files.writable(Path(folder)):
                    os.unlink(f"{folder}/{name}")
                removed.append(os.path.relpath(f"{folder}/{name}", tree))
    return removed


def _folders(tree: Path) -> Iterator[str]:
    pending = [""]
    while pending:
        place = pending.pop()
        with contextlib.suppress(OSError), os.scandir(f"{tree}{place}") as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            if FOLDER in names:
                yield f"{tree}{place}/{FOLDER}"
            below = (f"{place}/{name}" for name in names if name != FOLDER)
            pending += (path for path in below if path not in PASSED_OVER)


def _settled(folder: str, name: str, epoch: int) -> bool:
    """Whether a `.pyc` fits its source, after it was given the source's time where that will change."""
    path = f"{folder}/{name}"
    try:
        source = os.lstat(f"{os.path.dirname(folder)}/{name.partition('.')[0]}.py")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True  # without its source Python doesn't ask for it
    try:
        head = os.read(descriptor, HEAD.size)
    finally:
        os.close(descriptor)
    if len(head) < HEAD.size:
        return False
    _, flags, time, size = HEAD.unpack(head)
    if flags & BY_HASH:
        return True
    made = int(source.st_mtime)
    if (time, size) != (made & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF):
        return False
    if made > epoch:
        _stamp(path, epoch)
    return True


def _stamp(path: str, time: int) -> None:
    mode = os.lstat(path).st_mode & 0o7777
    os.chmod(path, mode | 0o200)
    with open(path, "r+b") as stream:
        stream.seek(TIME_OFFSET)
        stream.write(struct.pack("<I", time & 0xFFFFFFFF))
    os.chmod(path, mode)
