"""What is installed in a tree: Debian's packages and Python's distributions, read from their own files.

Owns where these are found and how they are read; runs nothing in the tree, which is a foreign one.

    /var/lib/dpkg/status, status.d/*   deb-control(5), one paragraph a package; status.d as distroless has it
    <folder>/*.dist-info/METADATA      the core metadata of a wheel (PyPA, Recording installed projects)
    <folder>/*.egg-info[/PKG-INFO]     what setuptools left before; a folder, or one file
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import canonicalize_name

from kiln import files

APT, PYTHON = "apt", "python"
DPKG = "/var/lib/dpkg"
LARGEST_STATUS, LARGEST_METADATA = 256 << 20, 4 << 20
METADATA = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+?)(-py[\d.]+)?\.(dist|egg)-info")
# Folders in which nobody installs: they are most of a tree's files.
PASSED_OVER = frozenset(
    ("proc", "sys", "dev", "run", "tmp", "usr/share", "usr/include", "usr/src", "var/lib", "var/cache")
)
# What lies deeper there belongs to a distribution, and copies that it brought for itself are not installed.
SITE_PACKAGES = frozenset(("site-packages", "dist-packages"))


@dataclass(frozen=True, order=True)
class Package:
    """One installed package.

    `name` is as dpkg has it, or a distribution's in normal form (PEP 503); `place` dpkg's architecture, or
    the folder of the distribution, as a path in the tree. `source` is the Debian source package with its
    version; `licence` what the metadata says, '' where it says nothing; `requires` its own requirements.
    """

    kind: str
    name: str
    version: str
    place: str = ""
    source: str = ""
    licence: str = ""
    requires: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays the same when another version takes its place."""
        return self.kind, self.name, self.place


@dataclass(frozen=True)
class Inventory:
    """All packages of a tree, sorted. `problems` names files that hold no package."""

    packages: tuple[Package, ...] = ()
    problems: tuple[str, ...] = ()

    def of(self, kind: str) -> tuple[Package, ...]:
        return tuple(package for package in self.packages if package.kind == kind)


def take(tree: Path) -> Inventory:
    """What is installed in `tree`; a tree without dpkg or Python has nothing of it."""
    problems: list[str] = []
    found = {*_debian(tree), *_python(tree, problems)}
    return Inventory(tuple(sorted(found)), tuple(problems))


def _debian(tree: Path) -> Iterator[Package]:
    text = files.read_inside(tree, f"{DPKG}/status", LARGEST_STATUS) or b""
    for paragraph in _paragraphs(text):
        if paragraph.get("status", "").split()[-1:] == ["installed"]:
            yield from _debian_package(paragraph)
    folder = files.inside(tree, f"{DPKG}/status.d", follow_last=True)
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    for name in names:
        if not name.endswith(".md5sums"):
            for paragraph in _paragraphs(files.read_inside(tree, f"{DPKG}/status.d/{name}") or b""):
                yield from _debian_package(paragraph)


def _debian_package(paragraph: Mapping[str, str]) -> Iterator[Package]:
    name, version = paragraph.get("package", ""), paragraph.get("version", "")
    if name and version:
        source, _, its_version = paragraph.get("source", name).partition(" ")
        at = its_version.strip("()") or version
        yield Package(APT, name, version, paragraph.get("architecture", ""), f"{source} {at}")


def _paragraphs(data: bytes) -> Iterator[dict[str, str]]:
    """Fields by their names in lower case; only the first line of each, which is all that is used here."""
    paragraph: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        if not line.strip():
            if paragraph:
                yield paragraph
            paragraph = {}
        elif not line[0].isspace():
            name, _, value = line.partition(":")
            paragraph[name.lower()] = value.strip()
    if paragraph:
        yield paragraph


def depends(tree: Path) -> dict[str, tuple[str, ...]]:
    """What each of Debian's packages depends on: names, alternatives among them, without versions."""
    text = files.read_inside(tree, f"{DPKG}/status", LARGEST_STATUS) or b""
    found = {}
    for paragraph in _paragraphs(text):
        said = (paragraph.get(name, "") for name in ("pre-depends", "depends"))
        words = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", ",".join(said))
        found[paragraph.get("package", "")] = tuple(words)
    return found


def _python(tree: Path, problems: list[str]) -> Iterator[Package]:
    for place, name in _metadata(tree):
        path = f"{place}/{name}"
        # An .egg-info may be the file itself.
        inner = f"{path}/METADATA" if name.endswith(".dist-info") else f"{path}/PKG-INFO"
        data = files.read_inside(tree, inner, LARGEST_METADATA)
        if data is None:
            data = files.read_inside(tree, path, LARGEST_METADATA)
        package = _distribution(data, _text(place), _text(name)) if data is not None else None
        if package:
            yield package
        else:
            problems.append(f"{_text(path)} names no distribution and version")


def _text(name: str) -> str:
    """A file's name, which may be no text: for records, it must be."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _distribution(data: bytes, place: str, name: str) -> Package | None:
    head = HeaderParser().parsestr(data.decode("utf-8", "replace"), headersonly=True)
    match = METADATA.fullmatch(name)
    title = _line(head.get("Name")) or (match["name"] if match else "")
    version = _line(head.get("Version")) or (match["version"] if match else "")
    if not title or not version:
        return None
    licence = _line(head.get("License-Expression")) or _line(head.get("License"))
    requires = tuple(sorted(_line(each) for each in head.get_all("Requires-Dist", [])))
    return Package(PYTHON, canonicalize_name(title), version, place, "", licence, requires)


def _line(value: object) -> str:
    """A header's value, '' for none; only its first line, where somebody put a whole text."""
    text = str(value or "").strip()
    return text.splitlines()[0].strip() if text else ""


def _metadata(tree: Path) -> Iterator[tuple[str, str]]:
    """The folder, as a path in the tree, and the name of each piece of metadata; links are not followed."""
    pending = [""]
    while pending:
        place = pending.pop()
        within_site = place.rpartition("/")[2] in SITE_PACKAGES
        with contextlib.suppress(OSError), os.scandir(tree / place) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
            yield from ((f"/{place}" if place else "", each.name) for each in _informing(found))
            if not within_site:
                below = (f"{place}/{each.name}".lstrip("/") for each in found if _is_folder(each))
                pending += (each for each in below if each not in PASSED_OVER)


def _informing(entries: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    return (each for each in entries if each.name.endswith((".dist-info", ".egg-info")))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.endswith((".dist-info", ".egg-info"))
