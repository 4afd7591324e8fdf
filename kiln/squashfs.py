"""squashfs files: how they are written, and whether one is whole.

Owns mksquashfs's options and the superblock's layout. Runs nothing itself.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from kiln.errors import ExportError

MAGIC = b"hsqs"
SUPERBLOCK_BYTES = 96
BYTES_USED_OFFSET = 40
"""https://dr-emann.github.io/squashfs/squashfs.html, 'The Superblock': bytes_used, u64, little endian."""

DEFAULT_OPTIONS = ("-comp", "zstd", "-Xcompression-level", "3")


def arguments(options: tuple[str, ...]) -> list[str]:
    """mksquashfs's arguments after source and target, without exclusions."""
    return [
        "-all-root",
        # Onto an existing file mksquashfs appends.
        "-noappend",
        "-no-progress",
        # Without it an unreadable file becomes an empty one, and the exit code stays 0.
        "-exit-on-error",
        *(options or DEFAULT_OPTIONS),
    ]


def check(path: Path) -> int:
    """The bytes that the file system in `path` uses.

    Raises `ExportError` for a file that is empty, truncated, or no squashfs; damage in the middle
    shows only in its digest.
    """
    try:
        with path.open("rb") as stream:
            superblock = stream.read(SUPERBLOCK_BYTES)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error
    if size == 0:
        raise ExportError(f"{path} is empty", "build or copy it again")
    if len(superblock) < SUPERBLOCK_BYTES or superblock[:4] != MAGIC:
        raise ExportError(f"{path} is not a squashfs file", "see: file " + str(path))
    used: int = struct.unpack_from("<Q", superblock, BYTES_USED_OFFSET)[0]
    if used > size:
        raise ExportError(f"{path} is cut short: {size:,} of {used:,} bytes", "build or copy it again")
    return used
