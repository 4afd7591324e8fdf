"""The three renderings of one story."""

from __future__ import annotations

import io
import json

import pytest

from kiln import ui
from kiln.errors import LayerError


def story(shown: ui.Ui) -> None:
    with shown.step("layer 1/1 apt git") as step:
        step.line("Reading package lists...")
        step.note("waiting")
    with pytest.raises(ZeroDivisionError), shown.step("export"):
        raise ZeroDivisionError
    shown.warn("careful [bold]")
    shown.result({"name": "demo"}, lambda console: console.print("demo is done"))
    shown.error(LayerError("layer 1 failed [x]", "type this", ["| E: no such package"]))
    shown.close()


def test_plain_lines() -> None:
    out, err = io.StringIO(), io.StringIO()
    story(ui.make(False, out, err))
    assert out.getvalue() == "demo is done\n"
    lines = err.getvalue().splitlines()
    assert lines == [
        "layer 1/1 apt git ...",
        "  waiting",
        "  done, 0.0 s",
        "export ...",
        "  failed, 0.0 s",
        "warning: careful [bold]",
        "error: layer 1 failed [x]",
        "  | E: no such package",
        "  -> type this",
    ]


def test_json_lines() -> None:
    out, err = io.StringIO(), io.StringIO()
    story(ui.make(True, out, err))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert err.getvalue() == ""
    assert [event["event"] for event in events] == [
        "step-started", "output", "note", "step-ended", "step-started", "step-ended",
        "warning", "result", "error",
    ]  # fmt: skip
    assert events[5]["ok"] is False
    assert events[-1] | {"exit_code": 6, "id": "layer"} == events[-1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_for_each_finished_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, err = Terminal(), Terminal()
    story(ui.make(False, out, err))
    assert "✓" in err.getvalue() and "✗" in err.getvalue()
    assert "careful [bold]" in err.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (85_471_232, "85.5 MB"),
        (21e9, "21.0 GB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert ui.size_text(int(count)) == text
