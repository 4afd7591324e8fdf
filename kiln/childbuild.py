"""One build as a child process of this program: its events, its log, how it ended.

A build uses what a process has once: its signals, its folders, the namespace that it runs in. So several at a
time are several processes, `kiln build NAME --json` each, whose JSON lines are read here. Owns the command's
beginning, the log of an image, and the reading of its events.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kiln import eventtext, files
from kiln.run import Process, started

# A build that is told to end has the trees of its workspace to remove: 70,000 files on a slow disk.
GRACE_SECONDS = 60.0
PIECE = 1 << 16
END_SECONDS = 10.0

Hear = Callable[[Mapping[str, Any]], None]


class ChildBuild:
    """A build under way. `result` and `error` are the data of its events of these names, {} for none."""

    def __init__(self, name: str, process: Process, log: files.Log, hear: Hear) -> None:
        self.name, self._process, self._log, self._hear = name, process, log, hear
        self.began = time.monotonic()
        self.result: Mapping[str, Any] = {}
        self.error: Mapping[str, Any] = {}
        self._rest = b""
        os.set_blocking(self.fileno(), False)

    def fileno(self) -> int:
        assert self._process.stdout  # noqa: S101 # as `started` makes it
        return self._process.stdout.fileno()

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 1)

    def read(self) -> bool:
        """Take in what there is to read; False at its end."""
        try:
            data = os.read(self.fileno(), PIECE)
        except BlockingIOError:
            return True
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._line(line)
        return bool(data)

    def _line(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            return  # of a program that is no Kiln, or was cut off in the middle
        if event["event"] == "result":
            self.result = event
        elif event["event"] == "error":
            self.error = event
        for text in eventtext.lines(event):
            self._log.write(f"{text}\n")
        self._log.flush()
        self._hear(event)

    def terminate(self) -> None:
        """Tell it to end; `wait` sees that it does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self) -> int:
        """Its exit code, once nothing of it is left to read."""
        return self._process.wait(END_SECONDS)


@contextlib.contextmanager
def opened(
    name: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path, hear: Hear
) -> Iterator[ChildBuild]:
    """Start `kiln ARGUMENTS` for the image `name`; it is ended with the block."""
    # What the caller has it has: it is this very program, in the same place.
    argv = [sys.executable, "-m", "kiln", *arguments]
    with (
        files.Log(log) as text,
        log.open("ab") as errors,
        started(argv, what=f"build {name}", env=environ, errors=errors, grace=GRACE_SECONDS) as process,
    ):
        yield ChildBuild(name, process, text, hear)
