"""Whether package indexes have newer versions of what a published image was made with.

Of pip and uv layers those packages are looked at that the manifest names, within the ranges that it gives:
whether a package of theirs may be newer, the whole resolution would have to say. Of apt layers, and of bases
from a mirror, every package: apt takes the newest. An index is asked once for a package, whatever the number
of images. Owns these questions and the reading of the answers.
"""

from __future__ import annotations

import io
import json
import lzma
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Event

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from kiln import debootstrap, debversion
from kiln.debootstrap import Fetch, Suite
from kiln.errors import BaseError, KilnError
from kiln.inventory import APT, PYTHON
from kiln.manifest import AptLayer, Manifest, PipLayer, UvLayer
from kiln.record import LayerRecord, Record
from kiln.registry.transport import Transport

PYPI = "https://pypi.org/simple"
ACCEPT = {"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.1"}
LARGEST = 64 << 20
AT_ONCE = 8
SUITES = {
    "debian-11": "bullseye", "debian-12": "bookworm", "debian-13": "trixie",
    "ubuntu-20.04": "focal", "ubuntu-22.04": "jammy", "ubuntu-24.04": "noble",
}  # fmt: skip
_FILE = re.compile(r"<a\s[^>]*?>\s*([^<\s]+)\s*</a>", re.IGNORECASE)
_PYTHON = re.compile(r"python(3\.\d+)")

Found = tuple[str, str, str]
"""A package: its name, the version in the image, the newest that it may have."""


@dataclass(frozen=True)
class Question:
    """A Python package in an image: where it is looked for, its range, the image's Python ('' if unknown)."""

    index: str
    requirement: Requirement
    version: str
    python: str

    @property
    def name(self) -> str:
        return str(canonicalize_name(self.requirement.name))


@dataclass(frozen=True)
class File:
    """One file of an index: the version in its name, and which Pythons it is for."""

    version: Version
    python: str = ""


def questions(manifest: Manifest, record: Record, index: str) -> Iterator[Question]:
    """What is to be asked of an image's pip and uv layers; `index` is the site's."""
    for layer, made in zip(manifest.layers, record.layers, strict=False):
        if not isinstance(layer, PipLayer | UvLayer):
            continue
        got = {each.name: each for each in made.changes if each.kind == PYTHON and each.after}
        for requirement in map(Requirement, layer.packages):
            change = got.get(canonicalize_name(requirement.name))
            # What the layer didn't bring is the base's, and stays as it is.
            if change and not requirement.url:
                python = _PYTHON.search(change.place)
                where = layer.index_url or index or PYPI
                yield Question(where.rstrip("/"), requirement, change.after, python[1] if python else "")


@dataclass(frozen=True)
class Indexes:
    """The indexes, asked through `transport`; suites of Debian and Ubuntu through `fetch`."""

    transport: Transport
    fetch: Fetch
    mirrors: Mapping[str, str]
    architecture: str

    def python(self, asked: Iterable[Question]) -> dict[tuple[str, str], Sequence[File] | KilnError]:
        """The files of each package that is asked for, by index and name, or why they are not known."""
        wanted = sorted({(each.index, each.name) for each in asked})
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(wanted, pool.map(self._files_or_why, wanted), strict=True))

    def _files_or_why(self, wanted: tuple[str, str]) -> Sequence[File] | KilnError:
        try:
            return self._files(*wanted)
        except KilnError as error:
            return error

    def _files(self, index: str, name: str) -> Sequence[File]:
        answer = self.transport.read(f"{index}/{name}/", ACCEPT, Event(), LARGEST)
        if answer.status != 200:
            raise BaseError(f"the index answers {answer.status} for {name}", "look at the site's indexes")
        if answer.headers.get("Content-Type", "").startswith("application/vnd.pypi"):
            pairs = _pairs(answer.body)
        else:
            pairs = [(name, "") for name in _FILE.findall(answer.body.decode("utf-8", "replace"))]
        files = (_file(filename, python) for filename, python in pairs)
        return sorted({each for each in files if each}, key=lambda each: each.version)

    def apt(self, suite: str, names: set[str]) -> Mapping[str, str] | KilnError:
        """The newest version of each package in a suite, its updates and its security, or why not known."""
        try:
            return self._apt(suite, names)
        except KilnError as error:
            return error

    def _apt(self, suite: str, names: set[str]) -> Mapping[str, str]:
        newest: dict[str, str] = {}
        for url in self._lists(debootstrap.find(suite, self.mirrors, self.fetch)):
            data = self.fetch(url)
            if data is not None:
                _newest(data, names, newest)
        return newest

    def _lists(self, suite: Suite) -> Iterator[str]:
        for line in suite.sources:
            _, place, part, *components = line.split()
            for component in components:
                yield f"{place}/dists/{part}/{component}/binary-{self.architecture}/Packages.xz"


def _pairs(body: bytes) -> list[tuple[str, str]]:
    """The files of an index's JSON (PEP 691), and which Pythons each is for; what is yanked is none."""
    try:
        listed = [each for each in json.loads(body)["files"] if not each.get("yanked")]
        return [(str(each["filename"]), str(each.get("requires-python") or "")) for each in listed]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseError(f"the index gave no list of files: {error}", "is it a package index?") from error


def _file(filename: str, python: str) -> File | None:
    try:
        if filename.endswith(".whl"):
            return File(parse_wheel_filename(filename)[1], python)
        return File(parse_sdist_filename(filename)[1], python)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None  # an egg, an installer


def newer(question: Question, files: Sequence[File]) -> Found | None:
    """The newest version in the range, where it is newer than what the image has."""
    requirement, have = question.requirement, Version(question.version)
    fits = [each.version for each in files if _runs(each.python, question.python)]
    best = max(requirement.specifier.filter(fits), default=have)
    return (question.name, question.version, str(best)) if best > have else None


@lru_cache(maxsize=1024)
def _runs(wanted: str, python: str) -> bool:
    if not wanted or not python:
        return True
    try:
        return SpecifierSet(wanted).contains(python)
    except InvalidSpecifier:
        return True


def of_apt(manifest: Manifest, record: Record) -> dict[str, str]:
    """The Debian packages of an image that apt would choose the newest of, with their versions."""
    if manifest.base.kind == "debootstrap":
        found = {each.name: each.version for each in record.packages if each.kind == APT}
    else:
        found = {}
    pinned: set[str] = set()
    for layer, made in zip(manifest.layers, record.layers, strict=False):
        if isinstance(layer, AptLayer):
            found.update(_brought(made))
            pinned |= {each.partition("=")[0] for each in layer.packages if "=" in each}
    return {name: version for name, version in found.items() if name not in pinned}


def _brought(made: LayerRecord) -> dict[str, str]:
    return {each.name: each.after for each in made.changes if each.kind == APT and each.after}


def newer_debs(have: Mapping[str, str], newest: Mapping[str, str]) -> list[Found]:
    """Of the packages in an image those that the archive has newer."""
    return [
        (name, version, newest[name])
        for name, version in sorted(have.items())
        if name in newest and debversion.key(newest[name]) > debversion.key(version)
    ]


def _newest(data: bytes, names: set[str], newest: dict[str, str]) -> None:
    """Take the newest versions out of a Packages.xz: some 60,000 paragraphs, so nothing else is kept."""
    name = ""
    with lzma.open(io.BytesIO(data)) as stream:
        for line in stream:
            if line.startswith(b"Package: "):
                name = line[9:].strip().decode("ascii", "replace")
            elif line.startswith(b"Version: ") and name in names:
                version = line[9:].strip().decode("ascii", "replace")
                if name not in newest or debversion.key(version) > debversion.key(newest[name]):
                    newest[name] = version
