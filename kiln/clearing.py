"""Clearing the store of old versions: to the trash first, and from there for good when their time is up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kiln import files, publish, retention, trash
from kiln.context import Context
from kiln.retention import Limits


@dataclass(frozen=True)
class Cleared:
    """Versions as NAME:VERSION: what went to the trash, left it for good, came back, and why others stay."""

    dry_run: bool = False
    gone: Sequence[str] = ()
    emptied: Sequence[str] = ()
    back: Sequence[str] = ()
    stays: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The images whose pages are to be made anew."""
        return sorted({reference.partition(":")[0] for reference in (*self.gone, *self.back)})

    def to_data(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "gone": list(self.gone),
            "emptied": list(self.emptied),
            "back": list(self.back),
            "stays": dict(self.stays),
        }


def clear(context: Context, *, dry_run: bool) -> Cleared:
    """Move what the site's `store` has no room for to the trash. Raises `StoreError`, `BusyError`."""
    store, limits, notify = context.store, context.site.store, context.ui.warn
    found = retention.verdicts(store, Limits(limits.keep_last, limits.grace))
    stays = {each.reference: each.stays for each in found if each.stays}
    doomed = [each for each in found if not each.stays]
    old = list(trash.old(store, limits.trash))
    if dry_run:
        read = [each for each in doomed if trash.in_use(each.entry.path)]
        stays |= {each.reference: "it is being read" for each in read}
        gone = [each.reference for each in doomed if each not in read]
        return Cleared(True, gone, [f"{thrown.name}:{thrown.version}" for thrown in old], (), stays)
    for name in {each.entry.name for each in doomed}:
        publish.check_writable(store, name)
    trash.mend(store, notify)
    if doomed:
        # Whoever reads the catalogue never finds a version in it that isn't there.
        publish.refresh_catalog(store, notify, {(each.entry.name, each.entry.version) for each in doomed})
    gone = []
    for each in doomed:
        if trash.throw(store, each.entry, notify):
            gone.append(each.reference)
        else:
            stays[each.reference] = "it is being read, or a channel has come to lead to it"
    emptied = [f"{thrown.name}:{thrown.version}" for thrown in old if trash.empty(thrown)]
    for place in trash.litter(store, limits.trash):
        files.remove_tree(place)
    if len(gone) < len(doomed):
        publish.refresh_catalog(store, notify)
    return Cleared(False, gone, emptied, (), stays)


def put_back(context: Context, reference: str) -> Cleared:
    """Have a version of the trash in the store again. Raises `UsageError`, `StoreError`."""
    publish.check_writable(context.store, reference.partition(":")[0])
    entry = trash.put_back(context.store, reference, context.ui.warn)
    publish.refresh_catalog(context.store, context.ui.warn)
    return Cleared(back=[f"{entry.name}:{entry.version}"])
