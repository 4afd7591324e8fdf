"""What the store holds, for people and programs: rows and details made from records. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kiln.errors import StoreError
from kiln.record import Record
from kiln.store import CANDIDATE, CURRENT, Entry, Store


def current(store: Store, *, packages: bool = False) -> list[tuple[Entry, dict[str, str]]]:
    """For each image the version that a user gets (current, candidate, newest), and its channels."""
    rows = []
    for name in store.names():
        channels = store.channels(name)
        version = channels.get(CURRENT) or channels.get(CANDIDATE) or store.versions(name)[-1]
        rows.append((store.entry(name, version, packages=packages), channels))
    return rows


def listing(rows: Sequence[tuple[Entry, dict[str, str]]]) -> list[dict[str, Any]]:
    return [_brief(entry, channels) for entry, channels in rows]


def _brief(entry: Entry, channels: dict[str, str]) -> dict[str, Any]:
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


def details(entry: Entry, channels: dict[str, str], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Everything on record about one version; `beside` is what `companions.read` gives."""
    data = _brief(entry, channels)
    return {**data, "record": asdict(entry.record), **beside} if entry.record else data
