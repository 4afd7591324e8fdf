"""Whether a version may be used: what the histories say of it, and of the images that it is built on.

Reads only. A version itself never changes: what is thought of it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kiln import history
from kiln.history import Change
from kiln.store import Entry, Store

FROM_IMAGE = "image:"


@dataclass(frozen=True)
class RevokedBase:
    """The revoked image that a version is built on, near or far, and why it is."""

    name: str
    version: str
    because: str


@dataclass(frozen=True)
class Standing:
    """What says that a version may not be used, or not for long; nothing of one in good standing."""

    revoked: str = ""
    base: RevokedBase | None = None
    until: str = ""
    use: str = ""
    because: str = ""

    @property
    def refused(self) -> str:
        """Why nobody is to use it, '' where people may."""
        if self.revoked:
            return f"revoked: {self.revoked}"
        if not self.base:
            return ""
        return f"built on {self.base.name} {self.base.version}, which is revoked: {self.base.because}"

    @property
    def text(self) -> str:
        """For people; '' for a version in good standing."""
        if self.refused or not self.until:
            return self.refused
        return f"deprecated until {self.until}: {self.because}; use {self.use}"

    def to_data(self) -> dict[str, Any]:
        """For programs, and the catalogue: `revoked`, `revoked_base`, `deprecated`, where there is one."""
        return {
            **({"revoked": {"because": self.revoked}} if self.revoked else {}),
            **({"revoked_base": vars(self.base)} if self.base else {}),
            **(
                {"deprecated": {"until": self.until, "use": self.use, "because": self.because}}
                if self.until
                else {}
            ),
        }


def of_data(data: Mapping[str, Any]) -> Standing:
    """What `to_data` gave; what is no text in it is taken as one."""

    def texts(name: str) -> dict[str, str]:
        found = data.get(name)
        return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    base, deprecated = texts("revoked_base"), texts("deprecated")
    revoked = texts("revoked").get("because", "no reason is given") if data.get("revoked") else ""
    return Standing(
        revoked,
        RevokedBase(*(base.get(key, "") for key in ("name", "version", "because"))) if base else None,
        *(deprecated.get(key, "") for key in ("until", "use", "because")),
    )


@dataclass(frozen=True)
class Standings:
    """Those of a store's versions; each history and record is read once."""

    store: Store
    _changes: dict[str, list[Change]] = field(default_factory=dict)
    _by_digest: dict[str, dict[str, list[Entry]]] = field(default_factory=dict)

    def of(self, entry: Entry) -> Standing:
        changes = self.changes(entry.name)
        revoked = history.last(changes, entry.version, history.REVOKE)
        said = history.last(changes, entry.version, history.DEPRECATE)
        deprecated = (said.until, said.use, said.because) if said else ("", "", "")
        return Standing(revoked.because if revoked else "", self._revoked_base(entry), *deprecated)

    def changes(self, name: str) -> list[Change]:
        """An image's history."""
        if name not in self._changes:
            self._changes[name] = history.read(self.store, name)
        return self._changes[name]

    def _revoked_base(self, entry: Entry) -> RevokedBase | None:
        seen: set[str] = set()
        while entry.record and entry.record.base.startswith(FROM_IMAGE) and entry.record.digest not in seen:
            seen.add(entry.record.digest)
            name = entry.record.base.removeprefix(FROM_IMAGE).partition(":")[0]
            parents = self._versions(name).get(entry.record.base_digest, [])
            for parent in parents:
                if said := history.last(self.changes(name), parent.version, history.REVOKE):
                    return RevokedBase(name, parent.version, said.because)
            if not parents:
                return None
            entry = parents[0]
        return None

    def _versions(self, name: str) -> dict[str, list[Entry]]:
        """By digest: two versions may be the same bytes."""
        if name not in self._by_digest:
            found = self._by_digest[name] = {}
            for version in self.store.versions(name):
                entry = self.store.entry(name, version)
                if entry.record:
                    found.setdefault(entry.record.digest, []).append(entry)
        return self._by_digest[name]
