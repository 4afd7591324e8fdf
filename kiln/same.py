"""Whether a finished image is what is published already, so that nobody gets a new version of the same.

Owns what counts as the same: made from the same inputs, with the same packages, and every path but those of
/.kiln alike. There the git commit is, which changes with every other image of the checkout.
"""

from __future__ import annotations

from pathlib import Path

from kiln import history, provenance, publish, testruns, treediff
from kiln.context import Context
from kiln.record import Record
from kiln.runtime.contract import Runtime
from kiln.store import Entry
from kiln.testruns import Run

PUBLISHED, MADE = "published", "made"


def find(context: Context, runtime: Runtime, exported: Path, record: Record) -> Record | None:
    """The published version that `exported` is the same as, the tests that it passed now added to it."""
    for entry in context.store.led_to(record.name):
        known = entry.record
        if known and _alike(known, record) and _same(context, runtime, exported, entry, record):
            return _tested(context, entry, known, record)
    return None


def _alike(one: Record, two: Record) -> bool:
    """Whether what is on record is the same: trees take long to be compared."""
    return (one.key, set(one.packages)) == (two.key, set(two.packages))


def _same(context: Context, runtime: Runtime, exported: Path, entry: Entry, record: Record) -> bool:
    if entry.record and entry.record.digest == record.digest:
        return True
    with context.ui.step(f"compare with {entry.path.name}") as step:
        runtime.create(entry.path, PUBLISHED)
        runtime.create(exported, MADE)
        found = treediff.compare(runtime.rootfs(PUBLISHED), runtime.rootfs(MADE))
        own = (provenance.FOLDER, f"{provenance.FOLDER}/")
        differ = [each.path for each in found if each.path != own[0] and not each.path.startswith(own[1])]
        step.outcome = f"{len(differ)} paths differ: {differ[0]}" if differ else "the same"
    return not differ


def _tested(context: Context, entry: Entry, known: Record, record: Record) -> Record:
    if not record.smoke:
        return known
    store = context.store
    who, time = history.stamp()
    with publish.image_lock(store, entry.name, context.ui.warn):
        testruns.add(store.tests(entry.name, entry.version), Run(time, who, record.smoke))
    publish.refresh_catalog(store, context.ui.warn)
    return testruns.together(known, [Run(time, who, record.smoke)])
