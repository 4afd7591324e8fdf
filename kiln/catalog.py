"""What the store holds, for people and programs: rows and details made from records. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kiln.errors import StoreError
from kiln.history import Change
from kiln.record import Record
from kiln.standing import Standing, Standings
from kiln.store import FIRST_CHANNELS, Entry, Store


@dataclass(frozen=True)
class Row:
    """For one image the version that a user gets (current, candidate, newest), and its channels."""

    entry: Entry
    channels: Mapping[str, str]
    standing: Standing


def current(store: Store, *, packages: bool = False) -> list[Row]:
    """A row for each image."""
    rows, standings = [], Standings(store)
    for name in store.names():
        channels, versions = store.channels(name), store.versions(name)
        led_to = [channels[channel] for channel in FIRST_CHANNELS if channels.get(channel) in versions]
        entry = store.entry(name, (led_to or versions[-1:])[0], packages=packages)
        rows.append(Row(entry, channels, standings.of(entry)))
    return rows


def listing(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{**_brief(row.entry, row.channels), **row.standing.to_data()} for row in rows]


def _brief(entry: Entry, channels: Mapping[str, str]) -> dict[str, Any]:
    brief: dict[str, Any] = {
        "name": entry.name,
        "version": entry.version,
        "path": str(entry.path),
        "channels": channels,
    }
    if entry.record is None:
        return {**brief, "problem": entry.problem}
    record = entry.record
    return {
        **brief,
        "description": record.description,
        "base": record.base,
        "size": record.size,
        "digest": record.digest,
        "built": record.built,
        "smoke": record.smoke_state,
    }


def record(entry: Entry) -> Record:
    """The record of a version. Raises `StoreError` where it can't be read."""
    if entry.record is None:
        raise StoreError(entry.problem, f"the image itself may be whole: {entry.path}")
    return entry.record


def details(row: Row, changes: Sequence[Change], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Everything on record about one version; `beside` is what `companions.read` gives."""
    [data] = listing([row])
    record = row.entry.record
    return {
        **data,
        **({"record": asdict(record), **beside} if record else {}),
        "history": [change.to_data() for change in changes],
    }
