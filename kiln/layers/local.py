"""The local tier: entries as trees on a disk of this node, since overlay needs trees.

    <trees>/<uid>/format             the layout's version
    <trees>/<uid>/bases/<key>/       entries, put there by one rename; see `kiln.layers.entry`
    <trees>/<uid>/layers/<key>/
    <trees>/<uid>/locks/<key>        held by the build that makes the entry
    <trees>/<uid>/images/<name>      the inputs of an image's layers, as it was last built
    <trees>/<uid>/trash/<id>/        on its way out

A folder for each user: an overlay can't change what belongs to somebody else, so nobody can build on
another's trees. Owns this layout, the leases, and the order of writing. Must lie on the file system of the
work folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln import files
from kiln.errors import StoreError
from kiln.layers import entry as entries
from kiln.layers.entry import ABOUT, LEASE, LOG, TREE, Entry

FORMAT = 1
KINDS = ("base", "layer")
CHOOSE_ANOTHER = "set KILN_CACHE, or 'scratch' in the site profile, to another folder"


class Gone(StoreError):
    """An entry that was there a moment ago is missing, or is not as it was made."""


@dataclass(frozen=True)
class Local:
    """The local tier of one user; `root` is `<trees>/<uid>`, made at the first use."""

    root: Path

    def folder(self, kind: str, key: str) -> Path:
        return self.root / f"{kind}s" / key

    def tree(self, entry: Entry) -> Path:
        return self.folder(entry.kind, entry.key) / TREE

    def check(self) -> None:
        """Raise `StoreError` for a layout that this Kiln doesn't know, and for a folder of somebody else's.

        Where everybody may write to the scratch disk, anybody may have made it.
        """
        try:
            owner = self.root.lstat().st_uid
            if owner != os.getuid():
                raise StoreError(f"the layer store {self.root} belongs to uid {owner}", CHOOSE_ANOTHER)
            found = int((self.root / "format").read_text())
        except FileNotFoundError:
            return
        except ValueError:
            found = 0
        except OSError as error:
            said = f"the layer store {self.root} can't be read: {error.strerror}"
            raise StoreError(said, CHOOSE_ANOTHER) from error
        if found != FORMAT:
            raise StoreError(
                f"the layer store {self.root} has format {found or 'of no number'}; this Kiln knows {FORMAT}",
                f"update this Kiln, or {CHOOSE_ANOTHER}",
            )

    def prepare(self) -> None:
        """Make what is missing of the layout. Raises `StoreError`, `SpaceError`."""
        self.check()
        with files.translated(self.root):
            for name in (*(f"{kind}s" for kind in KINDS), "locks", "images", "trash"):
                (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.root / "format").exists():
            files.write_atomic(self.root / "format", f"{FORMAT}\n".encode())

    def look(self, kind: str, key: str) -> Entry | None:
        """The entry of a key, as it says of itself; None where there is none that can be read."""
        folder = self.folder(kind, key)
        try:
            found = entries.parse((folder / ABOUT).read_bytes())
        except (OSError, StoreError):
            return None
        return found if (found.kind, found.key) == (kind, key) else None

    def has(self, entry: Entry) -> bool:
        """Whether what lies at the key is this making of it."""
        here = self.look(entry.kind, entry.key)
        return here is not None and here.id == entry.id

    @contextlib.contextmanager
    def leased(self, entry: Entry, *, new: bool = False) -> Iterator[Path]:
        """Have the tree of an entry stay while the block runs. Raises `Gone` for one that is damaged.

        One that this process has just put there, as `new`, isn't looked through again.
        """
        folder = self.folder(entry.kind, entry.key)
        try:
            descriptor = os.open(folder / LEASE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise Gone(f"{folder} is gone") from error
        try:
            _lease(descriptor, folder)
            self._verify(entry, folder, new)
            os.utime(descriptor)
            yield folder / TREE
        finally:
            os.close(descriptor)

    def _verify(self, entry: Entry, folder: Path, new: bool) -> None:
        if not self.has(entry):
            raise Gone(f"{folder} was made anew meanwhile")
        if new:
            return
        try:
            found, _ = entries.fingerprint(folder / TREE)
        except OSError as error:
            raise Gone(f"{folder} can't be read: {error.strerror}") from error
        if found != entry.fingerprint:
            raise Gone(f"files in {folder} are missing, or are not as they were made")

    def making(
        self, kind: str, key: str, notify: Callable[[str], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Be the one process that makes the entry of a key; who waits for another says so.

        Without a limit: a layer has a time limit of its own, and the lock goes with its process.
        """
        return files.locked(self.root / "locks" / f"{kind}-{key}", wait=math.inf, on_wait=notify)

    def put(self, entry: Entry, tree: Path, log: Path | None) -> Entry:
        """Move `tree` into the store, whole or not at all, in place of an older making of the key."""
        folder = self.folder(entry.kind, entry.key)
        digest, size = entries.fingerprint(tree)
        done = dataclasses.replace(entry, fingerprint=digest, size=size)
        new = tree.parent / f"new-{entry.id}"
        with files.translated(new):
            new.mkdir()
            (new / LEASE).touch()
            if log is not None and log.exists():
                (new / LOG).write_bytes(log.read_bytes())
            files.write_atomic(new / ABOUT, done.to_json())
            tree.rename(new / TREE)
            self._displace(folder)
            new.rename(folder)
            files.sync_folder(folder.parent)
        self.sweep()
        return done

    def _displace(self, folder: Path) -> None:
        """Who has it mounted keeps it: its lease is looked at again before it is removed."""
        with files.translated(folder), contextlib.suppress(FileNotFoundError):
            folder.rename(self.root / "trash" / uuid.uuid4().hex)

    def drop(self, entry: Entry) -> None:
        """Take a damaged entry out of the way."""
        self._displace(self.folder(entry.kind, entry.key))
        self.sweep()

    def free(self, entry: Entry) -> bool:
        """Whether no build has it mounted just now."""
        with _unleased(self.folder(entry.kind, entry.key)) as free:
            return free

    def remove(self, entry: Entry, held: frozenset[str]) -> bool:
        """Remove an entry that no build has mounted, and that is not among the ids in `held`."""
        folder = self.folder(entry.kind, entry.key)
        if entry.id in held:
            return False
        with _unleased(folder) as free:
            if not free or not self.has(entry):
                return False
            self._displace(folder)
        self.sweep()
        return True

    def sweep(self) -> None:
        """Empty the trash of all that nobody has mounted any more."""
        for folder in self._folders(self.root / "trash"):
            with _unleased(folder) as free:
                if free:
                    files.remove_tree(folder)

    def last_used(self, entry: Entry) -> float:
        """Unix seconds."""
        try:
            return (self.folder(entry.kind, entry.key) / LEASE).stat().st_mtime
        except OSError:
            return entry.made

    def entries(self) -> list[Entry]:
        keys = [(kind, path.name) for kind in KINDS for path in self._folders(self.root / f"{kind}s")]
        return [found for kind, key in keys if (found := self.look(kind, key))]

    def broken(self) -> list[Path]:
        """Folders that are no entries: what a full disk or a person left."""
        paths = [(kind, path) for kind in KINDS for path in self._folders(self.root / f"{kind}s")]
        return [path for kind, path in paths if self.look(kind, path.name) is None]

    @staticmethod
    def _folders(parent: Path) -> list[Path]:
        try:
            return sorted(path for path in parent.iterdir() if path.is_dir())
        except OSError:
            return []

    def remember(self, image: str, inputs: Sequence[Mapping[str, Any]]) -> None:
        """Keep what an image's base and layers were made from, to tell the next time what changed."""
        files.write_atomic(self.root / "images" / image, json.dumps(list(inputs)).encode())

    def remembered(self, image: str) -> list[dict[str, Any]]:
        try:
            return [dict(each) for each in json.loads((self.root / "images" / image).read_text())]
        except (OSError, ValueError, TypeError):
            return []


def new_id() -> str:
    return uuid.uuid4().hex


def _lease(descriptor: int, folder: Path) -> None:
    """flock(2), not fcntl: it belongs to the open file, so a process may look at its own leases."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(folder / LEASE)):
            return
    except OSError:
        pass
    raise Gone(f"{folder} is being removed")


@contextlib.contextmanager
def _unleased(folder: Path) -> Iterator[bool]:
    """Whether nobody has the entry mounted; nobody can begin to while the block runs."""
    try:
        descriptor = os.open(folder / LEASE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
