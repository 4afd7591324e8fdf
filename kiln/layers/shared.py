"""The shared tier: each entry as one file on a file system that all nodes see, and that survives a job.

    <shared>/v1/format
    <shared>/v1/bases/<key>/{tree.sqsh, entry.json}     put there by one rename, never written again
    <shared>/v1/layers/<key>/{tree.sqsh, entry.json}
    <shared>/v1/images/<name>                           as in the local tier

Anybody may be able to write there, so an entry is taken only from its owner, if that is the caller or one
whom the site profile names, and only with the digest that it says of itself. Owns this layout and that trust.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln import files
from kiln.errors import StoreError
from kiln.layers import entry as entries
from kiln.layers.entry import ABOUT, PACKED, Entry
from kiln.runtime.contract import Progress
from kiln.runtime.sandbox import as_root

FORMAT = 1
KINDS = ("base", "layer")
# Read once by each node: packing time counts for more than size.
PACKING = (
    "-comp",
    "zstd",
    "-Xcompression-level",
    "1",
    "-no-progress",
    "-noappend",
    "-quiet",
    "-exit-on-error",
)
TOOL_SECONDS = 3600.0
LARGEST_ABOUT = 16 << 20
LONGEST_FORMAT = 20
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Shared:
    """The shared tier at `root`; entries of the owners `trusted` (uids) are taken, and the caller's own.

    `env` is the environment of squashfs-tools.
    """

    root: Path
    trusted: frozenset[int]
    env: Mapping[str, str]

    def folder(self, kind: str, key: str) -> Path:
        return self.root / f"{kind}s" / key

    @property
    def writable(self) -> bool:
        existing = next(path for path in (self.root, *self.root.parents) if os.path.exists(path))
        return os.access(existing, os.W_OK | os.X_OK)

    def look(self, kind: str, key: str) -> tuple[Entry | None, str]:
        """The entry of a key, or why the one that is there isn't taken; (None, '') where there is none."""
        try:
            with self._opened(kind, key) as (found, _):
                return found, ""
        except FileNotFoundError:
            return None, ""
        except (OSError, StoreError) as error:
            return None, f"one in the shared tier isn't taken: {error}"

    def fetch(self, entry: Entry, tree: Path, progress: Progress) -> None:
        """Unpack an entry to the new folder `tree`, with its digest checked.

        Raises `StoreError` for one that is damaged, or changed hands since it was looked at; `SpaceError`.
        """
        try:
            with self._opened(entry.kind, entry.key) as (found, descriptor):
                if found.id != entry.id:
                    raise StoreError("it was made anew meanwhile")
                _check_digest(descriptor, found, progress)
                # By its descriptor: what was checked is what is unpacked.
                source = f"/proc/self/fd/{descriptor}"
                argv = ["unsquashfs", "-no-progress", "-quiet", "-dest", str(tree), source]
                self._tool(argv, tree.parent, (descriptor,))
        except BaseException as error:
            files.remove_tree(tree)
            if isinstance(error, OSError | StoreError):
                raise StoreError(f"{self.folder(entry.kind, entry.key)}: {error}") from error
            raise

    def put(self, entry: Entry, tree: Path) -> None:
        """Pack an entry and put it there, unless somebody else has. Raises `StoreError`, `SpaceError`."""
        folder = self.folder(entry.kind, entry.key)
        self._prepare()
        new = self.root / f".new-{uuid.uuid4().hex}"
        with files.translated(folder):
            new.mkdir()
        try:
            argv = ["mksquashfs", str(tree), str(new / PACKED), *PACKING]
            self._tool(argv, new)
            with files.translated(folder):
                digest = f"sha256:{files.sha256_file(new / PACKED)}"
                packed = dataclasses.replace(entry, digest=digest, size=(new / PACKED).stat().st_size)
                files.write_atomic(new / ABOUT, packed.to_json(), 0o444)
                (new / PACKED).chmod(0o444)
                new.chmod(0o755)
                self._displace(entry.kind, entry.key)
                _place(new, folder)
        finally:
            files.remove_tree(new)

    def remove(self, entry: Entry) -> None:
        """Remove one of the caller's own entries."""
        self._displace(entry.kind, entry.key)

    def entries(self) -> list[tuple[Entry, float]]:
        """The caller's own entries, each with the time of its last use in Unix seconds."""
        found = []
        for kind in KINDS:
            parent = self.root / f"{kind}s"
            for name in sorted(os.listdir(parent)) if parent.is_dir() else []:
                with (
                    contextlib.suppress(OSError, StoreError),
                    self._opened(kind, name) as (entry, descriptor),
                ):
                    status = os.fstat(descriptor)
                    if status.st_uid == os.getuid():
                        found.append((entry, max(status.st_atime, status.st_mtime)))
        return found

    def remember(self, image: str, inputs: Sequence[Mapping[str, Any]]) -> None:
        self._prepare()
        files.write_atomic(self.root / "images" / image, json.dumps(list(inputs)).encode())

    def remembered(self, image: str) -> list[dict[str, Any]]:
        """What `remember` kept, by one who is trusted."""
        try:
            with self._file(self.root / "images" / image) as descriptor:
                text = os.pread(descriptor, LARGEST_ABOUT, 0)
            return [dict(each) for each in json.loads(text)]
        except (OSError, StoreError, ValueError, TypeError):
            return []

    def check(self) -> None:
        """Raise `StoreError` for a layout that this Kiln doesn't know."""
        try:
            descriptor = os.open(self.root / "format", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                found = os.pread(descriptor, LONGEST_FORMAT, 0).decode("utf-8", "replace").strip()
            finally:
                os.close(descriptor)
        except OSError:
            return
        if found != str(FORMAT):
            raise StoreError(
                f"the shared layer store {self.root} has format '{found}'; this Kiln knows {FORMAT}",
                "update this Kiln, or set 'shared' in the site profile to another folder",
            )

    def _prepare(self) -> None:
        self.check()
        with files.translated(self.root):
            for name in ("bases", "layers", "images"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        if not (self.root / "format").exists():
            files.write_atomic(self.root / "format", f"{FORMAT}\n".encode())

    def _displace(self, kind: str, key: str) -> None:
        """Take an entry of the caller's away; somebody else's stays."""
        folder, old = self.folder(kind, key), self.root / f".old-{uuid.uuid4().hex}"
        try:
            if folder.stat(follow_symlinks=False).st_uid != os.getuid():
                return
            folder.rename(old)
        except FileNotFoundError:
            return
        files.remove_tree(old)

    @contextlib.contextmanager
    def _opened(self, kind: str, key: str) -> Iterator[tuple[Entry, int]]:
        """An entry and its packed tree, opened; both of them and their folder belong to one who is trusted.

        Everything is opened relative to a folder that stays the same, so that nothing can be slipped in
        between looking and reading.
        """
        with contextlib.ExitStack() as opened:
            folder = opened.enter_context(self._file(self.folder(kind, key), os.O_DIRECTORY))
            about = opened.enter_context(self._file(Path(ABOUT), below=folder))
            found = entries.parse(os.pread(about, LARGEST_ABOUT, 0))
            if (found.kind, found.key) != (kind, key):
                raise StoreError("it is another entry, moved there")
            yield found, opened.enter_context(self._file(Path(PACKED), below=folder))

    @contextlib.contextmanager
    def _file(self, path: Path, flags: int = 0, below: int | None = None) -> Iterator[int]:
        """A file or folder opened to be read, of one who is trusted; a pipe in its place isn't waited for."""
        flags |= os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, dir_fd=below)
        try:
            self._check_owner(descriptor, path.name)
            yield descriptor
        finally:
            os.close(descriptor)

    def _check_owner(self, descriptor: int, name: str) -> None:
        status = os.fstat(descriptor)
        if status.st_uid not in {os.getuid(), *self.trusted}:
            raise StoreError(
                f"{name} belongs to uid {status.st_uid}, who is not named in the site's 'trusted'"
            )
        if status.st_mode & WRITABLE_BY_OTHERS:
            raise StoreError(f"{name} can be written by others than its owner")

    def _tool(self, argv: Sequence[str], writable: Path, pass_fds: Sequence[int] = ()) -> None:
        """squashfs-tools as root of a namespace, without a pretence: whiteouts are devices, really made."""
        what = f"{argv[0]} an entry of the layer store"
        result = as_root(
            argv,
            what=what,
            writable=[writable],
            env=self.env,
            timeout=TOOL_SECONDS,
            fake_root=False,
            pass_fds=pass_fds,
        )
        if result.returncode != 0:
            raise StoreError(f"{what}: {result.outcome()}", "run: invoke doctor", result.tail(10))


def _place(new: Path, folder: Path) -> None:
    try:
        new.rename(folder)
    except OSError as error:
        # Somebody else's came first: as good as ours.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _check_digest(descriptor: int, entry: Entry, progress: Progress) -> None:
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        found = files.sha256_stream(stream, lambda done: progress(done, entry.size))
    os.lseek(descriptor, 0, os.SEEK_SET)
    if f"sha256:{found}" != entry.digest:
        raise StoreError(f"its bytes have the digest sha256:{found}, and it says {entry.digest}")
