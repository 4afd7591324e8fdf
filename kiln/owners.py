"""Which package a file of a tree belongs to, from what dpkg and pip wrote down when they installed it.

/var/lib/dpkg/info/NAME[:ARCH].list      a path a line
<folder>/*.dist-info/RECORD              CSV, paths relative to the folder (PyPA's specification)
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from kiln import files
from kiln.inventory import APT, DPKG, PYTHON, SITE_PACKAGES

LARGEST = 16 << 20


def of(tree: Path, paths: Iterable[str]) -> dict[str, str]:
    """The owners of absolute paths in a tree, as `apt bash` or `python numpy`; nobody's are left out."""
    wanted = set(paths)
    if not wanted:
        return {}
    return {**dict(_debian(tree, wanted)), **dict(_python(tree, wanted))}


def _debian(tree: Path, wanted: set[str]) -> Iterator[tuple[str, str]]:
    for name in _names(tree, f"{DPKG}/info", ".list"):
        for line in _text(tree, f"{DPKG}/info/{name}").split("\n"):
            # On a merged /usr dpkg still knows /bin/ls, which is /usr/bin/ls.
            for path in (line, f"/usr{line}"):
                if path in wanted:
                    yield path, f"{APT} {name.removesuffix('.list').partition(':')[0]}"


def _python(tree: Path, wanted: set[str]) -> Iterator[tuple[str, str]]:
    folders = {
        parent for path in wanted for parent in PurePosixPath(path).parents if parent.name in SITE_PACKAGES
    }
    for folder in folders:
        for name in _names(tree, str(folder), ".dist-info"):
            owner = f"{PYTHON} {name.partition('-')[0]}"
            # A damaged one is read as far as it goes.
            with contextlib.suppress(csv.Error):
                for row in csv.reader(_text(tree, f"{folder}/{name}/RECORD").splitlines()):
                    path = os.path.normpath(f"{folder}/{row[0]}") if row else ""
                    if path in wanted:
                        yield path, owner


def _names(tree: Path, folder: str, suffix: str) -> list[str]:
    place = files.inside(tree, folder, follow_last=True)
    return sorted(name for name in os.listdir(place) if name.endswith(suffix)) if place.is_dir() else []


def _text(tree: Path, path: str) -> str:
    return (files.read_inside(tree, path, LARGEST) or b"").decode("utf-8", "replace")
