"""What is in a squashfs file, listed and read without root and without unpacking it.

Owns unsquashfs's long listing (`-lln`, squashfs-tools 4.4 and later) as data, links followed in it as a
process would in the image, and the reading of a few small files. Judges nothing.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from kiln import files
from kiln.errors import ExportError
from kiln.run import run

LIST_SECONDS, READ_SECONDS = 600.0, 600.0
LARGEST_READ = 1 << 20
MAX_LINKS = 40
TOP = "squashfs-root"
FOLDER, FILE, LINK = "d", "-", "l"
_LINE = re.compile(
    rf"([-dlbcps])([-rwxsStT]{{9}}) (\d+)/(\d+) +(\d+)(?:, *\d+)? \d+-\d\d-\d\d \d\d:\d\d {TOP}(/.*)?"
)
_SPECIAL = ((2, "sS", 0o4000), (5, "sS", 0o2000), (8, "tT", 0o1000))


class Entry(NamedTuple):
    """One thing in an image: `kind` is ls's letter, `mode` without it, `target` where a link leads."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    target: str = ""


@dataclass(frozen=True)
class Listing:
    """Everything in an image, by its absolute path; the top is `/`."""

    entries: Mapping[str, Entry]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def find(self, path: str) -> Entry | None:
        """What a process in the image finds at `path`, links followed; None where they lead nowhere."""
        resolved = ""
        pending, links = list(reversed(PurePosixPath("/", path).parts[1:])), 0
        while pending:
            part = pending.pop()
            if part == "..":
                resolved = resolved.rpartition("/")[0]
                continue
            entry = self.entries.get(f"{resolved}/{part}")
            if entry is None:
                return None
            if entry.kind != LINK:
                resolved = entry.path
                continue
            links += 1
            if links > MAX_LINKS:
                return None
            target = PurePosixPath(entry.target)
            resolved = "" if target.is_absolute() else resolved
            pending += reversed([part for part in target.parts if part != "/"])
        return self.entries.get(resolved or "/")


def of(image: Path, env: Mapping[str, str]) -> Listing:
    """Raises `CommandFailed` for a file that unsquashfs can't read."""
    argv = ["unsquashfs", "-lln", str(image)]
    said = run(argv, what=f"list {image.name}", env=env, timeout=LIST_SECONDS, separate=True).output
    found = parse(said.split("\n"))
    if not found.entries:
        raise ExportError(f"nothing is listed in {image}", "look at: unsquashfs -lln " + str(image))
    return found


def parse(lines: Iterable[str]) -> Listing:
    """The rest of a name with a line break in it is left out: what stands before is enough to find it."""
    modes: dict[str, int] = {}
    entries: dict[str, Entry] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if not match:
            continue
        kind, letters, uid, gid, size, path = match.groups()
        mode = modes.get(letters)
        if mode is None:
            mode = modes[letters] = _mode(letters)
        path, target = path or "/", ""
        if kind == LINK:
            path, _, target = path.partition(" -> ")
        entries[path] = Entry(path, kind, mode, int(uid), int(gid), int(size), target)
    return Listing(entries)


def _mode(letters: str) -> int:
    mode = 0
    for letter in letters:
        mode = mode << 1 | (letter not in "-ST")
    return mode | sum(bit for place, marks, bit in _SPECIAL if letters[place] in marks)


def read(image: Path, entries: Iterable[Entry], private: Path, env: Mapping[str, str]) -> dict[str, bytes]:
    """The contents of small files of an image by path; what is larger than 1 MiB is left out."""
    wanted = [entry.path for entry in entries if entry.kind == FILE and entry.size <= LARGEST_READ]
    if not wanted:
        return {}
    with tempfile.TemporaryDirectory(dir=private) as place:
        names, tree = Path(place, "names"), Path(place, "tree")
        names.write_text("".join(f"{path}\n" for path in wanted), errors="surrogateescape")
        options = ["-no-progress", "-quiet", "-no-xattrs", "-no-wildcards"]
        argv = ["unsquashfs", *options, "-dest", str(tree), "-extract-file", str(names), str(image)]
        try:
            run(argv, what=f"read files of {image.name}", env=env, timeout=READ_SECONDS)
            found = {path: _read(tree, path) for path in wanted}
        finally:
            files.remove_tree(tree)
    return {path: data for path, data in found.items() if data is not None}


def _read(tree: Path, path: str) -> bytes | None:
    """Nothing but folders and the wanted files was unpacked: no link is on the way."""
    place = tree / path.lstrip("/")
    try:
        place.chmod(0o600)
        return place.read_bytes()
    except OSError:  # a name that isn't UTF-8, or a folder closed to its owner
        return None
