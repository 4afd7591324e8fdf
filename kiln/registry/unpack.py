"""Layers to a tree: the child that does it, and what it tells its parent.

    python -m kiln.registry.unpack [--limit-bytes N] [--limit-entries N] [--arrived FD]
        TREE BLOB DIFF_ID [BLOB DIFF_ID]…

It is started as root in a user namespace of its own, with TREE writable, and changes its root to
TREE before it writes. With --arrived, a blob is read once a line of FD has said its digest; where FD
ends before, so does the child, with exit code 1 and no word. On stdout it prints JSON lines:
`{"progress": [done, all]}` in compressed bytes (all: of the blobs begun), `{"note": text}`, and for a
failure, last, `{"id", "message", "hint"}` (exit code: the kind's). Starts no process. Owner and group
are left as they come: everything in the namespace is 0:0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kiln.errors import BaseError, EnvironmentMissing, KilnError, RuntimeFailure, SpaceError, catalogue
from kiln.files import translated
from kiln.registry.inflate import Budget, Damaged, Inflated
from kiln.registry.oci import DAMAGED
from kiln.registry.tarstream import TarStream
from kiln.registry.tree import Tree, shown

# An NGC image is 25 GB and 300,000 entries.
LIMIT_BYTES = 1 << 40
LIMIT_ENTRIES = 20_000_000
PROGRESS_SECONDS = 0.2

Say = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class Layer:
    """A layer's blob, and the digest that its uncompressed bytes must have."""

    path: Path
    diff_id: str


@dataclass(frozen=True)
class Limits:
    """How far an image may unfold before it is taken for an attack."""

    size: int = LIMIT_BYTES
    entries: int = LIMIT_ENTRIES


def unpack(layers: Sequence[Layer], root: Path, limits: Limits = Limits(), say: Say | None = None) -> None:
    """Put `layers`, lowest first, into the empty folder `root`. Raises `BaseError` or `SpaceError`.

    Changes the process's umask for the time: no other thread may make files meanwhile.
    """
    with opened(layers, None) as streams:
        _Unpacking(os.fsencode(root), layers, limits, say or _silent).run(streams)


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    pairs = arguments.layers
    layers = [Layer(Path(blob), diff_id) for blob, diff_id in zip(pairs[::2], pairs[1::2], strict=True)]
    limits = Limits(arguments.limit_bytes, arguments.limit_entries)
    try:
        with opened(layers, arguments.arrived) as streams:
            _enter(arguments.tree)
            _Unpacking(b"", layers, limits, _print).run(streams)
    except _NoMore:
        return 1
    except KilnError as error:
        _print({"id": error.id, "message": error.message, "hint": error.hint})
        return error.exit_code
    return 0


def failure(line: str) -> KilnError | None:
    """The error that a line of the child's output tells, for its parent; None for any other line."""
    try:
        said = json.loads(line)
        kinds = {kind.id: kind for kind in catalogue()}
        return kinds[said["id"]](str(said["message"]), str(said["hint"]))
    except (ValueError, KeyError, TypeError):
        return None


class _NoMore(Exception):
    """The blobs that are missing will not come."""


@contextlib.contextmanager
def opened(layers: Sequence[Layer], arrived: int | None) -> Iterator[Iterable[IO[bytes]]]:
    """All blobs, opened while they can still be reached; with `arrived`, each when that has told of it."""
    with contextlib.ExitStack() as stack:
        if arrived is None:
            yield [stack.enter_context(_opened(layer.path, os.fspath(layer.path))) for layer in layers]
            return
        # A pull has one folder for all.
        folder = os.open(layers[0].path.parent, os.O_PATH)
        stack.callback(os.close, folder)
        yield _arriving(layers, folder, stack.enter_context(os.fdopen(arrived, encoding="ascii")))


def _arriving(layers: Sequence[Layer], folder: int, told: IO[str]) -> Iterator[IO[bytes]]:
    known: set[str] = set()
    for layer in layers:
        while f"sha256:{layer.path.name}" not in known:
            line = told.readline()
            if not line:
                raise _NoMore
            known.add(line.strip())
        with _opened(layer.path, layer.path.name, folder) as stream:
            yield stream


def _opened(path: Path, name: str, folder: int | None = None) -> IO[bytes]:
    try:
        return open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb", buffering=0)
    except OSError as error:
        hint = "run it again: it will be fetched"
        raise BaseError(f"cannot read {path}: {error.strerror}", hint) from error


def _enter(tree: Path) -> None:
    """Make `tree` the root. From here on no module is loaded: it would come out of the image."""
    try:
        os.chroot(tree)
        os.chdir("/")
    except OSError as error:
        raise EnvironmentMissing(
            f"cannot change the root to {tree}: {error.strerror}", "run: kiln doctor (user namespaces)"
        ) from error
    sys.path.clear()
    sys.path_importer_cache.clear()


class _Unpacking:
    """One image's layers on their way into one tree."""

    def __init__(self, root: bytes, layers: Sequence[Layer], limits: Limits, say: Say) -> None:
        self._root, self._layers, self._limits, self._say = root, layers, limits, say
        self._budget, self._entries = Budget(limits.size), 0
        self._before, self._total, self._told = 0, 0, 0.0

    def run(self, streams: Iterable[IO[bytes]]) -> None:
        with contextlib.suppress(OSError):
            # A default ACL on the folder would change the modes of all that is made in it.
            os.removexattr(self._root or b"/", "system.posix_acl_default")
        umask = os.umask(0)
        try:
            for number, (layer, stream) in enumerate(zip(self._layers, streams, strict=True), 1):
                self._layer(number, layer, stream)
        finally:
            os.umask(umask)

    def _layer(self, number: int, layer: Layer, stream: IO[bytes]) -> None:
        self._total += os.fstat(stream.fileno()).st_size
        name = f"layer {number} of {len(self._layers)} (sha256:{layer.path.name})"
        inflated = Inflated(stream, self._budget)
        try:
            tree = Tree(self._root, has_lower=number > 1, budget=self._budget, notify=self._note)
            archive = TarStream(lambda: self._next(inflated))
            self._entries_of(archive, tree, name)
            inflated.drain()
            tree.finish()
        except (Damaged, OSError) as error:
            raise self._explained(name, error) from error
        finally:
            inflated.close()
        self._before += inflated.compressed
        self._progress(self._before, at_once=True)
        if inflated.digest != layer.diff_id:
            raise BaseError(
                f"{name} unpacks to {inflated.digest}, and the image's config says {layer.diff_id}",
                "the image is damaged where it comes from: take another tag, or ask its maker",
            )

    def _entries_of(self, archive: TarStream, tree: Tree, name: str) -> None:
        for entry in archive:
            self._entries += 1
            if self._entries > self._limits.entries:
                raise Damaged(f"holds more than the limit of {self._limits.entries} entries")
            try:
                tree.add(entry, archive)
            except (Damaged, OSError) as error:
                raise self._explained(f"{name}, entry {shown(entry.name)}", error) from error

    def _explained(self, place: str, error: Damaged | OSError) -> KilnError:
        if isinstance(error, Damaged):
            return BaseError(f"{place}: {error}", DAMAGED)
        try:
            with translated(Path(os.fsdecode(self._root or b"/"))):
                raise error
        except SpaceError as space:
            return SpaceError(f"no space left to unpack {place}", space.hint)
        except KilnError:
            return RuntimeFailure(f"cannot unpack {place}: {error.strerror or error}", "run: kiln doctor")

    def _next(self, inflated: Inflated) -> bytes:
        self._progress(self._before + inflated.compressed)
        return inflated.next()

    def _progress(self, done: int, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._told > PROGRESS_SECONDS:
            self._told = now
            self._say({"progress": [done, self._total]})

    def _note(self, text: str) -> None:
        self._say({"note": text})


def _print(said: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def _silent(said: dict[str, object]) -> None:
    """Tell nobody."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kiln.registry.unpack", description="Put layers into a tree.")
    parser.add_argument("--limit-bytes", type=int, default=LIMIT_BYTES)
    parser.add_argument("--limit-entries", type=int, default=LIMIT_ENTRIES)
    parser.add_argument("--arrived", type=int, metavar="FD")
    parser.add_argument("tree", type=Path)
    parser.add_argument("layers", nargs="+", metavar="BLOB DIFF_ID")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
