"""Whether a lock still holds: for its manifest, its base, and at the indexes of its packages."""

from __future__ import annotations

import contextlib

from kiln import locked, lockedfiles, lockfile, lockuse
from kiln.context import Context
from kiln.errors import BaseError, LockError, StoreError
from kiln.locked import Lock, Locked
from kiln.lockedfiles import Missing
from kiln.manifest import Manifest
from kiln.problems import shown
from kiln.ui import Step

MOVABLE = ("registry", "image")
"""Bases whose tag or channel may lead elsewhere tomorrow."""


def load(context: Context, name: str) -> Lock:
    """The lock of an image, as it was written. Raises `LockError` where there is none."""
    lock = lockfile.load(context.manifests, name)
    if lock is None:
        raise LockError(f"{name} has no lock", f"make one: invoke lock {name}")
    return lock


def check(context: Context, name: str) -> Lock:
    """Ask for everything that a lock names; raises `LockError` with all that no longer holds."""
    manifest, lock = context.load(name), load(context, name)
    place = shown(lock.path)
    said = [f"{place}: {each}" for each in locked.changes(lock, manifest, context.architecture)]
    packages = lock.packages
    with context.ui.step(f"check {len(packages)} packages") as step:
        if not said and (base := _base(context, manifest, lock, step)):
            said.append(f"{place}: {base}")
        found = lockedfiles.opened(lock, context.site, context.transport)
        missing = found.missing(packages)
        step.outcome = f"{len(missing)} of them are gone" if missing else "all there"
    said += [f"{lock.place(each.package)}: {_gone(lock, each)}" for each in missing]
    if said:
        what = "no longer holds" if len(said) == 1 else f"no longer holds, for {len(said)} reasons"
        raise LockError(f"{place} {what}: {_first(said[0])}", _hint(lock, missing), said)
    return lock


def _base(context: Context, manifest: Manifest, lock: Lock, step: Step) -> str:
    """Why the base can't be had as it was locked, '' where it can; a mirror's packages tell that."""
    try:
        lockuse.find_base(context, manifest, lock, anew=True)
    except (LockError, BaseError, StoreError) as error:
        return error.message
    if manifest.base.kind in MOVABLE:
        with contextlib.suppress(BaseError, StoreError):
            now = context.finder().find(manifest.base).digest
            if now != lock.base.digest:
                how = f"invoke lock {lock.name} --update base"
                step.note(f"{manifest.base.text} leads to {now} now; to take that: {how}")
    return ""


def _gone(lock: Lock, missing: Missing) -> str:
    package = missing.package
    return f"{_layer(lock, package)}: {package.title}: {package.url} {missing.said}"


def _layer(lock: Lock, package: Locked) -> str:
    for layer in lock.layers:
        if package in layer.locked:
            return f"layer {layer.number} ({layer.kind})"
    return "the base"


def _first(text: str) -> str:
    return text.partition(": ")[2]


def _hint(lock: Lock, missing: list[Missing]) -> str:
    if not missing:
        return f"run: invoke lock {lock.name}"
    first = missing[0].package
    what = "base" if first in lock.base.locked else first.name
    return f"run: invoke lock {lock.name} --update {what}"
