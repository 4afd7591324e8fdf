"""Putting a finished image where users find it: one rename, then the channel, then the catalogue.

Owns the order of writing, which keeps a reader from ever seeing half an image: record, SBOM and the like
first, which nobody looks at while their .sqsh is missing; the .sqsh by one rename or link, which
never replaces a file; the channel's link, by rename; the catalogue, made anew from the records. What
a publish that was killed leaves is a staging file, or a record without its .sqsh: the next publish
of the same image removes the one and writes over the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import grp
import json
import os
import pwd
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from kiln import companions, files, history
from kiln.companions import Sign
from kiln.errors import ExportError, KilnError, StoreError
from kiln.history import Change
from kiln.record import Record
from kiln.run import unbroken
from kiln.standing import Standings
from kiln.store import BESIDE, CANDIDATE, CURRENT, Store, next_version

STAGING = ".staging"
LOCK = ".lock"
WAIT_SECONDS = 600.0
TOP_FIELDS = ("version", "digest", "size", "base", "base_digest", "built", "description")


def check_writable(store: Store, name: str) -> None:
    """Raise `StoreError` now where a change of the image `name` would fail for want of rights."""
    folder = store.folder(name)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    places = [existing, store.root] if store.root.exists() else [existing]
    for place in places:
        if not os.access(place, os.W_OK | os.X_OK):
            raise StoreError(
                f"you may not write to {place} ({_owners(place)})",
                "ask its owner, or build for yourself: KILN_IMAGES=~/images invoke build " + name,
            )
        if not place.is_dir():
            raise StoreError(f"{place} is not a folder", "set KILN_IMAGES to the images folder")
        lock = place / LOCK
        if lock.exists() and not os.access(lock, os.R_OK | os.W_OK):
            raise StoreError(
                f"you may not lock {lock} ({_owners(lock)})", f"its owner can: chmod g+rw {lock}"
            )


def _owners(path: Path) -> str:
    """Who owns a file, by name where it has one here."""
    status = path.stat()
    user, group = f"uid {status.st_uid}", f"gid {status.st_gid}"
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(status.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(status.st_gid).gr_name
    return f"owner: {user}, group: {group}"


def publish(
    store: Store,
    finished: Path,
    record: Record,
    label: str,
    notify: Callable[[str], None],
    sign: Sign | None = None,
) -> tuple[Record, str]:
    """Publish the file `finished` as the next version; returns its record and the channel it went to.

    `record` comes without version and file; `sign` makes its signature. Raises `StoreError`, `SpaceError`,
    `BusyError`, `EnvironmentMissing` where the key fails, and `ExportError` where a copy differs from what
    was tested; then nothing was published.
    """
    published: list[Record] = []
    try:
        channel = _put(store, finished, record, label, notify, sign, published)
    except KilnError as error:
        if published:
            error.hint = _done(f"{published[0].file} was published")
        raise
    with told_as_done(f"{published[0].file} was published"):
        refresh_catalog(store, notify)
    return published[0], channel


@contextlib.contextmanager
def told_as_done(what: str) -> Iterator[None]:
    """Have a failure say that `what` was done before it: what is made from the records comes after."""
    try:
        yield
    except KilnError as error:
        error.hint = _done(what)
        raise


def _done(what: str) -> str:
    return f"{what} before that; the next change mends the catalogue and the pages"


def _put(
    store: Store,
    finished: Path,
    record: Record,
    label: str,
    notify: Callable[[str], None],
    sign: Sign | None,
    published: list[Record],
) -> str:
    """Put the file under the next version, and its record into `published` once it is there."""
    folder = store.folder(record.name)
    files.make_group_folder(folder)
    with (
        image_lock(store, record.name, notify),
        _staged(folder, finished, record.digest) as staged,
    ):
        # A number is never given twice, also when its version has been removed.
        known = [change.version for change in history.read(store, record.name)]
        version = next_version([*store.versions(record.name), *known], label)
        named = dataclasses.replace(record, version=version, file=store.image(record.name, version).name)
        done, beside = companions.make(named, sign)
        _put_beside(store, done, beside)
        channel = CANDIDATE if done.smoke_state == "incomplete" else CURRENT
        before = store.channels(done.name).get(channel, "")
        who, time = history.stamp()
        change = Change(history.PUBLISH, version, channel, before, who=who, time=time)
        with unbroken():
            _place(staged, store.image(done.name, version))
            published.append(done)
            history.add(store, done.name, change)
            files.link_atomic(store.channel(done.name, channel), done.file)
    return channel


def image_lock(
    store: Store, name: str, notify: Callable[[str], None]
) -> contextlib.AbstractContextManager[None]:
    """Be the one who changes an image's versions and channels. Raises `BusyError`."""
    return files.locked(store.folder(name) / LOCK, wait=WAIT_SECONDS, on_wait=notify)


def _put_beside(store: Store, record: Record, texts: Mapping[str, bytes]) -> None:
    """Write what lies beside an image, in place of what a publish left that was killed."""
    for suffix in BESIDE:
        path = store.beside(record.name, record.version, suffix)
        with files.translated(path):
            path.unlink(missing_ok=True)
    for suffix, data in texts.items():
        files.write_atomic(store.beside(record.name, record.version, suffix), data, 0o444)


@contextlib.contextmanager
def _staged(folder: Path, finished: Path, digest: str) -> Iterator[Path]:
    """`finished` in the image's own file system, 0444; whoever holds the lock owns the staging folder."""
    staging = folder / STAGING
    with files.translated(staging):
        files.remove_tree(staging)
    files.make_group_folder(staging, 0o700)
    try:
        staged = staging / finished.name
        with files.translated(staged):
            _bring(finished, staged, digest)
            staged.chmod(0o444)
        yield staged
    finally:
        files.remove_tree(staging)


def _bring(finished: Path, staged: Path, digest: str) -> None:
    try:
        os.link(finished, staged)
        return
    except OSError as error:
        # Another file system, one without hard links, or a kernel that protects foreign links.
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
    with finished.open("rb") as source, staged.open("xb") as target:
        shutil.copyfileobj(source, target, files.CHUNK)
        target.flush()
        os.fsync(target.fileno())
    if f"sha256:{files.sha256_file(staged)}" != digest:
        raise ExportError(
            f"the copy of {finished.name} in {staged.parent} differs from what was tested",
            "look at the disk's health: dmesg",
        )


def _place(staged: Path, final: Path) -> None:
    """Give the file its version's name; fails where the name is taken, which the lock rules out."""
    with files.translated(final):
        try:
            os.link(staged, final)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            if final.exists():
                raise StoreError(f"{final} exists already") from error
            os.rename(staged, final)
        files.sync_folder(final.parent)


def catalog_lock(store: Store, notify: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
    """Be the one who makes what is made from all records. Raises `BusyError`."""
    return files.locked(store.root / LOCK, wait=WAIT_SECONDS, on_wait=notify)


def refresh_catalog(
    store: Store, notify: Callable[[str], None], without: Collection[tuple[str, str]] = ()
) -> None:
    """Make catalog.json anew from the records; damaged ones are named in it, and stop nothing.

    `without` are versions, as name and version, that are there and about to go.
    """
    with catalog_lock(store, notify):
        standings = Standings(store)
        images = {name: _summary(standings, name, without) for name in store.names()}
        text = json.dumps({"format": 1, "images": images}, indent=1, ensure_ascii=False) + "\n"
        files.write_atomic(store.catalog, text.encode())


def _summary(standings: Standings, name: str, without: Collection[tuple[str, str]]) -> dict[str, Any]:
    """What the catalogue says of one image."""
    store, versions = standings.store, []
    for version in store.versions(name):
        if (name, version) in without:
            continue
        entry = store.entry(name, version)
        if entry.record is None:
            summary: dict[str, Any] = {"version": version, "problem": entry.problem}
        else:
            known = {key: getattr(entry.record, key) for key in TOP_FIELDS}
            summary = {**known, "version": version, "smoke": entry.record.smoke_state}
        versions.append({**summary, **standings.of(entry).to_data()})
    return {"channels": store.channels(name), "versions": versions}


def mend_catalog(store: Store, record: Record, notify: Callable[[str], None]) -> None:
    """Make the catalogue anew where a publish was killed before it could name `record`."""
    try:
        versions = json.loads(store.catalog.read_text())["images"][record.name]["versions"]
        known = any(version["version"] == record.version for version in versions)
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    # A reader without the right to write changes nothing, and needn't.
    if not known and os.access(store.root, os.W_OK):
        refresh_catalog(store, notify)
