"""Whether two images hold the same tree: paths, types, modes, link targets, sizes. Contents are not read.

Differences come with the reason for which they are inherent to how a contestant works, or with none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kiln.run import host_environment, run

LIMIT_SECONDS = 600.0
LINE = re.compile(r"([-dlcbps][-rwxsStT]{9}) \S+\s+(\d+(?:,\s*\d+)?) \d{4}-\d\d-\d\d \d\d:\d\d (.*)")
ARROW = " -> "
OTHER = "not inherent"
# The first whose pattern a path begins with says why it differs.
REASONS = (
    ("times and chance in logs and caches", r"var/log/|var/cache/|root/\.|tmp/|var/lib/systemd/"),
    ("package lists and apt's own state", r"var/lib/apt/|var/lib/dpkg/|etc/apt/apt\.conf\.d/(enroot|99)"),
    ("what a start of enroot leaves", r"etc/(passwd|group|shadow|gshadow|localtime|timezone)-?$|home(/|$)|"
     r"usr/share/zoneinfo(/Etc(/UTC)?)?$"),
    ("mount points and what a container gets at its start", r"$|(run|proc|sys|dev)(/|$)|etc/(hosts|hostname|"
     r"resolv\.conf|machine-id|mtab)$|\.(lock|dockerenv)$"),
    ("what makes an image start under enroot", r"etc/(rc|environment|fstab|enroot)"),
    ("Kiln's records in the image", r"\.kiln(/|$)"),
    ("compiled Python and pip's notes of it", r".*(\.pyc|/__pycache__|/RECORD|/direct_url\.json)$"),
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One path: `mode` as `ls -l` prints it, `size` in bytes (0 for what is no regular file)."""

    mode: str
    size: int
    link: str

    def __str__(self) -> str:
        return f"{self.mode} {self.size:,}{ARROW + self.link if self.link else ''}"


@dataclass(frozen=True)
class Difference:
    """A path that isn't the same in two trees; None where it is missing."""

    path: str
    first: Entry | None
    second: Entry | None

    @property
    def reason(self) -> str:
        found = (reason for reason, pattern in REASONS if re.match(pattern, self.path))
        return next(found, OTHER)

    def __str__(self) -> str:
        return f"/{self.path}: {self.first or 'absent'} | {self.second or 'absent'}"


def listing(image: Path, environ: Mapping[str, str]) -> dict[str, Entry]:
    """The tree in a .sqsh file, by path without a slash in front."""
    argv = ["unsquashfs", "-lln", "-no-progress", str(image)]
    env = host_environment(environ)
    done = run(argv, what=f"list {image.name}", env=env, timeout=LIMIT_SECONDS, separate=True)
    return parse(done.output.splitlines())


def parse(lines: Iterable[str]) -> dict[str, Entry]:
    """Entries from lines of `unsquashfs -lln`; others are passed over."""
    return dict(_entries(lines))


def _entries(lines: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    for line in lines:
        if not (match := LINE.fullmatch(line)):
            continue
        mode, size, name = match.groups()
        link = ""
        if mode[0] == "l":
            name, _, link = name.partition(ARROW)
        path = name.removeprefix("squashfs-root").removeprefix("/")
        yield path, Entry(mode, int(size) if mode[0] == "-" else 0, link)


def differences(first: Mapping[str, Entry], second: Mapping[str, Entry]) -> list[Difference]:
    return [
        Difference(path, first.get(path), second.get(path))
        for path in sorted(first.keys() | second.keys())
        if first.get(path) != second.get(path)
    ]


def by_reason(found: Iterable[Difference]) -> dict[str, list[Difference]]:
    """Differences by reason, those without one last."""
    sorted_out: dict[str, list[Difference]] = {}
    for difference in found:
        sorted_out.setdefault(difference.reason, []).append(difference)
    rest = sorted_out.pop(OTHER, [])
    return {**sorted_out, **({OTHER: rest} if rest else {})}
