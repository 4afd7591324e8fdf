"""Blobs from a registry: gone on with after a cut, verified, several at once.

A pull has so many threads, each with one connection. A thread begins the first blob that nobody has
begun, and then fetches its ranges one after the other; where no such blob is left it
helps with the ranges of the others. A large blob's ranges are given to helpers once the source has
shown that it honours them (RFC 9110, section 14): until then, and where it doesn't, one thread
fetches the blob in one stream.

Owns the tries of one blob and the threads of a pull. How a request is made and authorised is the
client's; where blobs lie is `kiln.registry.blobs`'.
"""

from __future__ import annotations

import contextlib
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Condition, Event
from typing import Protocol

import requests

from kiln.errors import BaseError
from kiln.registry.blobs import Partial, WrongBytes, claimed, complete
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


class Altered(BaseError):
    """A source sent other bytes than those of `digest`, twice."""

    def __init__(self, message: str, hint: str, digest: str) -> None:
        super().__init__(message, hint)
        self.digest = digest


class Meter:
    """How many bytes of each blob are there; written by threads, read by one."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._told = 0

    def set(self, digest: str, size: int) -> None:
        self._sizes[digest] = size

    def total(self) -> int:
        """Never less than before, though wrong bytes are fetched anew."""
        self._told = max(self._told, sum(list(self._sizes.values())))
        return self._told


class Pull:
    """The blobs that come from `source` into the folder `blobs` together, and the threads that fetch them."""

    def __init__(self, source: Source, blobs: Path, notify: Notify) -> None:
        self.source, self.blobs, self.notify = source, blobs, notify
        self.stop, self.meter = Event(), Meter()
        # Guards what threads agree on, and is notified when there may be work for one that waits.
        self.changed = Condition()
        self._waiting, self._begun = deque[Download](), list[Download]()
        self._ended = queue.SimpleQueue[BaseException | None]()

    def run(
        self,
        wanted: Sequence[Descriptor],
        jobs: int,
        progress: Progress | None = None,
        arrived: Callable[[Descriptor], None] = lambda _: None,
    ) -> None:
        """Bring each blob over `jobs` connections, in their order; the first failure stops all and is raised.

        `arrived` is called, by any thread, with each blob that is there and verified.
        """
        work = list(dict.fromkeys(wanted))
        self._waiting.extend(Download(self, item, arrived) for item in work)
        total = sum(item.size for item in work)
        # Daemons: a thread that hangs on a dead line must not keep a stopped process alive.
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(jobs)]
        try:
            for thread in threads:
                thread.start()
            self._wait_for(jobs, lambda: progress(self.meter.total(), total) if progress else None)
        finally:
            self.end()
            deadline = time.monotonic() + STOP_SECONDS
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """Have all threads stop, wherever they are."""
        self.stop.set()
        with self.changed:
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Make `run` raise `error`, unless another was first."""
        self._ended.put(error)

    def _work(self) -> None:
        try:
            while task := self._task():
                task()
        except BaseException as error:
            self.fail(error)
        finally:
            self._ended.put(None)

    def _task(self) -> Callable[[], None] | None:
        """What a free thread does next; waits for it. None once there will be nothing more."""
        with self.changed:
            while not self.stop.is_set():
                if self._waiting:
                    self._begun.append(self._waiting.popleft())
                    return self._begun[-1].own
                for download in self._begun:
                    if download.wants_help():
                        return download.help
                if all(download.done for download in self._begun):
                    break
                self.changed.wait()
        return None

    def _wait_for(self, count: int, tick: Callable[[], None]) -> None:
        while count:
            try:
                error = self._ended.get(timeout=PROGRESS_SECONDS)
            except queue.Empty:
                tick()
                continue
            if error is None:
                count -= 1
            elif not isinstance(error, Stopped):
                raise error
        tick()


class Download:
    """One blob of a pull: one thread claims, opens and verifies it, and others help with its ranges."""

    def __init__(self, pull: Pull, wanted: Descriptor, arrived: Callable[[Descriptor], None]) -> None:
        self._pull, self._wanted, self._arrived, self.done = pull, wanted, arrived, False
        self._partial: Partial | None = None
        self._taken = set[int]()
        self._ranged: bool | None = None  # Whether the source gives ranges; None until it was seen.

    def own(self) -> None:
        """Bring the blob and verify it; wrong bytes are fetched once more."""
        pull, wanted = self._pull, self._wanted
        if not complete(pull.blobs, wanted):
            with claimed(pull.blobs, wanted, pull.notify) as path:
                if not complete(pull.blobs, wanted):
                    self._fetch_twice(path)
        pull.meter.set(wanted.digest, wanted.size)
        self._arrived(wanted)
        with pull.changed:
            self.done = True
            pull.changed.notify_all()

    def wants_help(self) -> bool:
        """Whether a range could be fetched by another thread."""
        return self._ranged is True and self._free() is not None

    def help(self) -> None:
        """Fetch ranges as long as some are free."""
        while taken := self._take(own=False):
            self._fetch(*taken, own=False)

    def _fetch_twice(self, path: Path) -> None:
        place, wanted = self._pull.source.place, self._wanted
        for last in (False, True):
            with Partial(path, wanted) as partial:
                try:
                    with self._shared(partial):
                        while taken := self._take(own=True):
                            self._fetch(*taken, own=True)
                    partial.finish()
                    return
                except WrongBytes as error:
                    partial.remove()
                    if last:
                        raise Altered(
                            f"{place} sends wrong bytes for {wanted.digest}: {error.message}",
                            "twice: a proxy or mirror changes what it passes on, or the image is damaged",
                            wanted.digest,
                        ) from None
                    self._pull.notify(f"{place}: wrong bytes for {wanted.short}; fetching it anew")

    @contextlib.contextmanager
    def _shared(self, partial: Partial) -> Iterator[None]:
        """Let others help. At the end none of them writes any more, so that the file may be closed."""
        changed = self._pull.changed
        with changed:
            self._partial = partial
        try:
            yield
        except WrongBytes:
            raise
        except BaseException as error:
            # Before helpers are waited for: one may hang on a dead line.
            self._pull.fail(error)
            raise
        finally:
            with changed:
                self._partial = None
                while self._taken:
                    changed.wait()

    def _free(self) -> int | None:
        unfinished = self._partial.unfinished() if self._partial else []
        return next((index for index in unfinished if index not in self._taken), None)

    def _take(self, own: bool) -> tuple[Partial, int] | None:
        """A range to fetch. The owner waits until all are there: a helper may fail and leave its own."""
        changed = self._pull.changed
        with changed:
            while not self._pull.stop.is_set():
                index = self._free() if own or self._ranged else None
                if self._partial and index is not None:
                    self._taken.add(index)
                    return self._partial, index
                if not own or not self._taken:
                    return None
                changed.wait()
        raise Stopped

    def _fetch(self, partial: Partial, index: int, own: bool) -> None:
        """Fetch until the range is there. A try that brought bytes doesn't count: some proxies cut often.

        A helper also ends where there are no ranges to be had, and leaves the rest to the owner.
        """
        source, wanted, failures = self._pull.source, self._wanted, 0
        try:
            while True:
                piece = SMALL_PIECE if failures else PIECE
                gained, trouble = self._receive(partial, index, own, piece)
                if index not in partial.unfinished() or not (own or self._ranged):
                    return
                failures = 1 if gained else failures + 1
                if failures >= TRIES:
                    raise source.unreachable(f"{wanted.digest}: {trouble}")
                cut = f"{wanted.short} cut at {partial.size} of {wanted.size} bytes ({trouble})"
                source.pause(failures, cut, self._pull.stop)
        finally:
            with self._pull.changed:
                self._taken.discard(index)
                self._pull.changed.notify_all()

    def _receive(self, partial: Partial, index: int, own: bool, piece: int) -> tuple[int, str]:
        """One request for what is missing of a range: how many bytes it brought, and what ended it."""
        pull, wanted, gained = self._pull, self._wanted, 0
        offset, end = partial.gap(index)
        # Anything but the plain bytes would have another digest.
        headers = {"Accept-Encoding": "identity"}
        asked = self._ranged is not False and (offset, end) != (0, wanted.size)
        if asked:
            headers["Range"] = f"bytes={offset}-{end - 1}"
        with pull.source.open_blob(wanted.digest, headers, pull.stop) as response:
            if asked:
                self._learn(_begins_at(response, wanted.size) == offset)
            if own and response.status_code == 200:
                # All of it, whatever was asked for; also more than it should be, which is to be noticed.
                offset, end = 0, sys.maxsize
            elif _begins_at(response, wanted.size) != offset:
                return 0, f"{response.status_code}, not the bytes asked for"
            try:
                for chunk in bounded(response, None, pull.stop, piece):
                    part = chunk[: end - offset]
                    if not part:
                        break
                    gained += partial.write(offset, part)
                    offset += len(part)
                    pull.meter.set(wanted.digest, partial.size)
            except Cut as error:
                return gained, str(error)
        return gained, "the answer ended early"

    def _learn(self, ranged: bool) -> None:
        with self._pull.changed:
            # An answer without the range weighs more than others with it: one stream is always right.
            self._ranged = ranged and self._ranged is not False
            self._pull.changed.notify_all()


def _begins_at(response: requests.Response, size: int) -> int | None:
    """Where a part (206) of a blob of `size` bytes begins, by its Content-Range (RFC 9110, section 14.4)."""
    value = response.headers.get("Content-Range", "") if response.status_code == 206 else ""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", value, re.ASCII | re.IGNORECASE)
    return int(match[1]) if match and match[2] in (str(size), "*") else None
