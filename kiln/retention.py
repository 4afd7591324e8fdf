"""Which published versions may go, and why the others stay.

Owns the rules. Moves nothing; what is in use just now is seen when something is moved: `kiln.trash`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kiln.record import moment
from kiln.store import Entry, Store


@dataclass(frozen=True)
class Limits:
    """`last` versions of each image stay, and whatever is younger than `grace` seconds."""

    last: int
    grace: float


@dataclass(frozen=True)
class Verdict:
    """`stays` says why a version stays, '' for one that goes."""

    entry: Entry
    stays: str

    @property
    def reference(self) -> str:
        return f"{self.entry.name}:{self.entry.version}"


def verdicts(store: Store, limits: Limits) -> list[Verdict]:
    """One for each version, in the store's order."""
    entries = list(store.entries())
    stays: dict[tuple[str, str], str] = {}
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    for name, group in by_name.items():
        stays.update(_own_reasons(store, name, group, limits))
    _keep_bases(entries, stays)
    return [Verdict(entry, stays.get((entry.name, entry.version), "")) for entry in entries]


def _own_reasons(
    store: Store, name: str, group: Sequence[Entry], limits: Limits
) -> Iterator[tuple[tuple[str, str], str]]:
    led: dict[str, list[str]] = {}
    for channel, version in store.channels(name).items():
        led.setdefault(version, []).append(channel)
    last = {entry.version for entry in group[-limits.last :]} if limits.last else set()
    for entry in group:
        why = ""
        if entry.version in led:
            why = f"{', '.join(led[entry.version])} leads to it"
        elif entry.record is None:
            why = f"its record is damaged: {entry.problem}"
        elif entry.version in last:
            why = f"one of the last {limits.last}"
        elif _age(entry.record.built) < limits.grace:
            why = f"built {entry.record.built[:10]}"
        if why:
            yield (name, entry.version), why


def _age(built: str) -> float:
    """Seconds; a time that can't be read, or lies ahead, is now."""
    return max(0.0, time.time() - (moment(built) or time.time()))


def _keep_bases(entries: Sequence[Entry], stays: dict[tuple[str, str], str]) -> None:
    """What stays keeps what it is built on, and that what that is built on."""
    by_digest: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.record:
            by_digest.setdefault(entry.record.digest, []).append(entry)
    pending = [entry for entry in entries if (entry.name, entry.version) in stays]
    while pending:
        child = pending.pop()
        if child.record is None or not child.record.base.startswith("image:"):
            continue
        for parent in by_digest.get(child.record.base_digest, ()):
            if (parent.name, parent.version) not in stays:
                stays[parent.name, parent.version] = f"{child.name} {child.version} is built on it"
                pending.append(parent)
