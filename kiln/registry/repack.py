"""A layer's blob as zstd of its uncompressed bytes, whatever it was packed with.

Owns the compressor. Reads and writes piece by piece; inflating, digesting and compressing run without
Python's lock, so that several layers use several cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Event
from typing import IO

from kiln.registry.inflate import Budget, Damaged, Inflated
from kiln.registry.transport import Stopped
from kiln.registry.unpack import LIMIT_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# What is written is read once or twice: more would cost more than it saves.
LEVEL = 1


def repack(
    blob: IO[bytes],
    diff_id: str,
    target: IO[bytes],
    stop: Event,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write zstd of what `blob` unpacks to, which must have the digest `diff_id`, into `target`.

    `on_bytes` is told how many bytes of `blob` are done. Raises `Damaged`, or what reading and writing
    raised; `Stopped` once `stop` is set.
    """
    packer = zstd.ZstdCompressor(level=LEVEL)
    inflated = Inflated(blob, Budget(LIMIT_BYTES))
    try:
        while piece := inflated.next():
            if stop.is_set():
                raise Stopped
            target.write(packer.compress(piece))
            if on_bytes:
                on_bytes(inflated.compressed)
        target.write(packer.flush())
    finally:
        inflated.close()
    if inflated.digest != diff_id:
        raise Damaged(f"unpacks to {inflated.digest}, and the image's config says {diff_id}")
