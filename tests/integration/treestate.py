"""Everything that a tree says of itself, as JSON: run as root of a namespace, who may read it all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections import defaultdict


def main(root: str) -> None:
    found: dict[str, list[object]] = {}
    names = defaultdict(list)
    for parent, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            shown = os.path.relpath(path, root)
            if stat.S_ISREG(status.st_mode):
                names[status.st_ino].append(shown)
            owner = f"{status.st_uid}:{status.st_gid}"
            plain = [oct(status.st_mode), owner, int(status.st_mtime)]
            found[shown] = [*plain, content(path, status), *attributes(path)]
    for group in names.values():
        for name in group:
            found[name].append(sorted(group))
    print(json.dumps(found))  # noqa: T201


def content(path: str, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return f"-> {os.readlink(path)}"
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    return str(status.st_rdev)


def attributes(path: str) -> list[str]:
    """The extended attributes, capabilities among them."""
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return [f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}" for name in names]


main(sys.argv[1])
