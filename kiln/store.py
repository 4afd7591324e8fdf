"""The store of published images: where each file lies, and what is there.

    <images>/
      NAME/NAME-VERSION.sqsh       immutable, 0444
      NAME/NAME-VERSION.json       its record; beside it .json.sig, .cdx.json, .provenance.json
      NAME/NAME-VERSION.sha256     for people with only coreutils
      NAME/CHANNEL.sqsh            -> NAME-VERSION.sqsh, a relative link
      NAME/history.jsonl           see `kiln.history`
      catalog.json                 made from the records, see `kiln.publish`

Reads only. A version is there when its .sqsh is: a record without one belongs to a publish that is
under way or was cut off.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiln import record, testruns
from kiln.errors import StoreError
from kiln.record import Record

CURRENT, CANDIDATE = "current", "candidate"
FIRST_CHANNELS = (CURRENT, CANDIDATE)
RECORD, SIGNATURE, SBOM, PROVENANCE = "json", "json.sig", "cdx.json", "provenance.json"
CHECKSUM, TESTS = "sha256", "tests.jsonl"
BESIDE = (RECORD, SIGNATURE, SBOM, PROVENANCE, CHECKSUM)
"""What the names of the files beside an image have after the version: see `kiln.companions`."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Entry:
    """One version that is there; `problem` says what is wrong with its record, if it can't be read."""

    name: str
    version: str
    path: Path
    record: Record | None
    problem: str = ""


@dataclass(frozen=True)
class Store:
    """The images below `root`."""

    root: Path

    def folder(self, name: str) -> Path:
        return self.root / name

    def image(self, name: str, version: str) -> Path:
        return self.folder(name) / f"{name}-{version}.sqsh"

    def record(self, name: str, version: str) -> Path:
        return self.beside(name, version, RECORD)

    def checksum(self, name: str, version: str) -> Path:
        return self.beside(name, version, CHECKSUM)

    def beside(self, name: str, version: str, suffix: str) -> Path:
        return self.folder(name) / f"{name}-{version}.{suffix}"

    def tests(self, name: str, version: str) -> Path:
        """Later runs of smoke hooks: see `kiln.testruns`."""
        return self.beside(name, version, TESTS)

    def channel(self, name: str, channel: str) -> Path:
        return self.folder(name) / f"{channel}.sqsh"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.json"

    def names(self) -> list[str]:
        """The images that have at least one version. Raises `StoreError` where the folder can't be read."""
        try:
            folders = sorted(
                entry.name for entry in os.scandir(self.root) if entry.is_dir() and NAME.fullmatch(entry.name)
            )
        except OSError as error:
            raise StoreError(
                f"cannot read the images folder {self.root}: {error.strerror}",
                "set KILN_IMAGES or choose another --site; after a first 'invoke build hello' there is one",
            ) from error
        return [name for name in folders if self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """The versions of an image in the order they were numbered."""
        if not NAME.fullmatch(name):
            return []
        prefix, suffix = f"{name}-", ".sqsh"
        try:
            files = [entry.name for entry in os.scandir(self.folder(name)) if not entry.is_symlink()]
        except OSError:
            return []
        found = [
            file[len(prefix) : -len(suffix)]
            for file in files
            if file.startswith(prefix) and file.endswith(suffix)
        ]
        return sorted((version for version in found if split_version(version)), key=_order)

    def channels(self, name: str) -> dict[str, str]:
        """Which version each channel of an image leads to; `current` and `candidate` first."""
        prefix, suffix, found = f"{name}-", ".sqsh", {}
        try:
            links = [entry.name for entry in os.scandir(self.folder(name)) if entry.is_symlink()]
        except OSError:
            return {}
        for link in links:
            with contextlib.suppress(OSError):
                target = os.readlink(self.folder(name) / link)
                if link.endswith(suffix) and target.startswith(prefix) and target.endswith(suffix):
                    found[link.removesuffix(suffix)] = target[len(prefix) : -len(suffix)]
        first = [channel for channel in FIRST_CHANNELS if channel in found]
        return {channel: found[channel] for channel in (*first, *sorted(set(found) - set(first)))}

    def entry(self, name: str, version: str, *, packages: bool = False) -> Entry:
        """One version, with its packages if they are wanted."""
        path = self.image(name, version)
        try:
            found = record.read(self.record(name, version), packages=packages)
            runs = testruns.read(self.tests(name, version))
            return Entry(name, version, path, testruns.together(found, runs))
        except StoreError as error:
            return Entry(name, version, path, None, error.message)

    def led_to(self, name: str) -> list[Entry]:
        """The versions that an image's channels lead to, `current`'s first."""
        versions, channels = set(self.versions(name)), self.channels(name)
        wanted = [version for version in channels.values() if version in versions]
        return [self.entry(name, version, packages=True) for version in dict.fromkeys(wanted)]

    def entries(self) -> Iterator[Entry]:
        for name in self.names():
            for version in self.versions(name):
                yield self.entry(name, version)

    def find(self, reference: str) -> Entry:
        """The version that `NAME`, `NAME:VERSION` or `NAME:CHANNEL` names.

        Without a version it is `current`, else `candidate`, else the newest. Raises `StoreError`.
        """
        name, _, wanted = reference.partition(":")
        versions = self.versions(name)
        if not versions:
            near = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"did you mean '{near[0]}'? see: invoke list" if near else "see: invoke list"
            raise StoreError(f"no image '{name}' in {self.root}", hint)
        channels = self.channels(name)
        version = (
            channels.get(wanted, wanted) or channels.get(CURRENT) or channels.get(CANDIDATE) or versions[-1]
        )
        if version not in versions:
            raise StoreError(
                f"no version '{wanted}' of {name} in {self.root}", f"there are: {', '.join(versions[-8:])}"
            )
        return self.entry(name, version, packages=True)


def split_version(version: str) -> tuple[str, int] | None:
    """`25.04-py3-r3` -> ('25.04-py3', 3); None for what isn't a version."""
    label, mark, number = version.rpartition("-r")
    return (label, int(number)) if mark and label and number.isdigit() else None


def _order(version: str) -> tuple[list[tuple[int, str]], int]:
    label, number = split_version(version) or ("", 0)
    parts = [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", label)]
    return parts, number


def next_version(versions: list[str], label: str) -> str:
    """The version that comes after those of the same base label."""
    numbers = [found[1] for found in map(split_version, versions) if found and found[0] == label]
    return f"{label}-r{max(numbers, default=0) + 1}"
