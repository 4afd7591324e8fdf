"""What was done to an image's versions and channels, by whom, when and why: one line for each change.

    <images>/NAME/history.jsonl      JSON lines, oldest first; changed under NAME's lock, by rename

The channels' links say where a channel leads; this says how it came there, and which versions are deprecated
or revoked. A line is written before its link moves: one whose change was cut off tells of what did not
happen, so what the links say counts. Owns the lines' fields and what follows from them.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

from kiln import files
from kiln.errors import StoreError
from kiln.store import Store

PUBLISH, PROMOTE, ROLLBACK, DEPRECATE, REVOKE = "publish", "promote", "rollback", "deprecate", "revoke"
MOVES = (PUBLISH, PROMOTE)


@dataclass(frozen=True)
class Change:
    """One change: `time` in ISO 8601 and UTC, `until` a date, `before` the channel's version then."""

    action: str
    version: str
    channel: str = ""
    before: str = ""
    because: str = ""
    until: str = ""
    use: str = ""
    who: str = ""
    time: str = ""

    def to_data(self) -> dict[str, str]:
        """Its fields, but for the empty ones."""
        return {key: value for key, value in asdict(self).items() if value}

    @property
    def text(self) -> str:
        """What was done, for people."""
        what = {
            PUBLISH: f"published {self.version}",
            PROMOTE: f"{self.channel} moved to {self.version}",
            ROLLBACK: f"{self.channel} taken back to {self.version}",
            DEPRECATE: f"{self.version} deprecated",
            REVOKE: f"{self.version} revoked",
        }.get(self.action, f"{self.action} {self.version}")
        if self.action == PUBLISH and self.channel:
            what += f", {self.channel} moved to it"
        parts = [f"was {self.before}" if self.before else "", f"until {self.until}" if self.until else ""]
        parts += [f"use {self.use}" if self.use else "", self.because]
        return ": ".join((what, ", ".join(part for part in parts if part))) if any(parts) else what


def path(store: Store, name: str) -> Path:
    return store.folder(name) / "history.jsonl"


def read(store: Store, name: str) -> list[Change]:
    """The changes, oldest first; none for an image of an older Kiln. A damaged line is passed over."""
    try:
        text = path(store, name).read_text(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {path(store, name)}: {error.strerror}") from error
    return [change for line in text.splitlines() if (change := _parse(line))]


def _parse(line: str) -> Change | None:
    names = {item.name for item in fields(Change)}
    try:
        data = {name: value for name, value in json.loads(line).items() if name in names}
        change = Change(**data)
    except (ValueError, TypeError, AttributeError):
        return None
    return change if all(isinstance(value, str) for value in data.values()) else None


def add(store: Store, name: str, change: Change) -> None:
    """Add a line; whoever calls holds the lock of `name`."""
    here = path(store, name)
    try:
        before = here.read_bytes()
    except FileNotFoundError:
        before = b""
    text = json.dumps(change.to_data(), ensure_ascii=False) + "\n"
    separator = b"" if before.endswith(b"\n") or not before else b"\n"
    files.write_atomic(here, before + separator + text.encode())


def stamp() -> tuple[str, str]:
    """Who does it (USER@HOST), and when."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}", datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def last(changes: Iterable[Change], version: str, action: str) -> Change | None:
    """The last change of a kind to a version."""
    found = [change for change in changes if (change.version, change.action) == (version, action)]
    return found[-1] if found else None


def way_back(changes: Sequence[Change], channel: str, now: str, there: Sequence[str]) -> str:
    """The version that a channel had before it came to `now`; '' where the history doesn't tell.

    A step back is taken back for good: a second one leads further. Versions that are no longer there, or
    revoked, are passed over.
    """
    stack: list[str] = []
    for change in changes:
        if change.channel != channel:
            continue
        if change.action in MOVES:
            stack += [each for each in (change.before, change.version) if each and each not in stack[-1:]]
        elif change.action == ROLLBACK:
            while stack and stack[-1] != change.version:
                stack.pop()
    if now in stack:
        # What lies above was written, and never happened.
        del stack[len(stack) - 1 - stack[::-1].index(now) :]
    usable = (each for each in reversed(stack) if each in there and not last(changes, each, REVOKE))
    return next((each for each in usable if each != now), "")
