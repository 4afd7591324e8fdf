"""Constraint files of pip: those that an image brings, and what pip and uv layers are held to.

Owns how they are read, and the variables by which pip and uv get them: pip takes several files from
PIP_CONSTRAINT, split at spaces; uv reads nothing of pip's, and has UV_CONSTRAINT and UV_EXCLUDE.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from kiln import files, imageformat
from kiln.layercommand import LAYER
from kiln.manifest import Mount
from kiln.protection import normal

# Where NVIDIA's images have theirs, whether or not their PIP_CONSTRAINT says so.
NVIDIA = "/etc/pip/constraint.txt"
LARGEST = 16 << 20
_INCLUDE = re.compile(r"(?:-[cr]|--constraint|--requirement)[\s=]+(\S+)")


@dataclass(frozen=True)
class Pin:
    """A package that a layer must leave at `version`; `outside`: the environment sees it in the system's."""

    name: str
    version: str
    outside: bool = False

    def __str__(self) -> str:
        """As pip and uv write it, too."""
        return f"{self.name}=={Version(self.version) if self.usable else self.version}"

    @property
    def usable(self) -> bool:
        """Whether pip and uv can read it: some old versions they refuse."""
        try:
            Version(self.version)
        except InvalidVersion:
            return False
        return True


def names(tree: Path) -> frozenset[str]:
    """The packages that the constraint files of an image name."""
    text = files.read_inside(tree, "/etc/environment") or b""
    image = imageformat.parse_environment(text.decode("utf-8", "surrogateescape"))
    found = (each for path in (NVIDIA, *named(image)) for each in lines(tree, path))
    return frozenset(name for each in found if (name := constrained(each)))


def named(environ: Mapping[str, str]) -> list[str]:
    """The files that pip's variable names."""
    return environ.get("PIP_CONSTRAINT", "").split()


def lines(tree: Path, path: str, seen: set[str] | None = None) -> Iterator[str]:
    """The lines of a constraint file, and of those that it includes; none where there is no such file.

    `seen` are files that were read already.
    """
    seen, place = set() if seen is None else seen, posixpath.normpath(path.removeprefix("file://"))
    if place in seen or "://" in path.removeprefix("file://"):
        return
    seen.add(place)
    text = (files.read_inside(tree, place, LARGEST) or b"").decode("utf-8", "replace")
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        said = re.sub(r"(^|\s)#.*", "", line).strip()
        if included := _INCLUDE.fullmatch(said):
            yield from lines(tree, posixpath.join(posixpath.dirname(place), included[1]), seen)
        elif said:
            yield said


def constrained(line: str) -> str:
    """The package that a line is about, '' for none."""
    found = _requirement(line)
    return normal(found.name) if found else ""


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(re.split(r"\s--?[a-z]", line)[0])
    except InvalidRequirement:
        return None


@dataclass(frozen=True)
class Handed:
    """What a layer gets: variables, and the files of its mounts, which hold it to `pins`."""

    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    pins: tuple[Pin, ...] = ()


def for_pip(
    pins: tuple[Pin, ...], allowed: Collection[str], tree: Path, environ: Mapping[str, str], folder: Path
) -> Handed:
    """The base's versions beside the image's own files, without the lines for what is `allowed`.

    Where an image's file refuses what is installed, pip would find nothing at all with both: the file stays.

    `environ` is what the layer would see without; `folder` a private one, in which files are made.
    """
    kept, own, theirs = list[str](), list[str](), list[str]()
    for path in named(environ):
        found = list(lines(tree, path))
        theirs += (left := [line for line in found if constrained(line) not in allowed])
        if left == found:
            kept.append(path)
        else:
            own += left
    own += [str(pin) for pin in pins if pin.usable and not any(_refuses(line, pin) for line in theirs)]
    if not own and kept == named(environ):
        return Handed()
    mount = _mount(folder, "constraints.txt", own)
    return Handed({"PIP_CONSTRAINT": " ".join((*kept, mount.target))}, (mount,), pins)


def _refuses(line: str, pin: Pin) -> bool:
    found = _requirement(line)
    return (
        found is not None
        and normal(found.name) == pin.name
        and not found.specifier.contains(pin.version, prereleases=True)
    )


def for_uv(pins: tuple[Pin, ...], asked: Collection[str], environ: Mapping[str, str], folder: Path) -> Handed:
    """The base's versions as uv takes them.

    uv doesn't look at the system's packages when it fills a virtual environment that sees them, and would
    bring each a second time: there they are left out of what it resolves, save what the layer itself has
    `asked` for.
    """
    left_out = [pin for pin in pins if pin.outside and pin.name not in asked]
    held = [str(pin) for pin in pins if pin.usable and pin not in left_out]
    env, mounts = {}, []
    for variable, name, text in (
        ("UV_CONSTRAINT", "constraints.txt", held),
        ("UV_EXCLUDE", "excludes.txt", [pin.name for pin in left_out]),
    ):
        if text:
            mount = _mount(folder, name, text)
            mounts.append(mount)
            env[variable] = " ".join((*environ.get(variable, "").split(), mount.target))
    return Handed(env, tuple(mounts), pins)


def _mount(folder: Path, name: str, text: Iterable[str]) -> Mount:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in text))
    return Mount(source=path, target=f"{LAYER}/{name}")
