"""Moving a channel, and taking a version out of use: promote, roll back, deprecate, revoke.

Owns what is refused. Each change is a line in the image's history, then one rename; both under its lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from kiln import files, history, publish
from kiln.errors import RevokedError, StoreError, UsageError
from kiln.history import Change
from kiln.run import unbroken
from kiln.standing import Standings
from kiln.store import Entry, Store

CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,40}")

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Moved:
    """Where a channel leads now, and did before ('' for nowhere)."""

    name: str
    channel: str
    version: str
    before: str


def promote(store: Store, reference: str, channel: str, because: str, notify: Notify) -> Moved:
    """Have `channel` lead to a version.

    Without a reason (`because`) only to one whose required smoke hooks have passed; never to a revoked one.
    Raises `UsageError`, `StoreError`.
    """
    if not CHANNEL.fullmatch(channel):
        raise UsageError(f"'{channel}' is no name for a channel", "small letters, digits, '-' and '_'")
    entry = _named(store, reference)
    publish.check_writable(store, entry.name)
    with publish.image_lock(store, entry.name, notify):
        entry = store.entry(entry.name, entry.version)
        _check_usable(store, entry)
        if not because:
            _check_tested(entry)
        before = store.channels(entry.name).get(channel, "")
        if before != entry.version:
            _move(store, entry.name, Change(history.PROMOTE, entry.version, channel, before, because))
    with publish.told_as_done(f"{channel} of {entry.name} came to lead to {entry.version}"):
        publish.refresh_catalog(store, notify)
    return Moved(entry.name, channel, entry.version, before)


def rollback(store: Store, name: str, channel: str, because: str, notify: Notify) -> Moved:
    """Have `channel` lead to the version that it led to before. Raises `UsageError`, `StoreError`."""
    found = store.find(name).name
    publish.check_writable(store, found)
    with publish.image_lock(store, found, notify):
        now = store.channels(found).get(channel, "")
        if not now:
            raise UsageError(f"{found} has no channel {channel}", f"see: invoke show {found}")
        before = history.way_back(history.read(store, found), channel, now, store.versions(found))
        if not before:
            raise StoreError(
                f"the history of {found} tells of no version that {channel} had before {now}",
                f"name one: invoke promote {found}:VERSION --channel {channel}",
            )
        _move(store, found, Change(history.ROLLBACK, before, channel, now, because))
    with publish.told_as_done(f"{channel} of {found} came to lead to {before}"):
        publish.refresh_catalog(store, notify)
    return Moved(found, channel, before, now)


def deprecate(store: Store, reference: str, until: str, use: str, because: str, notify: Notify) -> Entry:
    """Tell all who look at a version, or pull it, that it will go on the day `until` (YYYY-MM-DD)."""
    entry = _named(store, reference)
    _check_date(until)
    if not because:
        raise UsageError("a deprecation needs a reason", "add: --because TEXT")
    if not use:
        raise UsageError("a deprecation needs what to use in its place", "add: --use NAME:VERSION")
    replacement = store.find(use)
    if (replacement.name, replacement.version) == (entry.name, entry.version):
        raise UsageError(f"{use} is {reference} itself", "name what to use in its place: --use NAME:VERSION")
    _mark(
        store, entry, Change(history.DEPRECATE, entry.version, until=until, use=use, because=because), notify
    )
    return entry


def revoke(store: Store, reference: str, because: str, notify: Notify) -> Entry:
    """Have nobody pull or promote a version any more, wherever channels lead. Raises `StoreError`."""
    entry = _named(store, reference)
    if not because:
        raise UsageError("a revocation needs a reason", "add: --because TEXT")
    _mark(store, entry, Change(history.REVOKE, entry.version, because=because), notify)
    return entry


def _named(store: Store, reference: str) -> Entry:
    """A version that was named as such, by number or channel: what it means must not depend on the moment."""
    if ":" not in reference:
        found = store.find(reference)
        raise UsageError(
            f"which version of {reference}?",
            f"write {reference}:VERSION, such as {reference}:{found.version}",
        )
    return store.find(reference)


def _check_usable(store: Store, entry: Entry) -> None:
    standing = Standings(store).of(entry)
    if standing.refused:
        raise RevokedError(
            f"{entry.name} {entry.version} is {standing.refused}",
            f"see: invoke history {entry.name}"
            if standing.revoked
            else f"build it anew: invoke build {entry.name}",
        )


def _check_tested(entry: Entry) -> None:
    if entry.record is None:
        raise StoreError(f"{entry.path.name} has no sound record: {entry.problem}", "say why: --because TEXT")
    state = entry.record.smoke_state
    if state != "passed":
        said = {"incomplete": "have not all run", "none": "are not there"}.get(state, "have failed")
        raise StoreError(
            f"the required smoke hooks of {entry.name} {entry.version} {said}",
            f"run them: invoke smoke {entry.name}:{entry.version}; or say why: --because TEXT",
        )


def _check_date(text: str) -> None:
    if not text:
        raise UsageError("a deprecation needs the day until which it may be used", "add: --until 2027-01-31")
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"'{text}' is no date", "write it as 2027-01-31") from None
    if day < date.today():
        raise UsageError(f"{text} has passed", "a day from today on; to stop its use at once: invoke revoke")


def _mark(store: Store, entry: Entry, change: Change, notify: Notify) -> None:
    publish.check_writable(store, entry.name)
    with publish.image_lock(store, entry.name, notify):
        who, time = history.stamp()
        history.add(store, entry.name, _signed(change, who, time))
    with publish.told_as_done(f"{entry.name} {entry.version} was marked"):
        publish.refresh_catalog(store, notify)


def _move(store: Store, name: str, change: Change) -> None:
    """Write the line, then move the link."""
    who, time = history.stamp()
    with unbroken():
        history.add(store, name, _signed(change, who, time))
        files.link_atomic(store.channel(name, change.channel), store.image(name, change.version).name)


def _signed(change: Change, who: str, time: str) -> Change:
    return Change(**{**vars(change), "who": who, "time": time})
