"""What a step changed in a tree, as a gzip layer: whole entries for what is new, whiteouts for what is gone.

A change is told by the time of an inode's last change, which nobody can set back. Folders of the running
system and of downloads are left out: base images don't hold those.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from kiln.run import host_environment, run

# What is in these is nobody's image; the folders themselves are.
EMPTY = ("dev", "proc", "sys", "run", "tmp", "root/.cache", "var/lib/apt/lists", "var/cache/apt")
ABSENT = ("etc/resolv.conf", "etc/hostname")
LIMIT_SECONDS = 1800.0
WHITEOUT = ".wh."

Snapshot = Mapping[str, tuple[int, int]]
"""For each path below a tree: its inode, and when that last changed in nanoseconds."""


def snapshot(tree: Path) -> Snapshot:
    found = {}
    for path in _paths(tree):
        status = os.lstat(tree / path)
        found[path] = (status.st_ino, status.st_ctime_ns)
    return found


def _paths(tree: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(tree):
        inside = os.path.relpath(parent, tree)
        prefix = "" if inside == "." else f"{inside}/"
        if inside in EMPTY:
            folders.clear()
            continue
        yield from (prefix + name for name in (*folders, *files) if prefix + name not in ABSENT)


def pack(tree: Path, before: Snapshot, after: Snapshot, target: Path, environ: Mapping[str, str]) -> int:
    """Write the layer that leads from `before` to `after` to `target`; returns the number of its entries."""
    changed = sorted(path for path, seen in after.items() if before.get(path) != seen)
    whiteouts = [_whiteout(path) for path in _gone(before, after)]
    names = target.with_suffix(".names")
    names.write_bytes(b"\0".join(map(os.fsencode, (*changed, *whiteouts))))
    made = [tree / path for path in whiteouts]
    for path in made:
        path.touch()
    argv = ["tar", "--create", "--gzip", "--file", str(target), "--directory", str(tree), "--numeric-owner"]
    argv += ["--no-recursion", "--null", "--verbatim-files-from", "--files-from", str(names)]
    run(argv, what=f"pack {target.name}", env=host_environment(environ), timeout=LIMIT_SECONDS)
    for path in (names, *made):
        path.unlink()
    return len(changed) + len(whiteouts)


def _gone(before: Snapshot, after: Snapshot) -> list[str]:
    """What is gone, without what is gone only because its folder is."""
    return sorted(
        path for path in before if path not in after and (os.path.dirname(path) in after or "/" not in path)
    )


def _whiteout(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, WHITEOUT + name)
