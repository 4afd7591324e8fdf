"""What is seen of several builds at once: one view of all on a terminal, plain lines, or JSON lines.

Three renderings of the same events, as `kiln.ui` has them of one build; which one it is follows from that.
Owns no state of a build but for what is shown of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.text import Text

from kiln.ended import BLOCKED, BUILT, FAILED, REUSED, STOPPED, Ended
from kiln.ui import JsonUi, LiveUi, PlainUi, Ui, size_text

FRAMES_PER_SECOND = 4
STYLES = {BUILT: "green", REUSED: "dim", FAILED: "bold red", BLOCKED: "yellow", STOPPED: "yellow"}
MARKS = {BUILT: "✓", REUSED: "=", FAILED: "✗", BLOCKED: "-", STOPPED: "-"}


class Board:
    """The events. Every rendering overrides those that it shows."""

    def begin(self, names: Sequence[str], jobs: int, ended: Sequence[Ended]) -> None: ...

    def started(self, name: str, log: Path) -> None: ...

    def event(self, name: str, event: Mapping[str, Any]) -> None: ...

    def ended(self, ended: Ended) -> None: ...

    def close(self) -> None: ...


class JsonBoard(Board):
    """The events of each build with its `image`, and when it starts and ends."""

    def __init__(self, ui: JsonUi) -> None:
        self._ui = ui

    def begin(self, names: Sequence[str], jobs: int, ended: Sequence[Ended]) -> None:
        self._ui.emit("images", images=list(names), jobs=jobs)
        for each in ended:
            self.ended(each)

    def started(self, name: str, log: Path) -> None:
        self._ui.emit("image-started", image=name, log=str(log))

    def event(self, name: str, event: Mapping[str, Any]) -> None:
        self._ui.emit(str(event["event"]), **{"image": name, **_without(event, "event", "image")})

    def ended(self, ended: Ended) -> None:
        self._ui.emit("image-ended", image=ended.name, **_without(ended.to_data(), "name"))


class PlainBoard(Board):
    """A line for each step, with the image's name before it."""

    def __init__(self, ui: PlainUi) -> None:
        self._ui, self._total, self._done = ui, 0, 0

    def begin(self, names: Sequence[str], jobs: int, ended: Sequence[Ended]) -> None:
        self._total = len(names) + len(ended)
        self._ui.say(f"{self._total} images, {jobs} at once")
        for each in ended:
            self.ended(each)

    def started(self, name: str, log: Path) -> None:
        self._ui.say(f"{name}: started; its log: {log}")

    def event(self, name: str, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "step-ended":
            outcome = event.get("outcome") or ("done" if event.get("ok") else "failed")
            self._ui.say(f"{name}: {event.get('step')}: {outcome}, {event.get('seconds')} s")
        elif kind == "warning":
            self._ui.say(f"{name}: warning: {event.get('text')}", "yellow")

    def ended(self, ended: Ended) -> None:
        self._done += 1
        self._ui.say(f"[{self._done}/{self._total}] {words(ended)}", STYLES[ended.state])
        if ended.error:
            self._ui.say(f"  {ended.error.get('message')}", STYLES[ended.state])


@dataclass
class _Row:
    """What is shown of a build that runs."""

    began: float
    step: str = ""
    line: str = ""
    progress: str = ""


class LiveBoard(PlainBoard):
    """A terminal: a line for each finished image, and below them one for each that runs."""

    def __init__(self, ui: LiveUi) -> None:
        super().__init__(ui)
        self._console = ui.errors
        self._rows: dict[str, _Row] = {}
        self._live: Live | None = None

    def begin(self, names: Sequence[str], jobs: int, ended: Sequence[Ended]) -> None:
        super().begin(names, jobs, ended)
        self._live = Live(
            get_renderable=self.view,
            console=self._console,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=True,
        )
        self._live.start()

    def started(self, name: str, log: Path) -> None:
        self._rows[name] = _Row(time.monotonic())

    def event(self, name: str, event: Mapping[str, Any]) -> None:
        row, kind = self._rows[name], event["event"]
        if kind == "step-started":
            row.step, row.line, row.progress = str(event.get("step")), "", ""
        elif kind == "output":
            row.line = str(event.get("line"))
        elif kind == "progress" and event.get("total"):
            row.progress = f"{size_text(int(event['done']))} of {size_text(int(event['total']))}"
        elif kind == "warning":
            super().event(name, event)

    def ended(self, ended: Ended) -> None:
        self._rows.pop(ended.name, None)
        super().ended(ended)

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def view(self) -> Text:
        """What is shown below the finished images."""
        # The thread that draws must not see the rows change.
        rows, width = list(self._rows.items()), max(20, self._console.width - 1)
        lines = [
            Text.assemble(("… ", "cyan"), f"{name}: {row.step}", (f"  {_behind(row)}", "dim"))
            for name, row in rows
        ]
        left = self._total - self._done - len(rows)
        lines.append(
            Text(f"{self._done} of {self._total} done, {len(rows)} running, {left} waiting", style="bold")
        )
        for line in lines:
            line.truncate(width)
        return Text("\n").join(lines)


def _behind(row: _Row) -> str:
    return f"{time.monotonic() - row.began:.0f} s  {row.progress}  {row.line}"


def words(ended: Ended) -> str:
    """One image's end in a line: its name, its state, and what goes with that."""
    parts = [f"{ended.name} {ended.state}"]
    if ended.version:
        parts.append(ended.version)
    if ended.by:
        parts.append(f"by {ended.by}")
    if ended.why:
        parts.append(f"({ended.why})")
    if ended.seconds:
        parts.append(f"{ended.seconds:.1f} s")
    return f"{MARKS[ended.state]} {'  '.join(parts)}"


def _without(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in names}


def make(ui: Ui) -> Board:
    """The rendering that goes with that of one build."""
    if isinstance(ui, JsonUi):
        return JsonBoard(ui)
    if isinstance(ui, LiveUi):
        return LiveBoard(ui)
    return PlainBoard(ui) if isinstance(ui, PlainUi) else Board()
