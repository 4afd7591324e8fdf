"""What an image says of itself: the folder /.kiln in its tree.

    /.kiln/manifest.yaml       the manifest as it was used
    /.kiln/manifest.lock       the lock as it was used, if there was one
    /.kiln/provenance.json     base and its digests, layer keys, git commit, versions of the tools
    /.kiln/packages.json       every package of Debian and Python, with its version
    /.kiln/base/               the /.kiln of the base, where that is an image of Kiln's too

Owns these names and texts. Only what two builds of the same inputs share is in there: no time, host or
user, so that both give the same bytes. What belongs to one build is in the record beside the image.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln import files, imageformat, inventory
from kiln.inventory import Inventory
from kiln.plan import Plan
from kiln.record import rows

FOLDER = "/.kiln"
MANIFEST, LOCK, PROVENANCE, PACKAGES, BASE = (
    "manifest.yaml",
    "manifest.lock",
    "provenance.json",
    "packages.json",
    "base",
)
FORMAT = 1
# A base of a base of a base: more than anybody builds, fewer than a damaged tree may have.
MOST_BASES = 20
LARGEST = 64 << 20


@dataclass(frozen=True)
class Tools:
    """The versions of what made an image: Kiln, the runtime with its name, squashfs-tools."""

    kiln: str
    runtime: str
    squashfs_tools: str


@dataclass(frozen=True)
class Contents:
    """What is in a finished tree: its packages, all variables that a start sets, its distribution.

    `system` is the ID and VERSION_ID of os-release(5), as `debian-12`; '' where the tree doesn't say.
    """

    inventory: Inventory
    environment: Mapping[str, str]
    system: str


def look(rootfs: Path) -> Contents:
    """Take stock of a finished tree."""
    environment, system = (
        (files.read_inside(rootfs, name) or b"").decode("utf-8", "replace")
        for name in ("/etc/environment", "/etc/os-release")
    )
    said = dict(re.findall(r"""^(ID|VERSION_ID)=["']?([\w.-]+)["']?$""", system, re.MULTILINE))
    return Contents(
        inventory.take(rootfs),
        imageformat.parse_environment(environment),
        "-".join(said[name] for name in ("ID", "VERSION_ID") if name in said),
    )


def write(rootfs: Path, plan: Plan, found: Inventory, tools: Tools, commit: str, lock: str) -> None:
    """Put /.kiln into a finished tree, in place of the base's, which moves to /.kiln/base."""
    texts = {
        MANIFEST: plan.manifest.text,
        **({LOCK: lock} if lock else {}),
        PROVENANCE: json.dumps(describe(plan, tools, commit), indent=2, ensure_ascii=False) + "\n",
        PACKAGES: f'{{\n  "format": {FORMAT},\n  "packages": [{rows(found.packages)}]\n}}\n',
    }
    before = {f"{BASE}/{name}": data for name, data in _existing(rootfs)}
    place = files.inside(rootfs, FOLDER)
    files.remove_tree(place)
    for name, data in ({name: text.encode() for name, text in texts.items()} | before).items():
        folder = place.joinpath(name).parent
        folder.mkdir(parents=True, exist_ok=True)
        files.write_atomic(place / name, data)
    for folder in (place, *place.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)  # whatever the caller's umask


def describe(plan: Plan, tools: Tools, commit: str) -> dict[str, Any]:
    """The text of provenance.json, as data."""
    base = plan.base
    return {
        "format": FORMAT,
        "name": plan.manifest.name,
        "base": {
            "text": base.base.text,
            "digest": base.digest,
            "platform_digest": base.platform_digest,
            "key": plan.base_wanted.key.digest,
            "epoch": base.epoch,
        },
        "layers": [
            {"kind": item.layer.kind, "title": item.title, "key": item.wanted.key.digest}
            for item in plan.layers
        ],
        "key": plan.key.digest,
        "commit": commit,
        "kiln": tools.kiln,
        "runtime": tools.runtime,
        "squashfs_tools": tools.squashfs_tools,
    }


def _existing(rootfs: Path) -> Iterator[tuple[str, bytes]]:
    """The files of the base's own /.kiln, and of those below it. Links are not followed, nor kept."""
    folder, below = files.inside(rootfs, FOLDER), ""
    for _ in range(MOST_BASES):
        if folder.is_symlink() or not (folder / PROVENANCE).is_file():
            return
        for name in (MANIFEST, LOCK, PROVENANCE, PACKAGES):
            data = _read(folder / name)
            if data is not None:
                yield f"{below}{name}", data
        folder, below = folder / BASE, f"{below}{BASE}/"


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read(LARGEST) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    return None
