"""One entry of the layer store: the tree of a base or a layer, and what is known of it.

    <entry>/tree/         a base's root file system; or what one layer changed, an overlay's upper directory
    <entry>/entry.json    the fields of `Entry`
    <entry>/log           what the layer said when it ran
    <entry>/lease         locked, shared, by every build that has the entry mounted; its time is the last use

In the shared tier `tree.sqsh` stands in place of `tree/`, with whiteouts and opaque marks kept. Owns these
names, the text of entry.json, and the fingerprint by which a changed tree is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kiln.errors import StoreError

FORMAT = 1
TREE, ABOUT, LOG, LEASE, PACKED = "tree", "entry.json", "log", "lease", "tree.sqsh"
BLOCK = 512
TYPES = {
    "str": str,
    "int": int,
    "float": int | float,
    "Mapping[str, Any]": dict,
    "Sequence[Mapping[str, Any]]": list,
}


@dataclass(frozen=True)
class Entry:
    """What is known of an entry.

    `id` names this one making of the key, and `parent` the making of what lies below: a layer that was made
    on other bytes must not be put on these. `made` is Unix seconds, `seconds` how long it took, `size` bytes
    on disk, `digest` the sha256 of `tree.sqsh` in the shared tier, `sha256:<hex>`. `changes` has the fields
    of `kiln.record.PackageChange`, for the record of each image that takes the layer.
    """

    kind: str
    key: str
    id: str
    parent: str
    title: str
    made: float
    seconds: float
    size: int = 0
    fingerprint: str = ""
    digest: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Mapping[str, Any]] = field(default_factory=list)
    format: int = FORMAT

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def parse(text: bytes | str) -> Entry:
    """Raises `StoreError` for a text that isn't an entry's, or is a newer Kiln's."""
    try:
        data = json.loads(text)
        if data["format"] > FORMAT:
            raise StoreError("it was made by a newer Kiln", "update this one")
        known = {str(item.name): TYPES[str(item.type)] for item in fields(Entry)}
        values = {name: value for name, value in data.items() if name in known}
        if wrong := [name for name, value in values.items() if not isinstance(value, known[name])]:
            raise ValueError(f"{' '.join(wrong)} of a wrong kind")
        if not all(
            isinstance(each, dict) and {"kind", "name"} <= set(each) for each in values.get("changes", ())
        ):
            raise ValueError("changes that name no package")
        return Entry(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"its {ABOUT} can't be read: {error}") from error


def fingerprint(tree: Path) -> tuple[str, int]:
    """The digest of every path below `tree` with its inode's number, mode, size and times; bytes on disk.

    No change to a file leaves its ctime as it was. Far cheaper than reading all: 0.5 s for 70,000 files.
    Of `tree` itself only the mode is in it: being moved changes its ctime.
    """
    digest, size = hashlib.sha256(b"%o\n" % tree.stat().st_mode), 0
    seen = set[int]()
    for name, status in _walk(os.fsencode(tree), b""):
        # Folders have a size of their own on each file system, and their links count what lies in them.
        length = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        numbers = (status.st_ino, status.st_mode, length, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(b"%s\0%d %d %d %d %d\n" % (name, *numbers))
        if status.st_nlink == 1 or status.st_ino not in seen:
            size += status.st_blocks * BLOCK
        if status.st_nlink > 1:
            seen.add(status.st_ino)
    return digest.hexdigest(), size


def _walk(root: bytes, below: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    try:
        found = sorted(os.scandir(os.path.join(root, below)), key=lambda item: item.name)
    except PermissionError:
        return  # a folder of mode 000; its own ctime is in the digest
    for item in found:
        name = os.path.join(below, item.name)
        yield name, item.stat(follow_symlinks=False)
        if item.is_dir(follow_symlinks=False):
            yield from _walk(root, name)
