"""What differs between two published images: packages, base, variables, size. Made from their records alone.

Owns when two packages are the same one in another version. Pure; how it is shown is `kiln.diffview`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kiln.inventory import APT, PYTHON, Package
from kiln.record import Record

KINDS = (APT, PYTHON)
ADDED, REMOVED, CHANGED = "added", "removed", "changed"
STATES = (CHANGED, ADDED, REMOVED)


@dataclass(frozen=True, order=True)
class Change:
    """One thing that differs: '' before for what was added, '' after for what was removed.

    `place` is dpkg's architecture, or the folder of a distribution; '' for what is no package.
    """

    name: str
    place: str
    before: str
    after: str

    @property
    def state(self) -> str:
        return ADDED if not self.before else REMOVED if not self.after else CHANGED


@dataclass(frozen=True)
class Difference:
    """All that differs between two records. `packages` is by kind; `missing` names what isn't known."""

    before: Record
    after: Record
    packages: Mapping[str, tuple[Change, ...]]
    environment: tuple[Change, ...]
    base: tuple[Change, ...]
    missing: tuple[str, ...]

    @property
    def growth(self) -> int:
        """By how many bytes the file became larger."""
        return self.after.size - self.before.size

    @property
    def same(self) -> bool:
        return self.before.digest == self.after.digest

    def of(self, kind: str, state: str) -> list[Change]:
        return [change for change in self.packages[kind] if change.state == state]

    def to_data(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        return {
            "before": _side(self.before),
            "after": _side(self.after),
            "same": self.same,
            "size": {"before": self.before.size, "after": self.after.size, "growth": self.growth},
            "base": [asdict(change) for change in self.base],
            "environment": [asdict(change) for change in self.environment],
            "packages": {
                kind: {state: [asdict(change) for change in self.of(kind, state)] for state in STATES}
                for kind in KINDS
            },
            "missing": list(self.missing),
        }


def _side(record: Record) -> dict[str, Any]:
    return {"name": record.name, "version": record.version, "digest": record.digest, "built": record.built}


def compare(before: Record, after: Record) -> Difference:
    """What makes `after` another image than `before`."""
    missing = tuple(
        f"{record.name} {record.version} was published before packages were put on record"
        for record in (before, after)
        if not record.companions
    )
    return Difference(
        before,
        after,
        {kind: () if missing else tuple(_packages(kind, before, after)) for kind in KINDS},
        _settings(*_environments(before, after)),
        _settings(_base(before), _base(after)),
        missing,
    )


def _packages(kind: str, before: Record, after: Record) -> Iterator[Change]:
    one, two = (_versions(package for package in r.packages if package.kind == kind) for r in (before, after))
    for name, place in sorted({*one, *two}):
        was, now = one.get((name, place), ""), two.get((name, place), "")
        if was != now:
            yield Change(name, place, was, now)


def _versions(packages: Iterable[Package]) -> dict[tuple[str, str], str]:
    """The version of each package; all of them where one place has metadata of several.

    What another Python's folder has is the same package: otherwise all would go and come with that.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for package in packages:
        place = re.sub(r"/python3\.\d+/", "/python3/", package.place)
        found.setdefault((package.name, place), set()).add(package.version)
    return {key: ", ".join(sorted(versions)) for key, versions in found.items()}


def _environments(before: Record, after: Record) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """All variables of both images; where one has no record of them, what their manifests set."""
    if before.environment and after.environment:
        return before.environment, after.environment
    return before.env, after.env


def _base(record: Record) -> dict[str, str]:
    return {"base": record.base, "digest": record.base_digest, "system": record.system}


def _settings(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    names = sorted({*before, *after})
    changes = (Change(name, "", before.get(name, ""), after.get(name, "")) for name in names)
    return tuple(change for change in changes if change.before != change.after)
