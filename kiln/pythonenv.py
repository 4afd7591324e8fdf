"""The Pythons of a tree: which folders of packages one sees, and in which order.

Owns the names of these folders, Debian's habits, and virtual environments (PEP 405). Runs nothing in the
tree, which is a foreign one.

    /usr/lib/python3/dist-packages              Debian's packages, which all its Pythons see
    /usr/local/lib/python3.12/dist-packages     what pip brings to Debian's Python 3.12; comes before those
    PREFIX/lib/python3.12/site-packages         of any other Python, or of the virtual environment PREFIX
    HOME/.local/lib/python3.12/site-packages    a user's own; comes before all
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kiln import files

FOLDER = re.compile(
    r"(?P<prefix>.*)/lib(64)?/python(?P<version>3(\.\d+)?)t?/(?P<kind>site|dist)-packages", re.DOTALL
)
USER = "~"
OUTSIDE = 10  # what a virtual environment sees of the system comes after its own


@dataclass(frozen=True, order=True)
class Environment:
    """One Python with its packages.

    `prefix` is its folder, '/usr' for Debian's own; `version` as in '3.12', '3' for any. `venv` says that
    it is a virtual environment, `system` the prefix of the Python whose packages it sees too, '' for none.
    A folder in which no Python looks by itself is an environment with nothing else in it.
    """

    prefix: str
    version: str = ""
    venv: bool = False
    system: str = ""

    def rank(self, place: str) -> int | None:
        """Where the folder `place` comes in its search, from 0; None for one that it doesn't see."""
        found = FOLDER.fullmatch(place)
        if found is None:
            return 0 if place == self.prefix else None
        if not _meet(self.version, found["version"]):
            return None
        if self.venv and found["prefix"] == self.prefix:
            return 0
        owner, order = _owner(found)
        if self.venv:
            return OUTSIDE + order if self.system and owner in (self.system, USER) else None
        return order if owner in (self.prefix, USER) else None


def _meet(one: str, other: str) -> bool:
    return one == other or "3" in (one, other) or "" in (one, other)


def _owner(found: re.Match[str]) -> tuple[str, int]:
    """The prefix of the Python that a folder belongs to, and its order among that one's folders."""
    prefix = found["prefix"]
    if prefix.endswith("/.local"):
        return USER, 0
    if found["kind"] == "dist" and prefix in ("/usr", "/usr/local"):
        # As Debian's site.py has them.
        return "/usr", 1 if prefix == "/usr/local" else 2 if found["version"] == "3" else 3
    return prefix or "/", 1


def of_folder(tree: Path, place: str) -> Environment:
    """The environment whose own folder `place` is."""
    found = FOLDER.fullmatch(place)
    if found is None:
        return Environment(place)
    return venv(tree, found["prefix"], found["version"]) or Environment(_owner(found)[0], found["version"])


def of_command(tree: Path, command: str, path: str) -> Environment | None:
    """The environment of a Python that a shell would start; None where there is no such program.

    `path` is the shell's PATH.
    """
    names = [command] if "/" in command else [f"{folder}/{command}" for folder in path.split(":") if folder]
    for name in names:
        if files.inside(tree, name, follow_last=True).is_file():
            # A virtual environment's python is a link to one outside, and yet is its own.
            own = venv(tree, str(PurePosixPath(name).parent.parent))
            return own or _installed(files.resolve_inside(tree, name))
    return None


def in_venv(tree: Path, path: str, base: Environment | None, *, system: bool) -> Environment:
    """The virtual environment at `path`, or the one that uv would make there of `base`."""
    place = str(files.resolve_inside(tree, path))
    seen = base.prefix if system and base else ""
    return venv(tree, place) or Environment(place, base.version if base else "", True, seen)


def _installed(program: PurePosixPath) -> Environment:
    version = re.search(r"python(3\.\d+)", program.name)
    return Environment(str(program.parent.parent), version[1] if version else "")


def venv(tree: Path, prefix: str, version: str = "") -> Environment | None:
    """The virtual environment at `prefix`, None where there is none."""
    data = files.read_inside(tree, f"{prefix}/pyvenv.cfg")
    if data is None:
        return None
    lines = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    said = {key.strip().lower(): value.strip() for key, _, value in lines}
    number = re.match(r"3\.\d+", said.get("version") or said.get("version_info") or "")
    system = ""
    if said.get("include-system-site-packages", "").lower() == "true":
        # Followed to the program itself: a Python finds its packages from there.
        program = files.resolve_inside(tree, f"{said.get('home', '')}/python3")
        system = str(program.parent.parent)
    return Environment(prefix, version or (number[0] if number else ""), True, system)
