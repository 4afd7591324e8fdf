"""Other machines than this one, by namespaces: without tools, rights or space. For root and anybody else.

Each is a command line's beginning, with which a program is started.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
# The owner of the files, with no right but an ordinary user's.
AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
NO_NAMESPACES = (*_ROOT, 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh")
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


_OVERLAY = """\
mount -t tmpfs none "$1" && mkdir "$1/upper" "$1/work" "$1/lower" || exit 99
mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work,userxattr" none "$1" || exit 99
shift; exec "$@"
"""


def on_overlay(place: Path) -> list[str]:
    """An empty overlay at `place`, as in a container: none can be mounted with its changes there."""
    place.mkdir(parents=True, exist_ok=True)
    return [*_ROOT, _OVERLAY, "sh", str(place)]
