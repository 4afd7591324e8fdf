"""Other machines than this one, by namespaces: without tools, rights or space. For root and anybody else.

Each is a command line's beginning, with which a program is started.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
# The owner of the files, with no right but an ordinary user's.
AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
NO_NAMESPACES = (*_ROOT, 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh")
# Not even a loopback that is up. Whoever starts it stays who they are: some folders have their number.
NO_NETWORK = ("unshare", "--user", "--map-current-user", "--net")
_READ_ONLY = """\
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 99
shift; exec "$@"
"""
# A file system of the size $1 at $2; what lies there in the end is listed in $3, for nobody sees it after.
_TMPFS = """\
mount -t tmpfs -o "$1" none "$2" || exit 99
place=$2 left=$3; shift 3
"$@"; code=$?
find "$place" > "$left"; exit $code
"""
# An overlay at $1, whose own changes are kept in memory: it can't hold the changes of another.
_OVERLAY = """\
place=$1; shift
memory=$(mktemp -d) && mount -t tmpfs none "$memory" && cd "$memory" && mkdir lower upper work &&
    mount -t overlay overlay -o "lowerdir=lower,upperdir=upper,workdir=work,userxattr" "$place" &&
    cd "$OLDPWD" || exit 99
exec "$@"
"""
_DRIVER = """\
mount --bind "$1" /proc/driver || exit 99
shift; exec "$@"
"""
_STAY = "echo ready && exec cat"


def without(*tools: str) -> list[str]:
    """In the places of these tools lies nothing that can be executed."""
    folders = ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin")
    places = [f"{folder}/{tool}" for tool in tools for folder in folders]
    hide = "; ".join(f'[ ! -e "{place}" ] || mount --bind /dev/null "{place}"' for place in places)
    return [*_ROOT, f'{hide}; exec "$@"', "sh"]


def read_only(place: Path) -> list[str]:
    return [*_ROOT, _READ_ONLY, "sh", str(place)]


def on_tmpfs(options: str, place: Path, left: Path) -> list[str]:
    place.mkdir(parents=True, exist_ok=True)
    return [*_ROOT, _TMPFS, "sh", options, str(place), str(left)]


def on_overlay(place: Path) -> list[str]:
    place.mkdir(parents=True, exist_ok=True)
    return [*_ROOT, _OVERLAY, "sh", str(place)]


def with_driver(folder: Path) -> list[str]:
    """On which `folder` is what the kernel says of drivers, as NVIDIA's does in /proc/driver."""
    return [*_ROOT, _DRIVER, "sh", str(folder)]


@dataclass(frozen=True)
class Machine:
    """A namespace that stays: several programs see the same mounts in it."""

    pid: int
    folder: Path

    @property
    def within(self) -> list[str]:
        """The beginning of a command line that runs there, in `folder`."""
        target = ("--target", str(self.pid), "--user", "--mount", "--preserve-credentials")
        return ["nsenter", *target, "--", "env", f"--chdir={self.folder}"]

    def view(self, path: Path) -> Path:
        """Where this process finds what lies there."""
        return Path(f"/proc/{self.pid}/root{path}")


@contextlib.contextmanager
def staying(begin: list[str], folder: Path) -> Iterator[Machine]:
    """A machine that one of the above begins, until the end of the block."""
    argv = [*begin, "sh", "-c", _STAY]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n", f"no such machine: {begin}"
        pid = process.pid
        yield Machine(_last(pid), folder)
        process.stdin.close()


def _last(pid: int) -> int:
    """The one process below `pid` that has no child: where the chain of command lines ends."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid
