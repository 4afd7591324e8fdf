"""Making an image anew of what there is today: its lock resolved again, or its open layers run again.

Owns what becomes of the lock: the new one stays where the image is published that was made with it; where the
build fails, or comes out as before, the old one is put back.
"""

from __future__ import annotations

from dataclasses import replace

from kiln import build as building
from kiln import files, locked, lockfile, locking
from kiln.context import Context
from kiln.errors import KilnError
from kiln.layers import key as keys
from kiln.manifest import Manifest
from kiln.order import Options, Outcome

EVERYTHING = locking.WORDS


def renew(context: Context, name: str, options: Options) -> Outcome:
    """Build an image from the newest of everything, and publish it if it is another one than before.

    Raises what `lock` and `build` raise.
    """
    manifest = context.load(name)
    path = lockfile.path_of(context.manifests, name)
    if not path.exists():
        start = options.start or _first_open(manifest)
        return building.build(context, name, replace(options, start=start))
    before = path.read_bytes()
    fits = _fits(context, manifest)
    try:
        with context.ui.step(f"resolve {path.name} anew") as step:
            _, changed = locking.lock(context, name, EVERYTHING, options.runtime)
            step.outcome = f"{len(changed)} changes" if changed else "as it was"
        done = building.build(context, name, options)
    except BaseException:
        files.write_atomic(path, before)
        raise
    if fits and (done.unchanged or done.logs is None):
        files.write_atomic(path, before)
    return done


def _first_open(manifest: Manifest) -> int:
    """The number of the first layer that doesn't say exactly what it installs, 0 for none."""
    numbered = enumerate(manifest.layers, 1)
    return next((number for number, layer in numbered if not keys.pinned(layer)), 0)


def _fits(context: Context, manifest: Manifest) -> bool:
    """Whether the lock of before would do for another build."""
    try:
        lock = lockfile.load(context.manifests, manifest.name)
        return lock is not None and not locked.changes(lock, manifest, context.architecture)
    except KilnError:
        return False
