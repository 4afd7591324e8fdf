"""What a person or a program sees while Kiln works, and at the end.

Three renderings of the same events: a live display on a terminal, plain lines elsewhere, JSON lines
with `--json`. Progress and warnings of the first two go to stderr, results to stdout, so that a
result can be piped. Owns no state of a build.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from kiln.errors import KilnError

PLAIN_PROGRESS_SECONDS = 10.0
JSON_PROGRESS_SECONDS = 1.0
LIVE_FRAMES_PER_SECOND = 8
WIDE = 1000


class Step:
    """One step of the work, while it runs: `line` for its output, `progress` for bytes, `note` for a fact."""

    def __init__(self, ui: Ui, name: str) -> None:
        self._ui, self.name = ui, name
        self.started = time.monotonic()
        self.last_line = ""
        self.done, self.total = 0, 0
        self.outcome = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def line(self, text: str) -> None:
        self.last_line = text
        self._ui.step_line(self, text)

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self._ui.step_progress(self)

    def note(self, text: str) -> None:
        self._ui.step_note(self, text)

    def describe_progress(self) -> str:
        return f"{size_text(self.done)} of {size_text(self.total)}" if self.total else ""


class Ui:
    """The events. Every rendering overrides those that it shows."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        step = Step(self, name)
        self.step_started(step)
        try:
            yield step
        except BaseException:
            self.step_ended(step, ok=False)
            raise
        self.step_ended(step, ok=True)

    def step_started(self, step: Step) -> None: ...

    def step_line(self, step: Step, text: str) -> None: ...

    def step_progress(self, step: Step) -> None: ...

    def step_note(self, step: Step, text: str) -> None: ...

    def step_ended(self, step: Step, ok: bool) -> None: ...

    def warn(self, text: str) -> None: ...

    def result(self, data: Mapping[str, Any], render: Callable[[Console], None]) -> None: ...

    def error(self, error: KilnError) -> None: ...

    def close(self) -> None: ...


class JsonUi(Ui):
    """One JSON object a line on stdout; `event` says which. Documented in docs/output.md."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._last_progress = 0.0

    def emit(self, event: str, **values: Any) -> None:
        self._out.write(json.dumps({"event": event, **values}, ensure_ascii=False, default=str) + "\n")
        self._out.flush()

    def step_started(self, step: Step) -> None:
        self.emit("step-started", step=step.name)

    def step_line(self, step: Step, text: str) -> None:
        self.emit("output", step=step.name, line=text)

    def step_progress(self, step: Step) -> None:
        now = time.monotonic()
        if now - self._last_progress >= JSON_PROGRESS_SECONDS:
            self._last_progress = now
            self.emit("progress", step=step.name, done=step.done, total=step.total)

    def step_note(self, step: Step, text: str) -> None:
        self.emit("note", step=step.name, text=text)

    def step_ended(self, step: Step, ok: bool) -> None:
        self.emit("step-ended", step=step.name, ok=ok, seconds=round(step.seconds, 3), outcome=step.outcome)

    def warn(self, text: str) -> None:
        self.emit("warning", text=text)

    def result(self, data: Mapping[str, Any], render: Callable[[Console], None]) -> None:
        self.emit("result", **data)

    def error(self, error: KilnError) -> None:
        self.emit(
            "error",
            id=error.id,
            exit_code=error.exit_code,
            message=error.message,
            hint=error.hint,
            details=list(error.details),
        )


class PlainUi(Ui):
    """Plain lines, for logs and pipes."""

    def __init__(self, out: IO[str], err: IO[str]) -> None:
        self._console = _console(out)
        self.errors = _console(err)
        self._last_progress = 0.0

    def say(self, text: str, style: str = "") -> None:
        self.errors.print(Text(text, style=style))

    def step_started(self, step: Step) -> None:
        self.say(f"{step.name} ...")

    def step_progress(self, step: Step) -> None:
        now = time.monotonic()
        if (
            now - self._last_progress >= PLAIN_PROGRESS_SECONDS
            and now - step.started >= PLAIN_PROGRESS_SECONDS
        ):
            self._last_progress = now
            self.say(f"  {step.describe_progress()}")

    def step_note(self, step: Step, text: str) -> None:
        self.say(f"  {text}")

    def step_ended(self, step: Step, ok: bool) -> None:
        outcome = step.outcome or ("done" if ok else "failed")
        self.say(f"  {outcome}, {step.seconds:.1f} s", "" if ok else "bold red")

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}", "yellow")

    def result(self, data: Mapping[str, Any], render: Callable[[Console], None]) -> None:
        render(self._console)

    def error(self, error: KilnError) -> None:
        self.errors.print(f"[bold red]error:[/] {escape(error.message)}")
        for line in error.details:
            self.say("  " + line)
        if error.hint:
            self.say(f"  -> {error.hint}", "bold")


class LiveUi(PlainUi):
    """A terminal: finished steps as lines, the running one with its last line of output below it."""

    def __init__(self, out: IO[str], err: IO[str]) -> None:
        super().__init__(out, err)
        self._live: Live | None = None

    def step_started(self, step: Step) -> None:
        self.close()
        self._live = Live(
            get_renderable=lambda: _running(step, self.errors.width),
            console=self.errors,
            refresh_per_second=LIVE_FRAMES_PER_SECOND,
            transient=True,
        )
        self._live.start()

    def step_progress(self, step: Step) -> None:
        """Shown by the live display."""

    def step_ended(self, step: Step, ok: bool) -> None:
        self.close()
        mark, style = ("✓", "green") if ok else ("✗", "bold red")
        text = Text.assemble((mark, style), f" {step.name}", (f"  {step.seconds:.1f} s", "dim"))
        if step.outcome:
            text.append(f"  {step.outcome}", "dim")
        self.errors.print(text)

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def _running(step: Step, width: int) -> Text:
    head = Text.assemble(
        ("… ", "cyan"), step.name, (f"  {step.seconds:.0f} s  {step.describe_progress()}", "dim")
    )
    below = Text(f"  {step.last_line}"[: max(20, width - 1)], style="dim")
    return Text("\n").join([head, below])


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would exit with 1, silently; whoever runs the command decides that."""
        raise BrokenPipeError


def _console(stream: IO[str]) -> Console:
    """Off a terminal a table is as wide as it needs: a path broken in two can't be pasted."""
    return _Console(file=stream, highlight=False, soft_wrap=True, width=None if stream.isatty() else WIDE)


def make(as_json: bool, out: IO[str], err: IO[str]) -> Ui:
    """The rendering for these streams."""
    if as_json:
        return JsonUi(out)
    return LiveUi(out, err) if err.isatty() else PlainUi(out, err)


def size_text(count: int) -> str:
    """A number of bytes for people, in powers of ten as disks are sold: '1.2 GB'."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] in ("B", "kB") else f"{size:.1f} {units[0]}"
