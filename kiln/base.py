"""What an image is made from, as a manifest's `base` names it.

Owns reading that text, in all its forms. Must not look at a registry or a file: what a tag means
today is asked elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from kiln.document import Mistake
from kiln.fields import one_line
from kiln.problems import quote

DOCKER_HUB = "registry-1.docker.io"

BaseKind = Literal["registry", "image", "oci", "docker-archive", "sqsh", "debootstrap"]

_HUB_NAMES = ("docker.io", "index.docker.io", "registry.hub.docker.com", DOCKER_HUB)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_FORMS = (
    "nvcr.io/nvidia/pytorch:25.04-py3 (any registry), "
    "image:NAME, oci:FOLDER, docker-archive:FILE, sqsh:FILE or debootstrap:SUITE"
)


@dataclass(frozen=True)
class Base:
    """A base, read from `text`; what doesn't go with its kind is "".

    registry: `registry` (a host, with its port), `repository`, and `tag` or `digest` or both.
    image: `name` and `version` (a version or a channel; "" for the current one).
    oci, docker-archive, sqsh: `path` as written, relative to the manifest's folder; `tag` for oci's REF.
    debootstrap: `suite`.
    `label` is what the version numbers of the image begin with.
    """

    text: str
    kind: BaseKind
    label: str
    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    path: str = ""
    name: str = ""
    version: str = ""
    suite: str = ""


def parse_base(text: str) -> Base:
    """Read a base; raises Mistake (a ManifestError) that says what to write instead."""
    one_line(text)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in _PARSERS and not rest.startswith("//"):
        if not rest:
            raise Mistake(f"{quote(text)} names nothing", f"write {_FORMS}")
        return _PARSERS[prefix](text, rest)
    if "://" in text and not text.startswith("docker://"):
        raise Mistake(f"{quote(text)} is not a base", f"write it without '{prefix}://', as one of: {_FORMS}")
    return _registry_base(text, text.removeprefix("docker://"))


def _image(text: str, rest: str) -> Base:
    name, colon, version = rest.partition(":")
    if not _IMAGE_NAME.fullmatch(name) or (colon and not _TAG.fullmatch(version)):
        raise Mistake(f"{quote(text)} is not an image of ours", "write image:NAME or image:NAME:VERSION")
    return Base(text, "image", label=version or name, name=name, version=version)


def _oci(text: str, rest: str) -> Base:
    path, colon, reference = rest.rpartition(":")
    if not colon or "/" in reference:
        path, reference = rest, ""
    return Base(text, "oci", label=_label(reference or PurePosixPath(path).name), path=path, tag=reference)


def _docker_archive(text: str, rest: str) -> Base:
    return Base(text, "docker-archive", label=_label(PurePosixPath(rest).stem), path=rest)


def _sqsh(text: str, rest: str) -> Base:
    return Base(text, "sqsh", label=_label(PurePosixPath(rest).stem), path=rest)


def _debootstrap(text: str, rest: str) -> Base:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", rest):
        raise Mistake(
            f"{quote(rest)} is not a suite of Debian or Ubuntu", "write debootstrap:bookworm, for one"
        )
    return Base(text, "debootstrap", label=rest, suite=rest)


_PARSERS: dict[str, Callable[[str, str], Base]] = {
    "image": _image,
    "oci": _oci,
    "docker-archive": _docker_archive,
    "sqsh": _sqsh,
    "debootstrap": _debootstrap,
}


def _label(text: str) -> str:
    """Part of a file's name: what would be awkward there becomes '-'."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "base"


def _registry_base(text: str, reference: str) -> Base:
    host, path = _split_host(reference)
    if "@" in host:
        raise Mistake(
            f"{quote(text)} has a user in it", "leave it out: the login is in enroot's credentials file"
        )
    if not _HOST.fullmatch(host):
        raise Mistake(f"{quote(host)} is not a registry", f"write {_FORMS}")
    repository, tag, digest = _split_reference(path)
    if host in _HUB_NAMES:
        host = DOCKER_HUB
    _check_reference(text, repository, tag, digest)
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    label = tag or digest.removeprefix("sha256:")[:12]
    return Base(text, "registry", label, registry=host, repository=repository, tag=tag, digest=digest)


def _split_host(reference: str) -> tuple[str, str]:
    """Registry and the rest, by Docker's rule: the first part is a host if it looks like one."""
    if "#" in reference:  # enroot's own way
        host, _, path = reference.partition("#")
        return host, path
    first, slash, path = reference.partition("/")
    if slash and ("." in first or ":" in first or "@" in first or first == "localhost"):
        return first, path
    return DOCKER_HUB, reference


def _split_reference(path: str) -> tuple[str, str, str]:
    """Repository, tag, digest; a digest comes behind '@', or as enroot has it, behind ':'."""
    path, at, digest = path.partition("@")
    if not at and (match := re.search(r":(sha256:.*)$", path)):
        path, digest = path[: match.start()], match[1]
    head, colon, tag = path.rpartition(":")
    return (head, tag, digest) if colon else (path, "", digest)


def _check_reference(text: str, repository: str, tag: str, digest: str) -> None:
    if not _REPOSITORY.fullmatch(repository):
        lower = repository.lower()
        hint = (
            f"repositories are in lower case: {lower}" if _REPOSITORY.fullmatch(lower) else f"write {_FORMS}"
        )
        raise Mistake(f"{quote(repository)} is not a repository", hint)
    if tag and not _TAG.fullmatch(tag):
        raise Mistake(f"{quote(tag)} is not a tag", "a tag has letters, digits and _ . -")
    if digest and not _DIGEST.fullmatch(digest):
        raise Mistake(f"{quote(digest)} is not a digest", "write @sha256: and 64 hexadecimal digits")
    if not tag and not digest:
        raise Mistake(f"{quote(text)} has no tag", "name a tag or digest: 'latest' moves")
