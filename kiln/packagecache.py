"""What layers download of packages, kept between builds: mounted into them, never in a key or an image.

    <cache>/v1/packages/<uid>/
      apt/<sha256>.deb          put there by rename; checked against its name before each use
      pip/http, pip/http-v2     what pip downloaded, in its own format
      uv/archive-v0, wheels-v8  the wheels that uv downloaded, in its own format
      files/sha256/<sha256>     what locks name: see kiln.lockedfiles; mounted into no layer

Each user has their own: what one user's layers wrote is never installed by another's. A layer sees the
cache of its own kind alone. Owns making these folders and what of them is old; the scripts of the layers
own what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kiln.layercommand import INSIDE
from kiln.manifest import Mount

KINDS = ("apt", "pip", "uv")
FILES = "files"


def own(packages: Path) -> Path:
    """The caller's cache; `packages` is the site's."""
    return packages / str(os.getuid())


def mount(packages: Path, kind: str) -> Mount:
    """The caller's cache for a kind of layer as that layer has it mounted; made where it is missing.

    Raises OSError where it can't be made or written, or isn't the caller's alone.
    """
    mine = own(packages)
    packages.mkdir(parents=True, exist_ok=True)
    mine.mkdir(mode=0o700, exist_ok=True)
    status = mine.lstat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise OSError(errno.EPERM, "not yours alone", str(mine))
    folder = mine / kind
    folder.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    # By this time `unused` knows uv's last use.
    os.utime(folder)
    return Mount(source=folder, target=f"{INSIDE}/packages/{kind}", read_only=False)


def unused(folder: Path, before: float) -> Iterator[Path]:
    """What of a user's cache was last used before that time (in Unix seconds), and may be removed.

    Files and folders, none of which lies in another. Of uv's only all, or what ended layers left: its parts
    lead to each other.
    """
    for each in (folder / "apt", folder / FILES / "sha256"):
        yield from (path for path in _children(each) if _last_use(path) < before)
    pairs: dict[Path, list[Path]] = {}
    for path in _files(folder / "pip"):
        # pip keeps an answer's head and body apart: one without the other is of no use.
        pairs.setdefault(path.with_name(path.name.removesuffix(".body")), []).append(path)
    for paths in pairs.values():
        if max(map(_last_use, paths)) < before:
            yield from paths
    uv = folder / "uv"
    if uv.is_dir() and uv.stat().st_mtime < before:
        yield uv
    else:
        yield from (path for path in _children(uv, "build.*") if _last_use(path) < before)


def size(folder: Path) -> int:
    """The bytes of the files in a folder; 0 where it isn't there."""
    total = 0
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _children(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def _files(folder: Path) -> Iterator[Path]:
    """Every file and link below a folder that others may be changing."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _last_use(path: Path) -> float:
    """In Unix seconds; what has just gone was in use."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return float("inf")
    return max(status.st_atime, status.st_mtime)
