"""Which images a command line means: one name, a comma list, a pattern, or all."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from kiln import manifest
from kiln.errors import UsageError

ALL = "all"


def select(manifests: Path, text: str) -> list[str]:
    """The names meant by `text`, each once, in the order given. Raises `UsageError` for none."""
    known = manifest.names(manifests)
    chosen: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word == ALL and ALL not in known:
            found = known
        elif any(mark in word for mark in "*?["):
            found = fnmatch.filter(known, word)
            if not found:
                raise UsageError(f"no manifest matches '{word}'", f"there are: {', '.join(known)}")
        else:
            manifest.find(manifests, word)
            found = [word]
        chosen += [name for name in found if name not in chosen]
    if not chosen:
        raise UsageError("no image named", f"there are: {', '.join(known)}")
    return chosen
