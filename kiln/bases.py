"""What an image is built on: found, pinned by digest, and made into a container.

Owns the kinds of base: one `find` that only asks, and one `make` that writes. What is particular to
a registry, a mirror or a file lies in the modules for those.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kiln import debootstrap, files, imageformat, squashfs
from kiln.debootstrap import Suite
from kiln.errors import BaseError
from kiln.manifest import Base
from kiln.registry import layout
from kiln.registry.client import Client
from kiln.registry.layout import LocalImage
from kiln.registry.oci import Resolved
from kiln.registry.reference import Reference
from kiln.runtime.contract import Output, Progress, Runtime
from kiln.runtime.enroot import Enroot
from kiln.runtime.unpacking import unpack
from kiln.store import Store

# Seen on NGC's PyTorch images: 9 GB of gzip layers are 21 GB of files.
UNPACKED_PER_PACKED = 2.4
# Measured on bookworm with variant apt: 155 MB.
DEBOOTSTRAP_BYTES = 300_000_000
# zip, and so every wheel that a layer builds, can't hold an earlier time: 1980-01-02.
EARLIEST = 315_619_200
KILN = "kiln"
MAKE_TIME_OFFSET = 8
"""Offset of the superblock's u32 with the time a squashfs was made."""


@dataclass(frozen=True)
class Found:
    """A base that exists, pinned. One of `resolved`, `image`, `suite` is set, `local` too for a file.

    `download` and `unpacked` are bytes, the second an estimate; `epoch` is the base's own time in
    Unix seconds, after which nothing in an image built on it is dated.
    """

    base: Base
    label: str
    digest: str
    platform_digest: str
    epoch: int
    download: int
    unpacked: int
    resolved: Resolved | None = None
    local: LocalImage | None = None
    image: Path | None = None
    suite: Suite | None = None


@dataclass(frozen=True)
class Finder:
    """Where bases are looked for. `folder` is the manifest's: paths in a base start there.

    In the folder `kept`, if there is one, the documents of images from registries stay: see `Client.resolve`.
    """

    client: Client
    store: Store
    folder: Path
    architecture: str
    mirrors: Mapping[str, str]
    fetch: Callable[[str], bytes | None]
    kept: Path | None = None

    def find(self, base: Base) -> Found:
        """Ask for `base` and pin it; writes nothing. Raises `BaseError`, `StoreError`."""
        if base.kind == "registry":
            reference = Reference(base.registry, base.repository, base.tag or None, base.digest or None)
            return self._resolved(base, self.client.resolve(reference, self.architecture, self.kept))
        if base.kind == "oci":
            return self._local(base, layout.open_oci(self.folder / base.path, base.tag or None))
        if base.kind == "docker-archive":
            return self._local(base, layout.open_docker_archive(self.folder / base.path))
        if base.kind == "image":
            entry = self.store.find(f"{base.name}:{base.version}" if base.version else base.name)
            digest = entry.record.digest if entry.record else f"sha256:{files.sha256_file(entry.path)}"
            return self._image(base, entry.path, entry.version, digest)
        if base.kind == "sqsh":
            path = self.folder / base.path
            if not path.is_file():
                raise BaseError(f"the base {path} does not exist", "look at the manifest's line 'base:'")
            squashfs.check(path)
            return self._image(base, path, base.label, f"sha256:{files.sha256_file(path)}")
        suite = debootstrap.find(base.suite, self.mirrors, self.fetch)
        return Found(
            base, base.label, suite.digest, suite.digest, suite.epoch, 0, DEBOOTSTRAP_BYTES, suite=suite
        )

    def _local(self, base: Base, image: LocalImage) -> Found:
        return dataclasses.replace(self._resolved(base, image.resolve(self.architecture)), local=image)

    def _resolved(self, base: Base, resolved: Resolved) -> Found:
        download = resolved.download_size
        return Found(
            base,
            base.label,
            resolved.pinned,
            resolved.digest,
            _created(resolved.config),
            download,
            int(download * UNPACKED_PER_PACKED),
            resolved=resolved,
        )

    def _image(self, base: Base, path: Path, label: str, digest: str) -> Found:
        with path.open("rb") as stream:
            made = struct.unpack_from("<I", stream.read(squashfs.SUPERBLOCK_BYTES), MAKE_TIME_OFFSET)[0]
        epoch = max(made, EARLIEST)
        size = path.stat().st_size
        return Found(base, label, digest, digest, epoch, 0, int(size * UNPACKED_PER_PACKED), image=path)


def _created(config: Mapping[str, Any]) -> int:
    """When an image was made, in Unix seconds; the earliest useful time where its config doesn't say."""
    # Python 3.10 reads neither a Z nor nine digits of a second.
    match = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", str(config.get("created") or ""))
    moment = datetime.fromisoformat(match[0] + "+00:00").timestamp() if match else 0
    return max(int(moment), EARLIEST)


def unpacker(found: Found, runtime: str, unpack: str) -> str:
    """What makes the tree of a base: enroot's own unpacking loses some modes and capabilities.

    `unpack` is the site's wish for bases from registries, where the runtime is enroot: kiln or enroot.
    """
    if found.image:
        return runtime
    pulled = found.resolved is not None and found.local is None
    return unpack if pulled and runtime == Enroot.name else KILN


@dataclass(frozen=True)
class Maker:
    """What making a base needs: `env` is for tools of the host (proxies, CA), `blobs` for its layers.

    `unpack` is the site's: who unpacks bases from registries where the runtime is enroot.
    """

    runtime: Runtime
    client: Client
    blobs: Path
    unpack: str
    env: Mapping[str, str]
    output: Output
    progress: Progress

    def make(self, found: Found, container: str) -> None:
        """Make the container `container` from a base. Raises `BaseError`, `SpaceError`, `RuntimeFailure`."""
        tree = self.runtime.rootfs(container)
        if found.image:
            self.runtime.create(found.image, container)
        elif found.suite:
            debootstrap.make(found.suite, tree, self.env, self.output)
            imageformat.configure(tree, {}, found.base.text)
        elif found.resolved:
            by = unpacker(found, self.runtime.name, self.unpack)
            if isinstance(self.runtime, Enroot) and by == Enroot.name:
                self.runtime.import_base(found.resolved, container, self._pull, self.output, self.progress)
            else:
                self._unpack(found, found.resolved, tree)

    def _unpack(self, found: Found, resolved: Resolved, tree: Path) -> None:
        if found.local:
            layers = found.local.fetch(resolved, self.blobs, self.progress)
            unpack(layers, resolved, tree, self.env, self.progress)
        else:
            with self.client.delivery(resolved, self.blobs, self.progress) as delivery:
                unpack(delivery.paths, resolved, tree, self.env, self.progress, delivery)
        imageformat.configure(tree, resolved.config, resolved.uri)

    def _pull(self, resolved: Resolved, progress: Progress) -> Sequence[Path]:
        return self.client.pull(resolved, self.blobs, progress=progress)
