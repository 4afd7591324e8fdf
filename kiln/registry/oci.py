"""OCI and Docker documents: indexes, image manifests and configs, read by hand with clear errors.

Owns what an image resolves to, and the way from an index down to one platform's image. Knows
neither registries nor files: `fetch` brings the bytes of a descriptor, and they are verified here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kiln.errors import BaseError
from kiln.registry.reference import Reference

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))
DOCUMENT_LIMIT = 8 << 20
DAMAGED = "the image is damaged or hostile: ask its maker"
# An index may name another index; deeper nesting is nobody's image, and a loop has no end.
INDEX_DEPTH = 2

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
# The variant that an architecture means when none is named.
_PLAIN_VARIANTS = {"amd64": ("", "v1"), "arm64": ("", "v8")}


@dataclass(frozen=True)
class Descriptor:
    """A blob by its digest: what a manifest says of it."""

    digest: str
    size: int
    media_type: str

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")

    @property
    def short(self) -> str:
        return f"{self.digest[:19]}…"


@dataclass(frozen=True)
class Resolved:
    """One platform's image, all of it pinned by digest.

    `uri` is what enroot would be given and writes into `/etc/rc`. `reference` is None for an image
    from a file. `raw_config` holds the bytes that `config_digest` is the digest of.
    """

    uri: str
    architecture: str
    digest: str
    media_type: str
    config_digest: str
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)
    raw_config: bytes = field(repr=False)
    index_digest: str | None = None
    tag: str | None = None
    reference: Reference | None = None

    @property
    def pinned(self) -> str:
        """The digest to write down: of the index where there is one, for it serves every platform."""
        return self.index_digest or self.digest

    @property
    def download_size(self) -> int:
        return sum(layer.size for layer in set(self.layers))


@dataclass(frozen=True)
class Document:
    """A manifest or an index with the digest of its bytes."""

    digest: str
    media_type: str
    body: Mapping[str, Any]

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES


Fetch = Callable[[Descriptor], bytes]


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def checked_digest(value: object, place: str) -> str:
    """`value` as a digest that is safe to use in a path."""
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value
    if isinstance(value, str) and value.startswith("sha512:"):
        raise BaseError(
            f"{place}: {value[:23]}…: Kiln reads sha256 digests only", "push the image again with those"
        )
    raise BaseError(f"{place}: {str(value)[:90]!r} is no sha256 digest", DAMAGED)


def parse_json(data: bytes, place: str) -> Mapping[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BaseError(f"{place}: not JSON ({error})", "a proxy or login page may have answered") from error
    if not isinstance(body, dict):
        raise BaseError(f"{place}: not a JSON object", "a proxy or login page may have answered")
    return body


def document(data: bytes, place: str, content_type: str = "") -> Document:
    """Read a manifest or an index; its own `mediaType` decides, then the server's, then its shape."""
    body = parse_json(data, place)
    named = str(body.get("mediaType") or content_type.partition(";")[0].strip())
    if body.get("schemaVersion") == 1 or "distribution.manifest.v1" in named:
        raise BaseError(
            f"{place}: an image of the old Docker schema 1, which names no digests that could be verified",
            "pull and push it again with a Docker from this decade, or take a newer tag",
        )
    if "manifests" in body and "layers" in body:
        raise BaseError(f"{place}: both an index and a manifest", DAMAGED)
    if named not in (*INDEX_TYPES, *MANIFEST_TYPES):
        named = INDEX_TYPES[0] if "manifests" in body else MANIFEST_TYPES[0]
    if ("manifests" if named in INDEX_TYPES else "layers") not in body:
        raise BaseError(
            f"{place}: neither a manifest nor an index ({named})", "is it a Helm chart, or a model?"
        )
    return Document(sha256(data), named, body)


def descriptor(value: object, place: str) -> Descriptor:
    if not isinstance(value, dict):
        raise BaseError(f"{place}: a descriptor is missing", DAMAGED)
    size = value.get("size")
    if not isinstance(size, int) or size < 0:
        raise BaseError(f"{place}: a descriptor without a size", DAMAGED)
    return Descriptor(checked_digest(value.get("digest"), place), size, str(value.get("mediaType", "")))


def verified(data: bytes, wanted: Descriptor, place: str) -> bytes:
    got = sha256(data)
    if got != wanted.digest or len(data) != wanted.size:
        raise BaseError(
            f"{place}: wrong bytes for {wanted.digest} ({wanted.size} bytes): got {got} ({len(data)} bytes)",
            "a proxy or mirror changes what it passes on, or the image is damaged",
        )
    return data


def find_image(top: Document, fetch: Fetch, architecture: str, place: str) -> Document:
    """Go down from an index to the manifest of linux/`architecture`; a manifest is its own answer."""
    found = top
    for _ in range(INDEX_DEPTH):
        if not found.is_index:
            return found
        wanted = _choose(found.body["manifests"], architecture, place)
        data = verified(fetch(wanted), wanted, place)
        found = document(data, f"{place} ({wanted.digest})", wanted.media_type)
    if found.is_index:
        raise BaseError(f"{place}: indexes nested too deeply", DAMAGED)
    return found


def resolve(top: Document, fetch: Fetch, architecture: str, place: str, uri: str) -> Resolved:
    """The image that `top` leads to, with its config fetched and everything cross-checked."""
    image = find_image(top, fetch, architecture, place)
    wanted = descriptor(image.body.get("config"), place)
    raw = verified(fetch(wanted), wanted, f"{place}, config")
    config = parse_json(raw, f"{place}, config")
    check_platform(config, architecture, place)
    entries = image.body["layers"]
    if not isinstance(entries, list):
        raise BaseError(f"{place}: 'layers' is no list", DAMAGED)
    return Resolved(
        uri=uri,
        architecture=_split(architecture)[0],
        digest=image.digest,
        media_type=image.media_type,
        config_digest=wanted.digest,
        layers=tuple(descriptor(entry, f"{place}, layer {n}") for n, entry in enumerate(entries, 1)),
        diff_ids=diff_ids(config, len(entries), place),
        config=config,
        raw_config=raw,
        index_digest=top.digest if top.is_index else None,
    )


def diff_ids(config: Mapping[str, Any], layers: int, place: str) -> tuple[str, ...]:
    """The digests of the uncompressed layers."""
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or len(found) != layers:
        raise BaseError(
            f"{place}: {layers} layers, but its config names {len(found) if isinstance(found, list) else 0}",
            "is it an image at all? Helm charts and models are kept in registries, too",
        )
    return tuple(checked_digest(value, f"{place}, config") for value in found)


def check_platform(config: Mapping[str, Any], architecture: str, place: str) -> None:
    """A single manifest is asked for no platform, so its config must be looked at."""
    has, wanted = str(config.get("architecture", "")), _split(architecture)[0]
    system = str(config.get("os") or "linux")
    if has != wanted or system != "linux":
        there = f"{system}/{has or '?'}"
        raise BaseError(f"{place} is for {there}, not for linux/{wanted}", "take a tag for this machine")


def _split(architecture: str) -> tuple[str, str]:
    name, _, variant = architecture.partition("/")
    return _MACHINES.get(name, name), variant


def _choose(entries: object, architecture: str, place: str) -> Descriptor:
    name, variant = _split(architecture)
    listed = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, Sequence) else []
    for accepted in (variant,) if variant else _PLAIN_VARIANTS.get(name, ("",)):
        for entry in listed:
            if _platform(entry) == ("linux", name, accepted):
                return descriptor(entry, place)
    # Builders other than Docker leave the platform out of an index that holds one thing.
    if len(listed) == 1 and "platform" not in listed[0]:
        return descriptor(listed[0], place)
    there = sorted({"/".join(filter(None, _platform(entry))) for entry in listed} - {"unknown/unknown"})
    raise BaseError(
        f"{place} has no image for linux/{architecture}",
        f"there is: {', '.join(there)}" if there else "its index is empty",
    )


def _platform(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    platform = entry.get("platform")
    if not isinstance(platform, dict):
        return "unknown", "unknown", ""
    return (
        str(platform.get("os") or "linux"),
        str(platform.get("architecture", "unknown")),
        str(platform.get("variant") or ""),
    )
