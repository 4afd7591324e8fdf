"""Several images at once, each by a process of its own, every one after those that it is built on.

Owns who may start when, what a failure blocks, and how all of it ends. What one of them does is
`kiln.childbuild`'s, who is built on whom `kiln.graph`'s, what a person sees `kiln.board`'s.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kiln import childbuild, layerrun
from kiln.board import Board
from kiln.childbuild import ChildBuild
from kiln.context import Context
from kiln.ended import BLOCKED, BUILT, FAILED, REUSED, STOPPED, Ended, error_data
from kiln.errors import KilnError, ManifestError
from kiln.graph import Graph

TICK_SECONDS = 0.5
LAST_LINES = 15

Arguments = Callable[[str], "Sequence[str] | None"]
"""The arguments of `kiln` for an image; None where nothing is to be done after all."""


def sound(graph: Graph, names: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], list[Ended]]:
    """What can be built of `names`, in order, with what each has to wait for; and what can't.

    That is what has a mistake in its manifest, and what is built on such a one.
    """
    whole, broken = [], []
    for name in names:
        try:
            graph.ancestors(name)
            whole.append(name)
        except ManifestError as error:
            broken.append(Ended(name, FAILED, error=error_data(error)))
    return graph.needs(whole), broken


class Fleet:
    """Builds of images under way. `needs` has the images in order, each with those it waits for.

    `after` gets all that has ended whenever one does.
    """

    def __init__(
        self,
        context: Context,
        needs: Mapping[str, Sequence[str]],
        arguments: Arguments,
        board: Board,
        jobs: int,
        ended: Sequence[Ended] = (),
        after: Callable[[Sequence[Ended]], None] = lambda _: None,
    ) -> None:
        self._context, self._arguments, self._board, self._jobs = context, arguments, board, jobs
        self._after = after
        self._waiting = dict(needs)
        self._running: dict[str, ChildBuild] = {}
        self._own: dict[str, contextlib.ExitStack] = {}
        self.ended = {each.name: each for each in ended}
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
        self.logs = layerrun.log_folder(context.site.logs, f"images-{now}-{os.getpid()}")

    def run(self) -> list[Ended]:
        """Build them all; returns how each ended, in the order in which that was.

        Where it is interrupted, all that runs is told to end and waited for, and counts as stopped.
        """
        self._board.begin([*self._waiting], self._jobs, list(self.ended.values()))
        with contextlib.ExitStack() as ending, selectors.DefaultSelector() as selector:
            ending.callback(self._board.close)
            try:
                self._start(ending, selector)
                while self._running:
                    for key, _ in selector.select(TICK_SECONDS):
                        self._read(key.data, selector)
                    self._start(ending, selector)
            except BaseException:
                self._stop()
                raise
        return list(self.ended.values())

    def _start(self, ending: contextlib.ExitStack, selector: selectors.BaseSelector) -> None:
        """Start what may start now, and say what never will."""
        for name, needs in list(self._waiting.items()):
            lost = next((each for each in needs if each in self.ended and not self.ended[each].fine), "")
            if lost:
                del self._waiting[name]
                self._end(Ended(name, BLOCKED, by=self.ended[lost].by or lost))
            elif all(each in self.ended for each in needs) and len(self._running) < self._jobs:
                del self._waiting[name]
                self._begin(name, ending, selector)

    def _begin(self, name: str, ending: contextlib.ExitStack, selector: selectors.BaseSelector) -> None:
        try:
            arguments = self._arguments(name)
        except KilnError as error:
            self._end(Ended(name, FAILED, error=error_data(error)))
            return
        if arguments is None:
            self._end(Ended(name, REUSED, why="nothing of it is due any more"))
            return
        log = self.logs / f"{name}.log"
        environ = {**self._context.environ, "KILN_ROOT": str(self._context.root)}

        def hear(event: Mapping[str, Any]) -> None:
            self._board.event(name, event)

        self._board.started(name, log)
        own = ending.enter_context(contextlib.ExitStack())
        child = own.enter_context(childbuild.opened(name, arguments, environ, log, hear))
        self._running[name], self._own[name] = child, own
        selector.register(child, selectors.EVENT_READ, child)

    def _read(self, child: ChildBuild, selector: selectors.BaseSelector) -> None:
        if child.read():
            return
        selector.unregister(child)
        del self._running[child.name]
        ended = outcome(child, self.logs / f"{child.name}.log")
        self._own.pop(child.name).close()
        self._end(ended)

    def _end(self, ended: Ended) -> None:
        self.ended[ended.name] = ended
        self._board.ended(ended)
        self._after(list(self.ended.values()))

    def _stop(self) -> None:
        """Tell all to end before the first of them is waited for."""
        for child in self._running.values():
            child.terminate()
        for name, child in self._running.items():
            log = self.logs / f"{name}.log"
            self.ended[name] = Ended(name, STOPPED, seconds=child.seconds, log=log)
        for name in self._waiting:
            self.ended[name] = Ended(name, STOPPED)


def outcome(child: ChildBuild, log: Path) -> Ended:
    """How a build ended that has closed its output."""
    code = child.wait()
    result, seconds = child.result, child.seconds
    version = str(result.get("version", ""))
    if code == 0 and "results" in result:
        return Ended(child.name, REUSED, version, seconds, log=log, why="its smoke hooks ran again")
    if code == 0 and result:
        same = bool(result.get("up_to_date") or result.get("unchanged"))
        why = "it came out the same" if result.get("unchanged") else ""
        return Ended(child.name, REUSED if same else BUILT, version, seconds, log=log, why=why)
    error = {key: value for key, value in child.error.items() if key != "event"}
    if not error:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        error = {"id": "error", "exit_code": code, "message": f"the build of {child.name} ended {how}"}
        error["details"] = [line.rstrip() for line in _tail(log)]
    return Ended(child.name, FAILED, version, seconds, error=error, log=log)


def _tail(log: Path) -> list[str]:
    with log.open(errors="replace") as stream:
        return stream.readlines()[-LAST_LINES:]
