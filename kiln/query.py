"""Finding images by words: of their name, description, base and channels, or the packages in them.

A word with a version (`transformers>=4.50`, as PEP 508 has it) is about packages alone. Looks at the version
that a user gets of each image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from kiln import catalog
from kiln.catalog import Row
from kiln.errors import UsageError
from kiln.inventory import Package
from kiln.record import Record
from kiln.store import Store

_SIGNS = {"≥": ">=", "≤": "<=", "≠": "!="}
_OPERATOR = re.compile(r"\s*(~=|==|!=|>=|<=|>|<)\s*")


@dataclass(frozen=True)
class Hit:
    """An image that has all the words; `matches` are the packages among them, with their versions."""

    row: Row
    matches: tuple[str, ...]

    @property
    def base(self) -> str:
        record = self.row.entry.record
        return record.base if record else ""

    def to_data(self) -> dict[str, Any]:
        [brief] = catalog.listing([self.row])
        return {**brief, "matches": list(self.matches)}


def search(store: Store, text: str) -> list[Hit]:
    """The images that have every word of `text`. Raises `UsageError` for a version that is none."""
    wanted = [_parsed(word) for word in _words(text)]
    if not wanted:
        raise UsageError("search for what?", "such as: invoke search 'pytorch transformers>=4.50'")
    found = []
    for row in catalog.current(store, packages=True):
        if row.entry.record is None:
            continue
        matches = [_match(word, row.entry.record, list(row.channels)) for word in wanted]
        if all(match is not None for match in matches):
            packages = dict.fromkeys(each for match in matches for each in match or ())
            found.append(Hit(row, tuple(packages)))
    return found


def _words(text: str) -> list[str]:
    for sign, written in _SIGNS.items():
        text = text.replace(sign, written)
    return _OPERATOR.sub(r"\1", text).split()


def _parsed(word: str) -> str | Requirement:
    if not _OPERATOR.search(word):
        return word.lower()
    try:
        return Requirement(word)
    except InvalidRequirement as error:
        raise UsageError(
            f"'{word}' is no package with a version", "write it as transformers>=4.50"
        ) from error


def _match(word: str | Requirement, record: Record, channels: Sequence[str]) -> list[str] | None:
    """The packages that a word means, none where it is about something else; None where there is neither."""
    if isinstance(word, Requirement):
        name = _plain(word.name)
        fits = [each for each in record.packages if _plain(each.name) == name and _in(each, word)]
        return [f"{each.name} {each.version}" for each in fits] or None
    name = _plain(word)
    packages = [f"{each.name} {each.version}" for each in record.packages if _plain(each.name) == name]
    texts = (record.name, record.version, record.description, record.base, *channels)
    return packages if packages or any(word in text.lower() for text in texts) else None


def _plain(name: str) -> str:
    """A package's name as it is compared: people write flash_attn, and records have flash-attn."""
    return name.lower().replace("_", "-")


def _in(package: Package, wanted: Requirement) -> bool:
    """Debian's versions have an epoch before them and a revision behind: what lies between counts."""
    text = re.sub(r"^\d+:|-[^-]*$", "", package.version) if package.kind == "apt" else package.version
    try:
        return wanted.specifier.contains(Version(text), prereleases=True)
    except InvalidVersion:
        return False
