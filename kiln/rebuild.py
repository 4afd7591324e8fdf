"""Making a published image again from what its record names, to see whether it comes out the same.

Owns where the inputs of then are found, and the comparison. Nothing of it is published: the new image goes
into a private folder that is removed.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiln import build as building
from kiln import checkout, files, invocation, lockfile, manifest, owners, provenance, treediff, workspace
from kiln.context import Context
from kiln.errors import KilnError, VerifyError
from kiln.order import Options
from kiln.record import Record
from kiln.run import run
from kiln.store import Entry
from kiln.treediff import PathDifference
from kiln.workspace import Workspace
from kiln.yamltree import read

READ_SECONDS = 60.0
MOST_NAMED = 20


@dataclass(frozen=True)
class Rebuilt:
    """How a version came out again: its digest, and where it differs, the first path first."""

    digest: str
    same: bool
    differences: tuple[PathDifference, ...] = ()

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


def rebuild(context: Context, entry: Entry, record: Record) -> Rebuilt:
    """Build a version again, without its layers and hooks of before, and compare.

    Raises `VerifyError` where the inputs of then aren't to be had any more, and what `build` raises.
    """
    with workspace.opened(context.site.work, f"verify-{entry.name}", context.environ) as private:
        root = _root(context, entry, record, private)
        again = dataclasses.replace(context, root=root, target=private.path / "images")
        runtime = record.runtime.partition(" ")[0]
        options = Options(runtime=runtime, no_cache=True, trial=True)
        _same_base(record, building.plan(again, entry.name, options).base.digest)
        made = building.build(again, entry.name, options)
        _tell_tools(context, record, made.record)
        if made.record.digest == record.digest:
            return Rebuilt(made.record.digest, True)
        with context.ui.step("compare") as step:
            found = _differences(context, entry.path, made.path, private, runtime)
            step.outcome = f"{len(found)} paths differ"
        return Rebuilt(made.record.digest, False, tuple(found))


def _same_base(record: Record, digest: str) -> None:
    if digest != record.base_digest:
        raise VerifyError(
            f"{record.base} is another base now: {digest}",
            f"{record.name} {record.version} was made on {record.base_digest}; a lock pins a base: "
            f"invoke lock {record.name}",
        )


def _root(context: Context, entry: Entry, record: Record, private: Workspace) -> Path:
    """A checkout with the manifest, the lock and, where git has them, the files that were used."""
    if not record.manifest:
        raise VerifyError(
            f"what {entry.name} {entry.version} was made from isn't on record: an older Kiln published it",
            f"build it anew: invoke build {entry.name} --no-cache",
        )
    now = checkout.state(context.root, context.environ)
    if _as_it_is(context, record, now):
        return context.root
    place = private.path / "checkout"
    root = checkout.at(context.root, record.commit, place, context.environ) if record.commit else None
    if root is None:
        if record.clean:
            raise VerifyError(
                f"{entry.name} {entry.version} was built at commit {record.commit}, which isn't here",
                f"get it into {context.root}: git fetch",
            )
        root = _copy(context, place)
    folder, kept = root / "manifests", _kiln_folder(context, entry.path, private)
    for name, inside in (
        (f"{entry.name}.yaml", provenance.MANIFEST),
        (f"{entry.name}.lock", provenance.LOCK),
    ):
        (folder / name).unlink(missing_ok=True)
        text = files.read_inside(kept, inside, provenance.LARGEST)
        if text is not None:
            (folder / name).write_bytes(text)
    if record.clean is False:
        context.ui.warn(
            "it was built from a checkout with changes that nobody committed: its files may differ"
        )
    return root


def _as_it_is(context: Context, record: Record, now: checkout.State) -> bool:
    """Whether the checkout holds the inputs of then."""
    if record.commit != now.commit or (record.clean and not now.clean):
        return False
    lock = context.manifests / f"{record.name}.lock"
    try:
        text = read(manifest.find(context.manifests, record.name))
        locked = read(lock, lockfile.SIZE_LIMIT) if lock.is_file() else ""
    except KilnError:
        return False
    return (invocation.digest(text), invocation.digest(locked)) == (record.manifest, record.lock)


def _copy(context: Context, place: Path) -> Path:
    """What lies in the checkout now."""
    files.remove_tree(place)
    place.mkdir()
    for name in ("manifests", "hooks", "sites"):
        if (context.root / name).is_dir():
            shutil.copytree(context.root / name, place / name, symlinks=True)
    return place


def _kiln_folder(context: Context, image: Path, private: Workspace) -> Path:
    """The /.kiln of an image, unpacked."""
    place = private.path / "kept"
    argv = ["unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-dest", str(place), str(image)]
    what = f"read {provenance.FOLDER} in {image.name}"
    run([*argv, provenance.FOLDER.lstrip("/")], what=what, env=context.host_env(), timeout=READ_SECONDS)
    return files.inside(place, provenance.FOLDER)


def _tell_tools(context: Context, record: Record, made: Record) -> None:
    """Say which tools are others than then: their versions are in the image, so it can't be the same."""
    for what in ("kiln", "runtime", "squashfs_tools", "commit"):
        then, now = getattr(record, what), getattr(made, what)
        if then != now:
            context.ui.warn(f"{what.replace('_', '-')} was {then or 'none'}, and is {now or 'none'} now")


def _differences(
    context: Context, published: Path, made: Path, private: Workspace, runtime: str
) -> list[PathDifference]:
    unpacker = context.runtime(private, runtime)
    for name, image in (("published", published), ("made", made)):
        unpacker.create(image, name)
    found = treediff.compare(unpacker.rootfs("published"), unpacker.rootfs("made"))
    known = owners.of(unpacker.rootfs("made"), (item.path for item in found))
    return [dataclasses.replace(item, owner=known.get(item.path, "")) for item in found]


def conclude(entry: Entry, found: Rebuilt) -> None:
    """Raise `VerifyError` where a version doesn't come out the same."""
    if found.same:
        return
    lines = [
        f"{item.path}{f' ({item.owner})' if item.owner else ''}: {item.what}"
        for item in found.differences[:MOST_NAMED]
    ]
    more = len(found.differences) - MOST_NAMED
    raise VerifyError(
        f"{entry.name} {entry.version} comes out otherwise: {found.digest}",
        "what a layer writes that depends on time or chance, take it out in that layer; see docs/record.md",
        (lines + ([f"and {more} more"] if more > 0 else []))
        or ["every path is the same: the order of files, their attributes or the packing differ"],
    )
