"""A layer's uncompressed bytes, made ahead by a thread that also takes their digest.

Owns the codecs (told apart by their first bytes, for media types lie) and the thread. Both codecs
and sha256 run without Python's lock, so that a second core writes files meanwhile.

zstd: Python has it from 3.14 on, before that from its backport (docs/decisions/0004-zstd.md).
"""

from __future__ import annotations

import hashlib
import queue
import sys
import threading
from collections.abc import Callable
from typing import IO, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

try:
    from isal import isal_zlib as deflate
except ImportError:
    # Four times slower, but there wherever Python is.
    import zlib as deflate  # type: ignore[no-redef]

READ_SIZE = 1 << 18
CHUNK = 1 << 20
AHEAD = 8
GZIP_MAGIC = b"\x1f\x8b"
# The magic of a frame, and of a skippable one, which may come first.
ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes((n, 0x2A, 0x4D, 0x18)) for n in range(0x50, 0x60)))


class Damaged(Exception):
    """What is wrong with a layer; becomes a `BaseError` that names the layer and the entry."""


class Decoder(Protocol):
    """One gzip member or one zstd frame, as `compression.zstd` and isal have it."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Budget:
    """How many bytes may still be unpacked; shared by all layers of an image."""

    def __init__(self, limit: int) -> None:
        self._limit, self._left = limit, limit

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise Damaged(f"unpacks to more than the limit of {self._limit} bytes")


class Inflated:
    """The uncompressed bytes of `stream`, piece by piece; `digest` is known after the last one."""

    def __init__(self, stream: IO[bytes], budget: Budget) -> None:
        self._stream, self._budget, self._hash = stream, budget, hashlib.sha256()
        self._ready: queue.Queue[bytes | BaseException] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._ended: bytes | BaseException | None = None
        self.compressed = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def next(self) -> bytes:
        """The next piece, b"" at the end and after it. Raises `Damaged`, or what reading raised."""
        if self._ended is None:
            piece = self._ready.get()
            if piece and not isinstance(piece, BaseException):
                return piece
            self._ended = piece
        if isinstance(self._ended, BaseException):
            raise self._ended
        return b""

    def drain(self) -> None:
        """Read to the end: what follows a tar's end is part of the digest, too."""
        while self.next():
            pass

    def close(self) -> None:
        """End the thread, wherever it is."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self) -> None:
        try:
            self._inflate()
            self._ready.put(b"")
        except BaseException as error:
            self._ready.put(error)

    def _inflate(self) -> None:
        data = self._read()
        make = decoder_for(data)
        if make is None:
            while data and not self._closed.is_set():
                self._emit(data)
                data = self._read()
            return
        while data and not self._closed.is_set():
            data = self._one(make(), data)
            # Some writers fill their last block up with zeros.
            if data and not data.strip(b"\0"):
                data = b""

    def _one(self, decoder: Decoder, data: bytes) -> bytes:
        """Decode one member or frame; returns the beginning of the next."""
        while not self._closed.is_set():
            try:
                piece = decoder.decompress(data, CHUNK)
            except (deflate.error, zstd.ZstdError, ValueError, EOFError) as error:  # type: ignore[misc]
                raise Damaged(f"its compressed data is damaged ({error})") from error
            if piece:
                self._emit(piece)
            if decoder.eof:
                return decoder.unused_data or self._read()
            data = self._read() if decoder.needs_input else b""
            if decoder.needs_input and not data:
                raise Damaged("it ends in the middle of its compressed data")
        return b""

    def _read(self) -> bytes:
        data = self._stream.read(READ_SIZE)
        self.compressed += len(data)
        return data

    def _emit(self, piece: bytes) -> None:
        self._budget.spend(len(piece))
        self._hash.update(piece)
        self._ready.put(piece)


class GzipMember:
    """zlib's interface, which isal has too, made like that of zstd."""

    def __init__(self) -> None:
        self._decoder = deflate.decompressobj(deflate.MAX_WBITS | 16)
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        decoder = self._decoder
        piece = decoder.decompress(decoder.unconsumed_tail + data, max(0, max_length))
        self.eof, self.unused_data = decoder.eof, decoder.unused_data
        # A full piece may have more behind it, even where all input is taken.
        self.needs_input = not decoder.unconsumed_tail and len(piece) < max_length
        return piece


def decoder_for(head: bytes) -> Callable[[], Decoder] | None:
    """What decodes a stream that begins so; None for a plain one."""
    if head.startswith(GZIP_MAGIC):
        return GzipMember
    if head.startswith(ZSTD_MAGICS):
        return zstd.ZstdDecompressor
    return None
