"""Blobs from a registry: gone on with after a cut, verified, several at once.

Owns the tries of one blob and the threads of a pull. How a request is made and authorised is the
client's; where blobs lie is `kiln.registry.blobs`'.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol

import requests

from kiln.errors import BaseError
from kiln.registry.blobs import Partial, WrongBytes, blob_path, claimed, complete
from kiln.registry.oci import Descriptor
from kiln.registry.transport import PIECE, TRIES, Cut, Notify, Stopped, bounded

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

PROGRESS_SECONDS = 0.1
# Threads notice a stop at their next piece of data; one that waits for a dead line is left behind.
STOP_SECONDS = 0.3
# A piece that is cut is lost: after a cut they are small, or a line that is often cut brings nothing.
SMALL_PIECE = 1 << 14


class Source(Protocol):
    """Where blobs come from."""

    place: str

    def open_blob(
        self, digest: str, headers: Mapping[str, str], stop: Event
    ) -> contextlib.AbstractContextManager[requests.Response]: ...

    def pause(self, attempt: int, trouble: str, stop: Event) -> None: ...

    def unreachable(self, trouble: str) -> BaseError: ...


class Meter:
    """How many bytes of each blob are there; written by threads, read by one."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def set(self, digest: str, size: int) -> None:
        self._sizes[digest] = size

    def total(self) -> int:
        return sum(list(self._sizes.values()))


@dataclass(frozen=True)
class Fetcher:
    """Brings blobs from `source` into the folder `blobs`."""

    source: Source
    blobs: Path
    notify: Notify

    def fetch(self, wanted: Descriptor, stop: Event, meter: Meter) -> Path:
        """Bring one blob and verify it; wrong bytes are fetched once more. Returns its path."""
        if not complete(self.blobs, wanted):
            with claimed(self.blobs, wanted, self.notify) as path:
                if not complete(self.blobs, wanted):
                    self._fetch_twice(wanted, path, stop, meter)
        meter.set(wanted.digest, wanted.size)
        return blob_path(self.blobs, wanted.digest)

    def _fetch_twice(self, wanted: Descriptor, path: Path, stop: Event, meter: Meter) -> None:
        for last in (False, True):
            with Partial(path, wanted) as partial:
                try:
                    self._go_on(wanted, partial, stop, meter)
                    partial.finish()
                    return
                except WrongBytes as error:
                    partial.remove()
                    if last:
                        raise BaseError(
                            f"{self.source.place} sends wrong bytes for {wanted.digest}: {error.message}",
                            "twice: a proxy or mirror changes what it passes on, or the image is damaged",
                        ) from None
                    self.notify(f"{self.source.place}: wrong bytes for {wanted.short}; fetching it anew")

    def _go_on(self, wanted: Descriptor, partial: Partial, stop: Event, meter: Meter) -> None:
        """Fetch until the size is reached. A try that brought bytes doesn't count: some proxies cut often."""
        failures = 0
        while partial.size < wanted.size:
            before, trouble = partial.size, "the answer ended early"
            try:
                self._stream(wanted, partial, stop, meter, SMALL_PIECE if failures else PIECE)
            except Cut as error:
                trouble = str(error)
            if partial.size >= wanted.size:
                return
            failures = 1 if partial.size > before else failures + 1
            if failures >= TRIES:
                raise self.source.unreachable(f"{wanted.digest}: {trouble}")
            cut = f"{wanted.short} cut at {partial.size} of {wanted.size} bytes ({trouble})"
            self.source.pause(failures, cut, stop)

    def _stream(self, wanted: Descriptor, partial: Partial, stop: Event, meter: Meter, piece: int) -> None:
        # Anything but the plain bytes would have another digest.
        headers = {"Accept-Encoding": "identity"}
        if partial.size:
            headers["Range"] = f"bytes={partial.size}-"
        with self.source.open_blob(wanted.digest, headers, stop) as response:
            if partial.size and not _continues(response, partial.size):
                partial.restart()
            if response.status_code == 416:
                return
            for chunk in bounded(response, None, stop, piece):
                partial.write(chunk)
                meter.set(wanted.digest, partial.size)


def _continues(response: requests.Response, size: int) -> bool:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and match is not None and int(match[1]) == size


def fetch_all(
    fetch: Callable[[Descriptor, Event, Meter], Path],
    wanted: Sequence[Descriptor],
    jobs: int,
    progress: Progress | None,
) -> None:
    """Run `fetch` for each blob, the largest first; the first failure stops the others and is raised."""
    stop, meter, work = Event(), Meter(), list(dict.fromkeys(wanted))
    total, ended = sum(item.size for item in work), queue.SimpleQueue[BaseException | None]()
    todo = queue.SimpleQueue[Descriptor]()
    for item in sorted(work, key=lambda item: -item.size):
        todo.put(item)

    def worker() -> None:
        try:
            while not stop.is_set():
                fetch(todo.get_nowait(), stop, meter)
        except queue.Empty:
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    # Daemons: a thread that hangs on a dead line must not keep a stopped process alive.
    threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(jobs, len(work)))]
    try:
        for thread in threads:
            thread.start()
        _wait_for(len(threads), ended, lambda: progress(meter.total(), total) if progress else None)
    finally:
        stop.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))


def _wait_for(count: int, ended: queue.SimpleQueue[BaseException | None], tick: Callable[[], None]) -> None:
    while count:
        try:
            error = ended.get(timeout=PROGRESS_SECONDS)
        except queue.Empty:
            tick()
            continue
        if error is not None and not isinstance(error, Stopped):
            raise error
        count -= 1
    tick()
