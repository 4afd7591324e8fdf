"""Tags of one series: the same words around a version that grows.

`24.12-py3` and `25.04-py3` are of one series; `25.04-py3-igpu` is not, nor is `25.4.1-py3`: what stands
before and behind the version, and how many numbers it has, must be the same. Owns that comparison alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# The first version in a tag: numbers with dots between. `cuda-12.4.1-devel-ubuntu22.04` is 12.4.1.
_VERSION = re.compile(r"(?P<before>.*?)(?P<version>\d+(?:\.\d+)*)(?P<behind>.*)")
# What looks like a number in a commit's name is none.
_HASH = re.compile(r"(?:^|[-_.])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{7,}(?:$|[-_.])")


@dataclass(frozen=True)
class Place:
    """A tag's series and its place there. Of one series are those whose `before`, `behind`, `parts` agree."""

    before: str
    behind: str
    version: tuple[int, ...]

    @property
    def parts(self) -> int:
        return len(self.version)

    def precedes(self, other: Place) -> bool:
        same = (self.before, self.behind, self.parts) == (other.before, other.behind, other.parts)
        return same and self.version < other.version


def place(tag: str) -> Place | None:
    """None for a tag without a version, such as `latest` or a commit's."""
    found = _VERSION.fullmatch(tag)
    if not found or _HASH.search(tag):
        return None
    return Place(found["before"], found["behind"], tuple(map(int, found["version"].split("."))))


def newer(tag: str, tags: Iterable[str]) -> list[str]:
    """The tags that come after `tag` in its series, the newest first."""
    mine = place(tag)
    if mine is None:
        return []
    places = ((each, place(each)) for each in tags)
    later = [(found.version, each) for each, found in places if found and mine.precedes(found)]
    return [each for _, each in sorted(later, reverse=True)]
