"""Secrets that layers were lent, looked for in what is about to be kept or handed on.

Owns how a finding is told, and the unpacking of a finished file for that: compressed, it can't be searched.
In a namespace of its own the caller is root and reads every file, whatever its mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kiln import files, masking
from kiln.run import run
from kiln.runtime import namespace
from kiln.search import Changed

UNPACK_SECONDS = 3600.0


def found(changed: Changed, values: Mapping[str, str], env: Mapping[str, str]) -> list[str]:
    """A line for each file below the one folder of `changed` and each of `values` in it, by its name."""
    forms = {name: masking.traces(value) for name, value in values.items()}
    if not changed.holding({form for each in forms.values() for form in each}, env, settings=False):
        return []
    [top] = changed.folders
    return sorted(
        f"error    /{path.relative_to(top)}: holds the secret {name}"
        for name, each in forms.items()
        for path in changed.holding(each, env, settings=False)
    )


def in_image(image: Path, values: Mapping[str, str], private: Path, env: Mapping[str, str]) -> list[str]:
    """The same for a finished file. `private` is a folder with room for its tree, which is removed."""
    if not values:
        return []
    tree = private / "searched"
    with namespace.opened(env) as space:
        argv = ["unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-dest", str(tree), str(image)]
        try:
            run(space.enter(argv), what=f"unpack {image.name}", env=env, timeout=UNPACK_SECONDS)
            return found(Changed((tree,), None, space), values, env)
        finally:
            files.remove_tree(tree)
