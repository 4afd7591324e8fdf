"""One layer's entries put onto the tree of those below it.

Owns what an entry does to the tree, as Docker's overlay2, containerd's overlayfs and enroot agree:

- a whiteout hides what lower layers brought, never what its own layer brings;
- a folder on a folder keeps what is in it; anything else replaces what was there;
- a link of a lower layer where this one has a folder is replaced; a link that this layer brought is
  followed, inside the tree;
- what lies below /dev is left out, and modes let the owner read (both as enroot does).

Every path handed to the system is resolved first: none of its folders is a link, so nothing leads
out of the tree, with a chroot or without. Times of folders are set by `finish`, because every entry
changes its folder's. Must not run while the tree changes otherwise.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable
from pathlib import Path

from kiln import files
from kiln.registry import tarstream
from kiln.registry.inflate import Budget, Damaged
from kiln.registry.tarstream import Entry, TarStream

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
# aufs kept its own notes under such names; they were never files of the image.
AUFS = b".wh..wh."
MAX_LINKS = 40
# 1970 to 2242: what lies outside is set to 1970, as Docker does.
LATEST_NS = (1 << 33) * 1_000_000_000
CAPABILITY = b"security.capability"
NO_XATTRS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.ENOSPC, errno.E2BIG)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ODD = frozenset((b"", b".", b".."))
_SKIPPED = b"\0"
_KEEP = -1


class _Brought:
    """Paths that a layer brought: eight bytes for each, and more in layers that hide or replace something."""

    def __init__(self) -> None:
        self._new = array("q")
        self._known: set[int] = set()

    def add(self, path: bytes) -> None:
        self._new.append(hash(path))

    def __contains__(self, path: bytes) -> bool:
        self._known.update(self._new)
        del self._new[:]
        return hash(path) in self._known


class Tree:
    """The tree at `root` (b"" for the process's own root), while one layer is put onto it."""

    def __init__(
        self, root: bytes, *, has_lower: bool, budget: Budget, notify: Callable[[str], None]
    ) -> None:
        self._root, self._has_lower, self._budget, self._notify = root, has_lower, budget, notify
        # From a folder as an archive names it to where it is.
        self._folders: dict[bytes, bytes] = {b"": root}
        # What this layer brought, and the folders that hold it.
        self._upper = _Brought()
        # Modes and times to set at the end; _KEEP for the mode of a folder that has no entry.
        self._ends: dict[bytes, tuple[int, int]] = {}
        self._touch(root, os.stat(root or b"/"))
        self._told: set[tuple[bytes, int]] = set()
        self._makers: dict[bytes, Callable[[Entry, bytes, TarStream], None]] = {
            tarstream.REGULAR: self._file,
            tarstream.FOLDER: self._folder,
            tarstream.SYMBOLIC: self._symbolic,
            tarstream.HARD: self._hard,
            tarstream.FIFO: self._fifo,
        }

    def add(self, entry: Entry, data: TarStream) -> None:
        """Put one entry into place. Raises `Damaged` for what no image may hold, and OSError."""
        named, slash, base = entry.name.rstrip(b"/").rpartition(b"/")
        real = self._folders.get(named)
        if real is None or base in _ODD or (slash and not named):
            odd = base in _ODD
            folder, base = split_name(entry.name)
            real = self._locate(folder, _time(entry))
            if not odd:
                self._folders[named] = real
        if real is _SKIPPED:
            return
        if base.startswith(WHITEOUT):
            self._whiteout(base, real)
            return
        if not base and entry.kind != tarstream.FOLDER:
            raise Damaged("an entry without a name")
        path = real + b"/" + base if base else self._root
        maker = self._makers.get(entry.kind)
        if maker is None:
            raise Damaged("a device node, which an unprivileged container cannot have")
        maker(entry, path, data)
        if self._has_lower:
            self._upper.add(path)

    def finish(self) -> None:
        """Set the folders' modes and times, now that nothing more comes into them."""
        for path, (mode, mtime) in self._ends.items():
            place = path or b"/"
            if mode != _KEEP:
                os.chmod(place, mode)
            os.utime(place, ns=(mtime, mtime))

    def _file(self, entry: Entry, path: bytes, data: TarStream) -> None:
        mode = entry.mode | (0o500 if entry.mode & 0o111 else 0o400)
        try:
            descriptor = os.open(path, _NEW_FILE, mode & 0o777)
        except FileExistsError:
            self._remove(path)
            descriptor = os.open(path, _NEW_FILE, mode & 0o777)
        try:
            if entry.extents is None:
                for piece in data.pieces():
                    _write(descriptor, piece)
            else:
                self._sparse(descriptor, entry, data)
            if mode > 0o777:
                # Only now: writing takes setuid and setgid away.
                os.fchmod(descriptor, mode)
            if entry.xattrs:
                self._xattrs(descriptor, entry)
            mtime = _time(entry)
            os.utime(descriptor, ns=(mtime, mtime))
        finally:
            os.close(descriptor)

    def _sparse(self, descriptor: int, entry: Entry, data: TarStream) -> None:
        # Holes cost nothing here, but whoever reads the tree reads them.
        self._budget.spend(entry.real_size - entry.size)
        pieces = data.pieces()
        piece = memoryview(b"")
        for offset, length in entry.extents or ():
            os.lseek(descriptor, offset, os.SEEK_SET)
            left = length
            while left:
                piece = piece or next(pieces)
                _write(descriptor, piece[:left])
                left, piece = left - len(piece[:left]), piece[left:]
        os.ftruncate(descriptor, entry.real_size)

    def _folder(self, entry: Entry, path: bytes, data: TarStream) -> None:
        # Open to the owner for the time being, whatever its mode: more comes into it.
        try:
            if path != self._root:
                os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                self._remove(path)
                os.mkdir(path, 0o700)
        self._ends[path] = (entry.mode | 0o700, _time(entry))
        if entry.xattrs:
            self._xattrs(path or b"/", entry)

    def _symbolic(self, entry: Entry, path: bytes, data: TarStream) -> None:
        self._make(path, lambda: os.symlink(entry.link, path))
        mtime = _time(entry)
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)

    def _fifo(self, entry: Entry, path: bytes, data: TarStream) -> None:
        self._make(path, lambda: os.mkfifo(path, entry.mode & 0o777 | 0o400))
        mtime = _time(entry)
        os.utime(path, ns=(mtime, mtime))

    def _hard(self, entry: Entry, path: bytes, data: TarStream) -> None:
        target = self._target(entry.link)
        if target != path:
            self._make(path, lambda: os.link(target, path, follow_symlinks=False))

    def _target(self, link: bytes) -> bytes:
        """Where the file that a hard link names is."""
        try:
            folder, base = split_name(link.lstrip(b"/"))
        except Damaged as error:
            raise Damaged(f"a hard link to {shown(link)}: {error}") from None
        try:
            target = self._resolve(folder, None) + b"/" + base
            if not base or stat.S_ISDIR(os.lstat(target).st_mode):
                raise Damaged(f"a hard link to the folder {shown(link)}")
        except (FileNotFoundError, NotADirectoryError):
            raise Damaged(f"a hard link to {shown(link)}, which is not there") from None
        return target

    def _make(self, path: bytes, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            self._remove(path)
            make()

    def _xattrs(self, target: int | bytes, entry: Entry) -> None:
        """File capabilities and `user.*`; all others mean nothing, or another thing, in a container."""
        for name, value in entry.xattrs.items():
            # user.overlay.* would rule how the tree looks once it is a layer of an overlay.
            users = name.startswith(b"user.") and not name.startswith(b"user.overlay.")
            if not users and name != CAPABILITY:
                continue
            try:
                os.setxattr(target, name, value if users else plain_capability(value))
            except OSError as error:
                if error.errno not in NO_XATTRS:
                    raise
                if (name, error.errno) in self._told:
                    continue
                self._told.add((name, error.errno))
                self._notify(f"{shown(entry.name)}: {os.fsdecode(name)} is not kept here ({error.strerror})")

    def _whiteout(self, base: bytes, folder: bytes) -> None:
        if not self._has_lower:
            return
        if base == OPAQUE:
            self._hide_within(folder)
        elif not base.startswith(AUFS):
            name = base[len(WHITEOUT) :]
            if name in _ODD:
                raise Damaged("a whiteout of no name")
            self._hide(folder + b"/" + name)

    def _hide(self, path: bytes) -> None:
        """Remove what lower layers brought at `path` and below."""
        try:
            is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
        except FileNotFoundError:
            return
        if self._is_lower(path):
            self._remove(path)
        elif is_folder:
            self._hide_within(path)

    def _hide_within(self, folder: bytes) -> None:
        for name in os.listdir(folder or b"/"):
            self._hide(folder + b"/" + name)

    def _remove(self, path: bytes) -> None:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            files.remove_tree(Path(os.fsdecode(path)))
            below = path + b"/"
            for known in [known for known in self._ends if known == path or known.startswith(below)]:
                del self._ends[known]
        else:
            os.unlink(path)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            # Names may have led here.
            self._folders = {b"": self._root}

    def _is_lower(self, path: bytes) -> bool:
        return self._has_lower and path not in self._upper

    def _locate(self, folder: bytes, mtime: int) -> bytes:
        """Where the folder that an entry names is; made if missing."""
        if folder == b"dev" or folder.startswith(b"dev/"):
            return _SKIPPED
        if folder.startswith(AUFS) or b"/" + AUFS in folder:
            return _SKIPPED
        return self._resolve(folder, mtime)

    def _resolve(self, folder: bytes, mtime: int | None) -> bytes:
        """Follow `folder` inside the tree. With an `mtime`, what is missing is made; else that raises."""
        path, rest = self._known(folder)
        links = 0
        while rest:
            part = rest.pop()
            if part == b"..":
                path = self._root if path == self._root else path.rpartition(b"/")[0]
            if part in _ODD:
                continue
            here = path + b"/" + part
            status = self._status(here, mtime)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise Damaged("a loop of symbolic links")
                target = os.readlink(here)
                path = self._root if target.startswith(b"/") else path
                rest.extend(reversed(target.split(b"/")))
                continue
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), here)
            path = here
            if mtime is not None:
                self._touch(here, status)
        return path

    def _touch(self, folder: bytes, status: os.stat_result) -> None:
        """Something comes into `folder`: it keeps its time, and belongs to this layer, too."""
        self._ends.setdefault(folder, (_KEEP, status.st_mtime_ns))
        self._upper.add(folder)

    def _known(self, folder: bytes) -> tuple[bytes, list[bytes]]:
        """The longest beginning of `folder` whose place is known, and the parts after it, last first."""
        rest: list[bytes] = []
        while folder not in self._folders or self._folders[folder] is _SKIPPED:
            folder, _, part = folder.rpartition(b"/")
            rest.append(part)
        return self._folders[folder], rest

    def _status(self, here: bytes, mtime: int | None) -> os.stat_result:
        """What is at `here`; where a folder must be, lower layers' other things give way to one."""
        try:
            status = os.lstat(here)
            if mtime is None or stat.S_ISDIR(status.st_mode) or not self._is_lower(here):
                return status
            self._remove(here)
        except FileNotFoundError:
            if mtime is None:
                raise
        os.mkdir(here, 0o755)
        self._ends[here] = (0o755, mtime)
        return os.lstat(here)


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """A member's name as folder and last part, both empty for the root. Raises `Damaged` for escapes."""
    if b"\0" in name:
        raise Damaged("a name with a NUL byte")
    if name.startswith(b"/") and name.strip(b"/"):
        raise Damaged("an absolute name")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Damaged("a name with ..")
    if not parts:
        return b"", b""
    return b"/".join(parts[:-1]), parts[-1]


def plain_capability(value: bytes) -> bytes:
    """A file capability without the user namespace that it was made for: the kernel adds ours."""
    revision = value[3:4]
    if revision == b"\x03" and len(value) == 24:
        return value[:3] + b"\x02" + value[4:20]
    return value


def shown(name: bytes) -> str:
    """A foreign name for a message: no control characters, not endless."""
    text = name.decode("utf-8", "backslashreplace")
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return f"'{printable[:200]}{'…' if len(printable) > 200 else ''}'"


def _time(entry: Entry) -> int:
    return entry.mtime_ns if 0 <= entry.mtime_ns < LATEST_NS else 0


def _write(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]
