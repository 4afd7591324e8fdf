"""What a base had at a path, for whoever must tell what a build brought from what was there before.

Reads a tree and keeps what was asked for; decides nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kiln import files
from kiln.errors import StoreError


@dataclass(frozen=True)
class Seen:
    """One entry of a tree: `mode` with its kind, as lstat(2) has it, and bytes."""

    mode: int
    size: int


Baseline = Callable[[str], "Seen | None"]
"""What the base had at a path of the image (absolute, no link on the way); None where it had nothing."""


def nothing(_path: str) -> Seen | None:
    """That of an image without a base."""
    return None


def of_tree(tree: Path) -> Baseline:
    """Looks into a tree that nobody changes."""

    def look(path: str) -> Seen | None:
        try:
            place = files.inside(tree, path)
            # The image has no link on the way to it: where the base has one, it had something else there.
            if place != tree / path.lstrip("/"):
                return None
            status = place.lstat()
        except (OSError, StoreError):
            return None
        return Seen(status.st_mode, status.st_size)

    return look


def snapshot(tree: Path) -> Baseline:
    """Remembers a tree that will be changed: 0.6 s and 30 MB for 80,000 entries."""
    seen: dict[str, Seen] = {}
    pending = [""]
    while pending:
        place = pending.pop()
        with contextlib.suppress(OSError), os.scandir(f"{tree}{place}") as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                path = f"{place}/{entry.name}"
                seen[path] = Seen(status.st_mode, status.st_size)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
    return seen.get
