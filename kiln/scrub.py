"""What a build and its tools leave in a tree that is no part of the image: taken out before export.

Owns the list of it, each with its reason, and nothing that a manifest can wish for. The same list makes two
builds of the same inputs give the same bytes. Works on the tree from outside, which is a foreign one: every
path is resolved in it. What is left after that, and shouldn't be, is for `kiln.audit` to tell.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from kiln import bytecode, files
from kiln.baseline import Baseline
from kiln.errors import StoreError

DAY = 86_400  # seconds
PLAIN_MODE = 0o644


@dataclass(frozen=True)
class Category:
    """Paths that go, and why. A part of a pattern matches one name, hidden ones too."""

    reason: str
    patterns: tuple[str, ...]
    spares_base: bool = False


HOMES = ("root", "home/*")
CONDAS = ("opt/*conda*", "opt/*mamba*", "root/*conda*", "root/*mamba*", "usr/local/*conda*")
CATEGORIES = (
    Category(
        "a package manager's lists and downloads, which it fetches again",
        (
            "var/lib/apt/lists/*", "var/cache/apt/archives/*.deb", "var/cache/apt/archives/partial/*",
            "var/cache/apt/*.bin",
            "var/cache/dnf/*", "var/cache/yum/*", "var/cache/zypp/*", "var/cache/apk/*",
            *(f"{home}/.cache/{name}" for home in HOMES for name in ("pip", "uv", "conda", "yarn")),
            *(f"{home}/.npm/_cacache" for home in HOMES),
            *(f"{conda}/pkgs/{name}" for conda in CONDAS for name in ("*.conda", "*.tar.bz2", "cache")),
            *(f"{home}/.conda/pkgs" for home in HOMES),
        ),
    ),
    Category(
        "a package manager's log, with the times and command lines of this build",
        (
            "var/log/apt/*", "var/log/dpkg.log*", "var/log/alternatives.log*", "var/log/bootstrap.log",
            "var/log/fontconfig.log", "var/log/dnf*.log*", "var/log/yum.log*",
        ),
    ),
    Category(
        "what was typed, and where to",
        tuple(
            f"{home}/{name}"
            for home in HOMES
            for name in (
                ".*_history", ".history", ".lesshst", ".viminfo", ".wget-hsts", ".local/state/lesshst",
                ".ipython/profile_default/history.sqlite",
            )
        ),
    ),
    Category(
        "random bytes or an identity that no two machines may share",
        (
            "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret",
            "var/lib/urandom/random-seed", *(f"{home}/.gnupg/random_seed" for home in HOMES),
            *(f"{home}/.rnd" for home in HOMES),
        ),
    ),
    Category(
        "a machine's own keys, made when the package was installed: sshd's user makes them by ssh-keygen -A",
        ("etc/ssh/ssh_host_*_key", "etc/ssh/ssh_host_*_key.pub"),
        spares_base=True,
    ),
    Category(
        "a copy of what was there before a change",
        (
            "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
            "var/lib/dpkg/*-old", "var/cache/debconf/*-old", "etc/apt/trusted.gpg~",
            *(f"{home}/.gnupg/*~" for home in HOMES),
        ),
    ),
    Category(
        "a tool's own notes on files and times, made again when it is missing",
        (
            "var/cache/ldconfig/aux-cache", "var/cache/man/*", *(f"{home}/.gnupg/S.*" for home in HOMES),
        ),
    ),
    Category("temporary: a container gets its own", ("tmp/*", "var/tmp/*")),
)  # fmt: skip
# Folders that only held what has gone.
EMPTIED = tuple(f"{home}/{name}" for home in HOMES for name in (".cache", ".npm", ".conda", ".local/state"))


def scrub(tree: Path, epoch: int, base: Baseline) -> list[str]:
    """Take out of `tree` what doesn't belong into an image; a line for each thing, with its reason.

    `epoch` (Unix seconds) is the latest time that the exported file will have.
    """
    done = [line for category in CATEGORIES for line in _remove(tree, category, base)]
    done += _empty_machine_id(tree)
    _remove_emptied(tree, base)
    for name in ("etc/passwd", "etc/group"):
        _open_to_all(tree, name)
    _clamp_days(tree, epoch // DAY)
    _sort_states(tree)
    done += [f"/{path}: compiled from a source that has changed" for path in bytecode.settle(tree, epoch)]
    return done


def _remove(tree: Path, category: Category, base: Baseline) -> Iterator[str]:
    for pattern in category.patterns:
        for path in list(matching(tree, pattern)):
            name = f"/{path.relative_to(tree)}"
            if category.spares_base and base(name) is not None:
                continue
            with files.writable(path.parent):
                files.remove_tree(path)
            yield f"{name}: {category.reason}"


def matching(tree: Path, pattern: str) -> Iterator[Path]:
    """What matches a pattern in a foreign tree, sorted; links on the way are followed inside it."""
    *folders, last = pattern.split("/")
    places = [""]
    for part in folders:
        places = [f"{place}/{name}" for place in places for name in _names(tree, place, part)]
    for place in places:
        yield from (_folder(tree, place) / name for name in _names(tree, place, last))


def _folder(tree: Path, place: str) -> Path:
    return files.inside(tree, place, follow_last=True)


def _names(tree: Path, place: str, part: str) -> list[str]:
    try:
        folder = _folder(tree, place)
        if "*" not in part:
            return [part] if os.path.lexists(folder / part) else []
        return sorted(name for name in os.listdir(folder) if fnmatchcase(name, part))
    except (OSError, StoreError):  # none, not a folder, or links in a circle
        return []


def _empty_machine_id(tree: Path) -> list[str]:
    """systemd makes a new one where it is empty: machine-id(5)."""
    path, text = _text(tree, "etc/machine-id")
    _rewrite(path, text, b"")
    return [] if not text else ["/etc/machine-id: emptied, for it names one machine"]


def _remove_emptied(tree: Path, base: Baseline) -> None:
    for pattern in EMPTIED:
        for path in list(matching(tree, pattern)):
            if base(f"/{path.relative_to(tree)}") is None and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()


def _open_to_all(tree: Path, name: str) -> None:
    """enroot leaves these readable by their owner alone, and then no user has a name."""
    for path in matching(tree, name):
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != PLAIN_MODE:
            path.chmod(PLAIN_MODE)


def _clamp_days(tree: Path, day: int) -> None:
    """Have no password changed later than the image's own time: shadow(5), the third field, in days."""
    path, text = _text(tree, "etc/shadow")
    lines = [line.split(b":") for line in text.split(b"\n")]
    for fields in lines:
        if len(fields) > 2 and fields[2].isdigit() and int(fields[2]) > day:
            fields[2] = str(day).encode()
    _rewrite(path, text, b"\n".join(b":".join(fields) for fields in lines))


def _sort_states(tree: Path) -> None:
    """apt writes which packages came by themselves in the order of a hash table that its lists decide."""
    path, text = _text(tree, "var/lib/apt/extended_states")
    paragraphs = sorted(part.strip(b"\n") for part in text.split(b"\n\n") if part.strip())
    _rewrite(path, text, b"".join(part + b"\n\n" for part in paragraphs))


def _text(tree: Path, name: str) -> tuple[Path, bytes]:
    """A file in the tree and its contents; b"" where there is none, or a link in its place."""
    for path in matching(tree, name):
        # Some distributions have theirs closed to everybody.
        with contextlib.suppress(PermissionError):
            if path.is_file() and not path.is_symlink():
                return path, path.read_bytes()
    return tree, b""


def _rewrite(path: Path, before: bytes, after: bytes) -> None:
    if after != before:
        files.write_atomic(path, after, stat.S_IMODE(path.stat().st_mode))
