"""Later runs of smoke hooks, and what all runs say together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kiln import testruns
from kiln.hardware import Hardware
from kiln.record import SmokeResult
from kiln.store import Store
from kiln.testruns import Run
from tests.unit.conftest import RECORD, Publisher

GPUS = Hardware(("NVIDIA H100 80GB HBM3",) * 8, "550.54.15", "5.15.0")


def results(*states: str, names: tuple[str, ...] = ("a", "b")) -> tuple[SmokeResult, ...]:
    pairs = zip(names, states, strict=True)
    return tuple(SmokeResult(name, ("x",), state, True, 1.0, hardware=GPUS) for name, state in pairs)


def run(*states: str) -> Run:
    return Run("2026-01-02T03:04:05Z", "me@here", results(*states))


@pytest.mark.parametrize(
    ("first", "later", "wanted"),
    [
        (("passed", "skipped"), [], "incomplete"),
        (("passed", "skipped"), [("passed", "passed")], "passed"),
        (("passed", "skipped"), [("skipped", "passed")], "passed"),
        # A node without GPUs says nothing about what was seen on one.
        (("passed", "passed"), [("skipped", "skipped")], "passed"),
        (("passed", "passed"), [("failed", "passed")], "failed"),
        (("passed", "passed"), [("failed", "passed"), ("passed", "skipped")], "passed"),
    ],
)
def test_of_each_hook_the_last_that_ran_counts(
    first: tuple[str, ...], later: list[tuple[str, ...]], wanted: str
) -> None:
    record = dataclasses.replace(RECORD, smoke=results(*first))
    assert testruns.together(record, [run(*states) for states in later]).smoke_state == wanted


def test_hooks_that_the_manifest_has_no_longer_do_not_count() -> None:
    record = dataclasses.replace(RECORD, smoke=results("passed", "failed"))
    now = Run("", "", results("passed", names=("a",)))
    assert testruns.together(record, [now]).smoke_state == "passed"


def test_lines_are_read_back_whatever_lies_between(tmp_path: Path) -> None:
    path = tmp_path / "x.tests.jsonl"
    assert testruns.read(path) == []
    testruns.add(path, run("passed", "skipped"))
    path.write_text(
        path.read_text() + '{"time": 1}\n[]\nnull\n{"time": "x", "who": "y", "results": [{}]}\n{"ti'
    )
    testruns.add(path, run("passed", "passed"))
    assert testruns.read(path) == [run("passed", "skipped"), run("passed", "passed")]


def test_the_store_tells_of_them(store: Store, put: Publisher) -> None:
    put("demo", smoke=("skipped",))
    path = store.tests("demo", "1.0-r1")
    again = dataclasses.replace(store.find("demo").record.smoke[0], state="passed", hardware=GPUS)  # type: ignore[union-attr]
    testruns.add(path, Run("", "", (again,)))
    found = store.find("demo").record
    assert found and found.smoke_state == "passed" and found.smoke[0].hardware == GPUS
