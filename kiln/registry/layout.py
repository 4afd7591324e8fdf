"""Images in files: an OCI layout folder, and what `docker save` writes, in its old form and its new.

Owns the way to a `Resolved` and to verified blobs, as `kiln.registry.client` has it for registries.
Extracts nothing: a member of an archive is read where it lies, and links among members are followed
by name inside the archive.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from kiln.errors import BaseError
from kiln.registry import oci
from kiln.registry.blobs import Partial, WrongBytes, blob_path, claimed, complete
from kiln.registry.download import Progress
from kiln.registry.inflate import Budget, Damaged, Inflated
from kiln.registry.oci import DAMAGED, DOCUMENT_LIMIT, Descriptor, Resolved
from kiln.registry.transport import Notify, silent

CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
NAME_KEYS = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
UNFOLDED_LIMIT = 1 << 40
MAX_LINKS = 10
COPY_SIZE = 1 << 20


class LocalImage(Protocol):
    """An image in a file or folder."""

    def resolve(self, architecture: str) -> Resolved:
        """What it is. Reads documents alone, and writes nothing."""
        ...

    def fetch(
        self, resolved: Resolved, blobs: Path, progress: Progress | None = None, notify: Notify = silent
    ) -> list[Path]:
        """Copy its layers to the folder `blobs`, verified; returns their paths, lowest first."""
        ...


class Source(Protocol):
    """Named files."""

    def open(self, name: str) -> IO[bytes]: ...


def open_oci(folder: Path, name: str | None = None) -> LocalImage:
    """`oci:DIR[:NAME]`."""
    if not (folder / "index.json").is_file():
        raise BaseError(f"{folder} is no OCI layout: it has no index.json", "skopeo copy … oci:DIR makes one")
    return _Layout(f"oci:{folder}{f':{name}' if name else ''}", _Folder(folder), name)


def open_docker_archive(file: Path, name: str | None = None) -> LocalImage:
    """`docker-archive:FILE[:NAME]`."""
    archive, uri = _Archive(file), f"docker-archive:{file}{f':{name}' if name else ''}"
    if archive.has("index.json") and archive.has("oci-layout"):
        return _Layout(uri, archive, name)
    return _OldArchive(uri, archive, name)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._folder / name).open("rb")
        except OSError as error:
            raise BaseError(f"{self._folder}: cannot read {name}: {error.strerror}", DAMAGED) from error


class _Archive:
    """The members of a tar file by name."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            with tarfile.open(file, "r:") as archive:
                self._members = {posixpath.normpath(member.name): member for member in archive}
        except OSError as error:
            raise BaseError(f"cannot read {file}: {error.strerror}", f"look at: ls -l {file}") from error
        except tarfile.TarError as error:
            hint = (
                "is it compressed? gunzip it, or unzstd it"
                if _is_compressed(file)
                else "docker save … makes one"
            )
            raise BaseError(f"{file} is no tar archive ({error})", hint) from error

    def has(self, name: str) -> bool:
        return name in self._members

    def open(self, name: str) -> IO[bytes]:
        member = self._find(name)
        return io.BufferedReader(_Slice(self._file, member.offset_data, member.size), COPY_SIZE)

    def size(self, name: str) -> int:
        return self._find(name).size

    def _find(self, name: str) -> tarfile.TarInfo:
        name = posixpath.normpath(name)
        for _ in range(MAX_LINKS):
            member = self._members.get(name)
            if member is None:
                break
            if member.isreg() and not member.issparse():
                return member
            # Old Dockers wrote a link for a layer that several images share.
            base = posixpath.dirname(name) if member.issym() else ""
            name = posixpath.normpath(posixpath.join(base, member.linkname))
        raise BaseError(f"{self._file}: {name} is missing in it", DAMAGED)


class _Slice(io.RawIOBase):
    """A part of a file."""

    def __init__(self, file: Path, offset: int, size: int) -> None:
        self._stream, self._left = file.open("rb", buffering=0), size
        self._stream.seek(offset)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(memoryview(buffer)[: self._left]) or 0
        self._left -= count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


@dataclass(frozen=True)
class _Layout:
    uri: str
    source: Source
    name: str | None

    def resolve(self, architecture: str) -> Resolved:
        index = oci.parse_json(_document(self.source, "index.json"), self.uri)
        entries = index.get("manifests")
        if not isinstance(entries, list) or not entries:
            raise BaseError(f"{self.uri}: its index.json names no image", DAMAGED)
        chosen = self._named([entry for entry in entries if isinstance(entry, dict)])
        if len(chosen) == 1:
            top = oci.descriptor(chosen[0], self.uri)
            document = oci.document(self._read(top), self.uri, top.media_type)
        else:
            document = oci.document(json.dumps({"manifests": chosen}).encode(), self.uri)
        return oci.resolve(document, self._read, architecture, self.uri, self.uri)

    def fetch(
        self, resolved: Resolved, blobs: Path, progress: Progress | None = None, notify: Notify = silent
    ) -> list[Path]:
        done = 0
        for layer in dict.fromkeys(resolved.layers):
            if not complete(blobs, layer):
                with self.source.open(_blob_name(layer.digest)) as stream:
                    _copy(stream, layer, blobs, self.uri, notify)
            done += layer.size
            if progress:
                progress(done, resolved.download_size)
        return [blob_path(blobs, layer.digest) for layer in resolved.layers]

    def _read(self, wanted: Descriptor) -> bytes:
        return oci.verified(_document(self.source, _blob_name(wanted.digest)), wanted, self.uri)

    def _named(self, entries: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The entries of the wanted name; without one, all of them if they are one image's."""
        if self.name:
            found = [entry for entry in entries if self.name in (*_names(entry), entry.get("digest"))]
            if found:
                return found
        names = sorted({name for entry in entries for name in _names(entry)})
        if self.name or (len(entries) > 1 and names):
            message = f"has no image {self.name}" if self.name else f"holds {len(entries)} images"
            raise BaseError(f"{self.uri} {message}", f"name one of: {', '.join(names) or 'none has a name'}")
        return entries


@dataclass(frozen=True)
class _OldArchive:
    """`manifest.json`, a config, and layers known by the digests of their uncompressed bytes."""

    uri: str
    source: _Archive
    name: str | None

    def resolve(self, architecture: str) -> Resolved:
        image = self._image()
        raw = _document(self.source, str(image["Config"]))
        digest = oci.sha256(raw)
        named = re.search(r"([0-9a-f]{64})(?:\.json)?$", str(image["Config"]))
        if named and digest != f"sha256:{named[1]}":
            raise BaseError(f"{self.uri}: wrong bytes for the config {named[1]}", DAMAGED)
        config = oci.parse_json(raw, f"{self.uri}, config")
        oci.check_platform(config, architecture, self.uri)
        names = [str(name) for name in image["Layers"]]
        ids = oci.diff_ids(config, len(names), self.uri)
        layers = (
            Descriptor(diff_id, self.source.size(name), "") for diff_id, name in zip(ids, names, strict=True)
        )
        return Resolved(
            uri=self.uri,
            architecture=str(config["architecture"]),
            digest=digest,
            media_type=CONFIG_TYPE,
            config_digest=digest,
            layers=tuple(layers),
            diff_ids=ids,
            config=config,
            raw_config=raw,
        )

    def fetch(
        self, resolved: Resolved, blobs: Path, progress: Progress | None = None, notify: Notify = silent
    ) -> list[Path]:
        done, names = 0, [str(name) for name in self._image()["Layers"]]
        for layer, name in zip(resolved.layers, names, strict=True):
            # A compressed layer is kept uncompressed, under the only digest known of it.
            if not complete(blobs, layer, check_size=False):
                with self.source.open(name) as stream:
                    _copy(stream, layer, blobs, self.uri, notify, inflate=True)
            done += layer.size
            if progress:
                progress(done, sum(layer.size for layer in resolved.layers))
        return [blob_path(blobs, layer.digest) for layer in resolved.layers]

    def _image(self) -> Mapping[str, Any]:
        try:
            images = json.loads(_document(self.source, "manifest.json"))
            tags = {tag: image for image in images for tag in image.get("RepoTags") or []}
            found = tags.get(self.name) if self.name else images[0] if len(images) == 1 else None
            if found is not None and isinstance(found["Config"], str) and isinstance(found["Layers"], list):
                return dict(found)
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            raise BaseError(
                f"{self.uri}: its manifest.json is damaged", "docker save … makes a new one"
            ) from error
        message = f"has no image {self.name}" if self.name else f"holds {len(images)} images"
        raise BaseError(
            f"{self.uri} {message}", f"name one of: {', '.join(sorted(tags)) or 'none has a name'}"
        )


def _copy(
    stream: IO[bytes], wanted: Descriptor, blobs: Path, place: str, notify: Notify, inflate: bool = False
) -> None:
    with claimed(blobs, wanted, notify) as path, Partial(path, wanted, sized=not inflate) as partial:
        partial.restart()
        inflated = Inflated(stream, Budget(UNFOLDED_LIMIT)) if inflate else None
        try:
            while piece := (inflated.next() if inflated else stream.read(COPY_SIZE)):
                partial.write(partial.size, piece)
            partial.finish()
        except (WrongBytes, Damaged) as error:
            partial.remove()
            raise BaseError(f"{place}: wrong bytes for {wanted.digest}: {error}", DAMAGED) from error
        finally:
            if inflated:
                inflated.close()


def _document(source: Source, name: str) -> bytes:
    with source.open(name) as stream:
        data = stream.read(DOCUMENT_LIMIT + 1)
    if len(data) > DOCUMENT_LIMIT:
        raise BaseError(f"{name} has more than {DOCUMENT_LIMIT} bytes", DAMAGED)
    return data


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _names(entry: Mapping[str, Any]) -> list[str]:
    notes = entry.get("annotations")
    return [str(notes[key]) for key in NAME_KEYS if key in notes] if isinstance(notes, dict) else []


def _is_compressed(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4).startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zX"))
