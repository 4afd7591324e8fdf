"""enroot's layer cache, filled with what Kiln has downloaded: `enroot import` then downloads nothing.

    ENROOT_CACHE_PATH/<sha256 hex of a blob>    zstd of the layer's uncompressed tar, or of the config

Its mode is 0640; it is there as a whole or not at all. Format: `docker::_download_extract` in enroot's
src/docker.sh, the same from 3.4.0 to 4.1.2. enroot itself never removes an entry; nor does this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import IO

from kiln import files
from kiln.errors import BaseError
from kiln.registry.inflate import Damaged
from kiln.registry.oci import DAMAGED, Descriptor, Resolved
from kiln.registry.repack import repack
from kiln.runtime.contract import Fetch, Progress

MODE = 0o640
PROGRESS_SECONDS = 0.1


def fill(resolved: Resolved, fetch: Fetch, cache: Path, progress: Progress) -> None:
    """Put an image's config and layers into the folder `cache`; what is there is neither fetched nor made.

    `progress` is told the bytes fetched, then the bytes packed anew. Raises `BaseError`, `SpaceError`,
    `StoreError`.
    """
    with files.translated(cache):
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    _add_config(resolved, cache)
    layers = dict(zip(resolved.layers, resolved.diff_ids, strict=True))
    missing = {layer: diff_id for layer, diff_id in layers.items() if not (cache / layer.hex).exists()}
    if not missing:
        return
    wanted = dataclasses.replace(resolved, layers=tuple(missing), diff_ids=tuple(missing.values()))
    blobs = dict(zip(wanted.layers, fetch(wanted, progress), strict=True))

    stop, done, total = Event(), dict[str, int](), sum(layer.size for layer in missing)

    def add(layer: Descriptor) -> None:
        with _entry(cache / layer.hex) as target, blobs[layer].open("rb", buffering=0) as blob:
            try:
                repack(blob, missing[layer], target, stop, lambda size: done.update({layer.digest: size}))
            except Damaged as error:
                raise BaseError(f"the layer {layer.digest}: {error}", DAMAGED) from error
        done[layer.digest] = layer.size

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        waited = {pool.submit(add, layer) for layer in missing}
        try:
            while waited:
                ended, waited = wait(waited, PROGRESS_SECONDS, FIRST_COMPLETED)
                for each in ended:
                    each.result()
                progress(sum(list(done.values())), total)
        finally:
            stop.set()


def _add_config(resolved: Resolved, cache: Path) -> None:
    path = cache / resolved.config_digest.removeprefix("sha256:")
    if path.exists():
        return
    with _entry(path) as target:
        repack(io.BytesIO(resolved.raw_config), resolved.config_digest, target, Event())


@contextlib.contextmanager
def _entry(path: Path) -> Iterator[IO[bytes]]:
    """A new file that becomes the entry at the end of the block, and is gone where that fails."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(5)}")
    try:
        with files.translated(path):
            with temporary.open("xb", buffering=0) as target:
                # The caller's umask must not decide who can import.
                os.fchmod(target.fileno(), MODE)
                yield target
                # A rename can survive a power cut that the bytes don't, and the name is trusted later.
                os.fsync(target.fileno())
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
