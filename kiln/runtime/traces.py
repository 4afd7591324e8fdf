"""What a start of enroot leaves in a container's tree, and in the list of processes.

enroot's hooks follow the tree's links as the host sees them, so a link to outside would have them
write there: `guard` refuses such a tree. Beside what the command did, a start leaves empty mount
points, its lock, a file for apt, the host's time zone, and the caller's home: `taken_away` removes
what was not there before. Owns those lists. What enroot does to `/etc/passwd` and its like is put
right by `scripts/layer.sh`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from kiln import files
from kiln.errors import RuntimeFailure

LOCK = ".lock"
APT_FILE = "etc/apt/apt.conf.d/enroot"
ROOT_HOME = "/root"
END_SECONDS = 1.0
APT_TEXT = b'APT::Sandbox::User "root";\n'
MOUNTED = (
    "dev", "proc", "sys", "tmp", "var/run", "var/lock",
    "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/machine-id",
)  # fmt: skip
# What the hooks read or write without asking where a link leads.
FOLLOWED = (
    LOCK, "etc", "etc/passwd", "etc/group", "etc/environment", "etc/fstab", "etc/debian_version",
    "etc/login.defs", "etc/default", "etc/default/useradd", "etc/skel", APT_FILE, "usr", "usr/share", "var",
)  # fmt: skip


def guard(tree: Path) -> None:
    """Raise `RuntimeFailure` for a tree that would have enroot touch files outside of it."""
    for name in (*FOLLOWED, *(path.strip("/") for path in _host_paths())):
        if (name == LOCK and (tree / name).is_symlink()) or files.leads_out(tree, name):
            raise RuntimeFailure(
                f"/{name} in the container {tree.name} leads out of it by a link, which enroot would follow",
                "mend the image, or build with: --runtime embedded",
            )


@contextlib.contextmanager
def mount_points(tree: Path, targets: Sequence[str]) -> Iterator[None]:
    """Remove after the block what was made in the tree to be mounted on, where it wasn't there before."""
    missing = [_missing(tree, path) for path in targets]
    try:
        yield
    finally:
        for made in missing:
            for path in reversed(made):
                _remove_empty(path)


@contextlib.contextmanager
def taken_away(tree: Path, targets: Sequence[str]) -> Iterator[None]:
    """Remove after the block what a start with mounts at `targets` made in the tree for itself."""
    zone = tree / _zone().strip("/")
    skeleton, zoneless = _skeleton(tree), not os.path.lexists(zone)
    homeless = [home for home in (tree / path.strip("/") for path in _homes()) if not os.path.lexists(home)]
    with mount_points(tree, (LOCK, APT_FILE, *MOUNTED, *_host_paths(), *targets)):
        try:
            yield
        finally:
            for home in homeless:
                _remove_skeleton(home, skeleton)
            if zoneless:
                _remove_zone(zone)
            _remove_file(tree / APT_FILE, APT_TEXT)


def processes(tree: Path) -> list[int]:
    """The processes of the caller's whose root is `tree`."""
    try:
        wanted = tree.stat()
    except OSError:
        return []
    found = []
    for entry in os.listdir("/proc"):
        # Others' processes can't be looked into, and some end meanwhile.
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.path.samestat(os.stat(f"/proc/{entry}/root/"), wanted):
                found.append(int(entry))
    return found


def end_processes(tree: Path) -> None:
    """Kill what a command left running in `tree`: without a PID namespace nobody else does."""
    for _ in range(100):
        left = processes(tree)
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                _kill(pid)


def _kill(pid: int) -> None:
    """Kill a process, and wait a bounded time until the kernel says that it has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], END_SECONDS)
    finally:
        os.close(descriptor)


def pwd_home() -> str:
    """The caller's home as the host's user database has it; enroot makes that in the container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def _homes() -> list[str]:
    """The homes that enroot may make: the caller's, and root's, as whom it runs in a namespace of Kiln's."""
    return [path for path in dict.fromkeys((pwd_home(), ROOT_HOME)) if path not in ("", "/")]


def _host_paths() -> list[str]:
    """Places that depend on the host: its time zone's file, the caller's home."""
    return [*_homes(), *([zone] if (zone := _zone()) else [])]


def _zone() -> str:
    zone = Path("/etc/localtime")
    return os.path.realpath(zone) if zone.is_symlink() else ""


def _missing(tree: Path, path: str) -> list[Path]:
    """What would have to be made for `path` to exist, outermost first."""
    inside = files.resolve_inside(tree, path)
    here = tree.joinpath(*inside.parts[1:])
    steps = [here, *here.parents]
    return [step for step in reversed(steps[: steps.index(tree)]) if not os.path.lexists(step)]


def _skeleton(tree: Path) -> dict[str, bytes | None]:
    """What a new home is filled with: relative path to contents."""
    inside = files.resolve_inside(tree, "/etc/skel")
    root = tree.joinpath(*inside.parts[1:])
    return {
        str(path.relative_to(root)): files.read_inside(root, str(path.relative_to(root)))
        for path in root.rglob("*")
    }


def _remove_skeleton(home: Path, skeleton: dict[str, bytes | None]) -> None:
    """Remove a home in which nothing but a copy of the skeleton lies."""
    if home.is_symlink() or not home.is_dir():
        return
    for entry in home.rglob("*"):
        name = str(entry.relative_to(home))
        if name not in skeleton or files.read_inside(home, name) != skeleton[name]:
            return
    files.remove_tree(home)


def _remove_zone(path: Path) -> None:
    """Remove the host's time zone, unless a package brought it, which would have brought others too."""
    with contextlib.suppress(OSError):
        if [entry.name for entry in path.parent.iterdir()] == [path.name]:
            path.unlink()


def _remove_file(path: Path, text: bytes) -> None:
    with contextlib.suppress(OSError):
        if not path.is_symlink() and path.read_bytes() == text:
            path.unlink()


def _remove_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif path.stat(follow_symlinks=False).st_size == 0:
            path.unlink()
