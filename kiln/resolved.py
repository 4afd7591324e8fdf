"""What apt, pip and uv say they would install -> packages of a lock.

Owns the forms in which they say it: apt-get's `--print-uris`, pip's installation report (version 1), uv's
changes and a `pylock.toml` (PEP 751). Runs nothing, asks nobody. What can't be locked is refused, with why.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from packaging.pylock import Package, PackageArchive, PackageSdist, PackageWheel, Pylock
from packaging.tags import Tag
from packaging.utils import canonicalize_name

from kiln.errors import LockError
from kiln.locked import SOURCE, WHEEL, Locked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_URI = re.compile(r"'([^']*)' (\S+)_(\S+)_(\S+)\.deb ([0-9]+) (?:SHA256:)?([0-9a-f]{64})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz")
# What Kiln can fetch, or finds in the base itself; apt has more of them.
_FETCHED = ("http://", "https://", "file:/")

Public = Callable[[str], str]
"""What a lock has for an address: without login, and no site's own mirror."""


def apt(text: str, public: Public) -> tuple[Locked, ...]:
    """The packages in what `apt-get --print-uris` printed. Raises `LockError`."""
    found = []
    for line in filter(None, text.splitlines()):
        match = _URI.fullmatch(line.strip())
        if not match:
            raise LockError(
                f"apt says of a package what can't be locked: {public(line.strip())}",
                "its source must have SHA256 sums: look at the base's /etc/apt/sources.list.d",
            )
        url, name, version, place, size, sha256 = match.groups()
        if url.startswith("copy:/"):
            url = "file:/" + url.removeprefix("copy:/")
        if not url.startswith(_FETCHED):
            raise LockError(
                f"{name} comes from {public(url)}, which Kiln can't fetch", "lock needs http, https or file"
            )
        found.append(Locked(name, unquote(version), place, int(size), sha256, public(url)))
    return tuple(sorted(set(found)))


def pip(report: bytes, public: Public, place: str = "") -> tuple[Locked, ...]:
    """The packages of pip's report; their sizes are 0. Raises `LockError`."""
    found = []
    for item in json.loads(report)["install"]:
        metadata, download = item["metadata"], item["download_info"]
        name, url = canonicalize_name(metadata["name"]), str(download["url"])
        archive = download.get("archive_info")
        if archive is None:
            raise _not_an_archive(name, public(url))
        found.append(_package(name, metadata["version"], url, archive.get("hashes", {}), 0, public, place))
    return tuple(sorted(found))


def uv(changes: bytes) -> dict[str, str]:
    """The names and versions that uv would install."""
    items = json.loads(changes)["changes"]
    return {
        canonicalize_name(item["name"]): item["version"] for item in items if item["action"] == "installed"
    }


def pylock(text: bytes, about: bytes, public: Public, place: str = "") -> tuple[Locked, ...]:
    """The files of a `pylock.toml` that fit a Python, of which `about` is what tags.py said."""
    lock, said = Pylock.from_dict(tomllib.loads(text.decode())), json.loads(about)
    tags = [Tag(*tag.split("-")) for tag in said["tags"]]
    chosen = lock.select(environment=said["environment"], tags=tags)
    return tuple(sorted(_chosen(package, file, public, place) for package, file in chosen))


def _chosen(package: Package, file: Any, public: Public, place: str) -> Locked:
    if not isinstance(file, PackageWheel | PackageSdist | PackageArchive) or file.url is None:
        vcs = package.vcs.url if package.vcs and package.vcs.url else "no archive"
        raise _not_an_archive(package.name, public(vcs))
    return _package(
        package.name, str(package.version or ""), file.url, file.hashes, file.size or 0, public, place
    )


def _package(  # a package has this many sides
    name: str,
    version: str,
    url: str,
    hashes: Mapping[str, str],
    size: int,
    public: Public,
    place: str,
) -> Locked:
    plain, sha256 = public(url), hashes.get("sha256", "")
    if not plain.startswith(("http://", "https://")) or not plain.partition("?")[0].endswith(_ARCHIVES):
        raise _not_an_archive(name, plain)
    if not _SHA256.fullmatch(sha256):
        raise LockError(f"the index has no sha256 of {name} {version}: {plain}", "lock it from another index")
    kind = WHEEL if plain.partition("?")[0].endswith(".whl") else SOURCE
    return Locked(name, version, place or kind, size, sha256, plain)


def _not_an_archive(name: str, url: str) -> LockError:
    return LockError(
        f"{name} can't be locked: {url} is no archive with a sha256",
        f"write an index's version, or an archive: {name} @ https://…/archive/COMMIT.tar.gz",
    )
