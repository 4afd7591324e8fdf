"""A lock in a build: whether it holds, the base that it pins, and its packages on this machine.

Owns what a build asks of a lock. How one is made is `kiln.locking`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kiln import debootstrap, locked, lockedcommand, lockedfiles, lockfile
from kiln.bases import DEBOOTSTRAP_BYTES, Finder, Found
from kiln.context import Context
from kiln.errors import LockError
from kiln.locked import Lock, Locked
from kiln.manifest import Manifest
from kiln.plan import Plan
from kiln.ui import Step, size_text
from kiln.workspace import Workspace


def in_force(context: Context, manifest: Manifest, *, demanded: bool) -> Lock | None:
    """The lock that a build of `manifest` keeps to; None where there is none.

    Raises `LockError` for one that doesn't fit the manifest, and where one is `demanded` and missing.
    """
    lock = lockfile.load(context.manifests, manifest.name)
    if lock is None:
        if demanded:
            raise LockError(f"{manifest.name} has no lock", f"make one: invoke lock {manifest.name}")
        return None
    locked.require(lock, manifest, context.architecture)
    return lock


def finder(context: Context) -> Finder:
    """What looks for bases, and keeps what registries say of them: a pinned one is found without any."""
    return dataclasses.replace(context.finder(), kept=context.site.blobs)


def find_base(context: Context, manifest: Manifest, lock: Lock, *, anew: bool = False) -> Found:
    """The base as it is locked, wherever its tag or channel leads now. Raises `LockError`, `BaseError`.

    `anew`: a registry is asked, whatever is known of the base here.
    """
    base, pinned = manifest.base, lock.base
    if base.kind == "debootstrap":
        suite = debootstrap.pinned(
            base.suite, pinned.sources, pinned.digest, pinned.epoch, context.site.mirrors
        )
        digests = (pinned.digest, pinned.platform_digest)
        return Found(base, pinned.label, *digests, suite.epoch, 0, DEBOOTSTRAP_BYTES, suite=suite)
    if base.kind == "registry":
        base = dataclasses.replace(base, digest=pinned.digest)
    elif base.kind == "image":
        base = dataclasses.replace(base, version=pinned.label)
    found = (context.finder() if anew else finder(context)).find(base)
    found = dataclasses.replace(found, base=manifest.base, label=pinned.label)
    if (found.digest, found.platform_digest) != (pinned.digest, pinned.platform_digest):
        raise LockError(
            f"the base {manifest.base.text} is no longer what was locked: it is {found.digest},"
            f" the lock has {pinned.digest}",
            f"put the old one back, or take this one: invoke lock {lock.name} --update base",
        )
    return found


def wanted(plan: Plan) -> list[Locked]:
    """The packages that a build of `plan` will install: those of what isn't in the layer store."""
    if plan.lock is None:
        return []
    base = () if plan.base_lookup.entry else plan.lock.base.locked
    layers = [item.locked or () for item in plan.layers if item.lookup.entry is None]
    return [*base, *(each for packages in layers for each in packages)]


def fetch(context: Context, lock: Lock, packages: Sequence[Locked], step: Step) -> None:
    """Bring packages to this machine; those that are there are asked of nobody."""
    found = lockedfiles.opened(lock, context.site, context.transport)
    missing = [each for each in packages if not found.there([each])]
    found.fetch(missing, step.progress)
    total = size_text(sum(each.size for each in missing))
    step.outcome = f"{len(packages)} packages, {len(missing)} fetched ({total})" if missing else "all there"


def fetch_all(context: Context, manifest: Manifest, lock: Lock) -> None:
    """Bring everything that a build will need. Raises `LockError` for a lock that doesn't fit."""
    locked.require(lock, manifest, context.architecture)
    with context.ui.step(f"fetch {lock.name}") as step:
        fetch(context, lock, lock.packages, step)
    resolved = find_base(context, manifest, lock).resolved
    if resolved and resolved.reference:
        with context.ui.step(f"fetch {lock.base.text}") as step:
            context.client.pull(resolved, context.site.blobs, progress=step.progress)


def with_archives(context: Context, lock: Lock | None, base: Found, private: Workspace) -> Found:
    """The base to make: of a mirror, from the archives that are locked."""
    if lock is None or base.suite is None:
        return base
    place = private.path / "locked" / "0"
    found = lockedfiles.opened(lock, context.site, context.transport)
    lockedcommand.lay_out(found, "apt", lock.base.locked, place)
    return dataclasses.replace(base, suite=dataclasses.replace(base.suite, archives=place / "files"))
