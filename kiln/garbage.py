"""`gc`: what builds left, and what the cache no longer needs.

Owns the list of places that are looked at. What goes first there is `kiln.layers.housekeeping`'s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln import packagecache, workspace
from kiln.context import Context
from kiln.layers import housekeeping
from kiln.layers.housekeeping import Doomed, Item, Limits


@dataclass(frozen=True)
class Collected:
    """What went, or would go: ids of workspaces, and things of the cache."""

    workspaces: list[str]
    things: list[Doomed]

    @property
    def size(self) -> int:
        """Bytes of the things."""
        return sum(each.item.size for each in self.things)

    def to_data(self) -> dict[str, object]:
        things = [
            {
                "kind": each.item.kind,
                "title": each.item.title,
                "path": str(each.item.path),
                "bytes": each.item.size,
                "reason": each.reason,
            }
            for each in self.things
        ]
        return {"workspaces": self.workspaces, "things": things, "bytes": self.size}


def collect(context: Context, image: str, *, dry_run: bool) -> Collected:
    """Remove what may go; with an `image`, only its kept builds. With `dry_run`, only say what it is."""
    work = context.site.work
    if image:
        return Collected(_workspaces(work, image, dry_run), [])
    store = context.layer_store
    store.local.check()
    if store.shared:
        store.shared.check()
    cleaned = _workspaces(work, "", dry_run)
    found = [*housekeeping.doomed(_local(context, cleaned), _limits(context))]
    if store.shared:
        found += housekeeping.doomed(housekeeping.shared_items(store.shared), _limits(context))
    if dry_run:
        return Collected(cleaned, found)
    went = housekeeping.remove(found)
    housekeeping.tidy(store.local)
    return Collected(cleaned, went)


def _workspaces(work: Path, image: str, dry_run: bool) -> list[str]:
    return workspace.doomed(work, image) if dry_run else workspace.clean(work, image)


def _limits(context: Context) -> Limits:
    return Limits(context.site.layers.keep_unused, context.site.layers.max_size)


def _local(context: Context, cleaned: Sequence[str]) -> Iterator[Item]:
    yield from housekeeping.local_items(context.layer_store.local, _held(context.site.work, cleaned))
    blobs = context.site.blobs / "sha256"
    paths = (path for path in blobs.iterdir() if path.suffix != ".lock") if blobs.is_dir() else iter(())
    yield from housekeeping.file_items("download", paths)
    before = time.time() - context.site.layers.keep_unused
    own = packagecache.own(context.site.packages)
    yield from housekeeping.file_items("package", packagecache.unused(own, before))


def _held(work: Path, cleaned: Sequence[str]) -> frozenset[str]:
    """The ids of the entries that kept builds need to be opened again, but for those that go."""
    found = set()
    for private in (each for each in workspace.kept(work) if each.id not in cleaned):
        try:
            found |= {identity for _, _, identity in json.loads((private.stack / "entries.json").read_text())}
        except (OSError, ValueError, TypeError):
            continue
    return frozenset(found)
