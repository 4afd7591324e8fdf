"""What is seen of several builds: on a terminal, in plain lines, as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from kiln import board, ui
from kiln.board import Board
from kiln.ended import BLOCKED, BUILT, FAILED, Ended

LOG = Path("/logs/a.log")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(shown: Board) -> None:
    """One image that works, one that fails, and one that is blocked by it."""
    shown.begin(["a", "b", "c"], 2, [])
    for name in ("a", "b"):
        shown.started(name, LOG)
        shown.event(name, {"event": "step-started", "step": "export"})
        shown.event(name, {"event": "progress", "step": "export", "done": 5_000_000, "total": 10_000_000})
        shown.event(name, {"event": "output", "step": "export", "line": "a [red]line[/]"})
    shown.event("a", {"event": "step-ended", "step": "export", "ok": True, "seconds": 1.5, "outcome": "4 MB"})
    shown.ended(Ended("a", BUILT, "1-r2", 2.0, log=LOG))
    shown.ended(Ended("b", FAILED, error={"message": "layer 1 failed"}, log=LOG))
    shown.ended(Ended("c", BLOCKED, by="b"))


def test_plain_lines() -> None:
    err = io.StringIO()
    play(board.make(ui.make(False, io.StringIO(), err)))
    assert err.getvalue().splitlines() == [
        "3 images, 2 at once",
        "a: started; its log: /logs/a.log",
        "b: started; its log: /logs/a.log",
        "a: export: 4 MB, 1.5 s",
        "[1/3] ✓ a built  1-r2  2.0 s",
        "[2/3] ✗ b failed",
        "  layer 1 failed",
        "[3/3] - c blocked  by b",
    ]


def test_json_lines() -> None:
    out = io.StringIO()
    play(board.make(ui.make(True, out, io.StringIO())))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert events[0] == {"event": "images", "images": ["a", "b", "c"], "jobs": 2}
    assert events[1] == {"event": "image-started", "image": "a", "log": "/logs/a.log"}
    assert events[-1] == {"event": "image-ended", "image": "c", "state": "blocked", "by": "b"}
    assert {"event": "output", "image": "b", "step": "export", "line": "a [red]line[/]"} in events


def test_one_view_of_all_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "90")
    err = Terminal()
    shown = board.make(ui.make(False, io.StringIO(), err))
    assert isinstance(shown, board.LiveBoard)
    shown.begin(["a", "b", "c"], 2, [])
    shown.started("a", LOG)
    shown.event("a", {"event": "step-started", "step": "export"})
    shown.event("a", {"event": "progress", "step": "export", "done": 5_000_000, "total": 10_000_000})
    shown.event("a", {"event": "output", "step": "export", "line": "x" * 200})
    first, last = shown.view().plain.split("\n")
    assert first.startswith("… a: export") and "5.0 MB of 10.0 MB" in first and len(first) <= 89
    assert last == "0 of 3 done, 1 running, 2 waiting"
    shown.ended(Ended("a", BUILT, "1-r2", 2.0, log=LOG))
    assert shown.view().plain == "1 of 3 done, 0 running, 2 waiting"
    shown.close()
    assert "✓ a built" in err.getvalue()
