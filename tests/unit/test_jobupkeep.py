"""A rebuild as jobs: how each end is told, and what the report says when the scheduler falls silent."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kiln import jobupkeep, upkeep
from kiln.context import Context, open_context
from kiln.due import FILES, PARENT, REBUILD, RETEST, SMOKE, Reason, State
from kiln.jobupkeep import Submitted
from kiln.schedulers import choice
from kiln.schedulers.contract import BLOCKED, CANCELLED, DONE, ENDED, FAILED, RUNNING, NoAnswer, Status
from kiln.ui import PlainUi
from kiln.upkeep import Plan, Step
from tests.unit.memoryscheduler import Memory

FAMILY = {"top": "", "left": "top", "right": "top", "leaf": "right"}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    for name in ("manifests", "sites", "hooks"):
        (tmp_path / name).mkdir()
    site = {"format": 1, "name": "local", "images": "images", "cache": "cache"}
    (tmp_path / "sites/local.yaml").write_text(yaml.safe_dump(site))
    for name, parent in FAMILY.items():
        data = {"format": 1, "name": name, "base": f"image:{parent}" if parent else "sqsh:x.sqsh"}
        (tmp_path / f"manifests/{name}.yaml").write_text(yaml.safe_dump(data))
    return open_context(tmp_path, None, None, {}, PlainUi(io.StringIO(), io.StringIO()))


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Memory:
    found = Memory()
    monkeypatch.setattr(choice, "scheduler", lambda *_: found)
    plan = Plan(tuple(step(name, parent) for name, parent in FAMILY.items()), (), 0)
    monkeypatch.setattr(upkeep, "plan", lambda *_: plan)
    return found


def step(name: str, parent: str, kind: str = FILES, action: str = REBUILD) -> Step:
    reason = Reason(PARENT if parent else kind, "it changed", remedy=action)
    return Step(State(name, "1-r1", (reason,)), action, (parent,) if parent else ())


def report(context: Context) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((context.site.reports / "last.json").read_text())
    return data


def ends(submitted: Submitted, context: Context) -> dict[str, tuple[str, str]]:
    return {each.name: (each.state, each.by) for each in submitted.end(context)}


def test_each_image_has_its_job_after_its_parents_and_its_end_is_told(
    context: Context, scheduler: Memory
) -> None:
    submitted = jobupkeep.submit(context, "slurm", [], [])
    assert [(each.name, list(each.after)) for each in scheduler.requests] == [
        ("build-top", []), ("build-left", ["1"]), ("build-right", ["1"]), ("build-leaf", ["3"])
    ]  # fmt: skip
    # What is due for its parent alone stays where that comes out as it was.
    renewed = {each.job.image: "--renew" in each.job.argv for each in submitted.entries}
    assert renewed == {"top": True, "left": False, "right": False, "leaf": False}
    assert report(context)["state"] == "submitted"
    states = (DONE, CANCELLED, FAILED, BLOCKED)
    for entry, cause in zip(submitted.entries, states, strict=True):
        entry.settle(Status(ENDED, cause, 0 if cause == DONE else 6))
    assert ends(submitted, context) == {
        "top": ("built", ""), "left": ("failed", ""), "right": ("failed", ""), "leaf": ("blocked", "right")
    }  # fmt: skip
    told = report(context)
    assert (told["state"], told["built"], told["failed"], told["blocked"]) == ("done", 1, 2, 1)
    assert [each["name"] for each in told["due"]] == list(FAMILY)


def test_a_job_that_has_not_ended_is_not_called_failed(context: Context, scheduler: Memory) -> None:
    submitted = jobupkeep.submit(context, "slurm", ["top"], [])
    submitted.entries[0].settle(Status(RUNNING))
    assert ends(submitted, context)["top"] == ("stopped", "")


def test_a_scheduler_that_falls_silent_leaves_a_report_that_says_so(
    context: Context, scheduler: Memory
) -> None:
    scheduler.down = 2
    with pytest.raises(NoAnswer):
        jobupkeep.submit(context, "slurm", [], [])
    told = report(context)
    assert (told["state"], told["images"], len(told["due"])) == ("interrupted", [], 4)
    assert told["ended"]


def test_what_could_not_be_submitted_blocks_what_is_built_on_it(context: Context, scheduler: Memory) -> None:
    (context.manifests / "right.yaml").unlink()
    submitted = jobupkeep.submit(context, "slurm", [], [])
    assert [each.name for each in scheduler.requests] == ["build-top", "build-left"]
    for entry in submitted.entries:
        entry.settle(Status(ENDED, DONE, 0))
    assert ends(submitted, context) == {
        "top": ("built", ""), "left": ("built", ""), "right": ("failed", ""), "leaf": ("failed", "")
    }  # fmt: skip
    [leaf] = [each for each in report(context)["images"] if each["name"] == "leaf"]
    assert "right was not submitted" in leaf["error"]["message"]


def test_a_test_that_is_due_is_a_job_of_its_own(
    context: Context, scheduler: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan((step("top", "", SMOKE, RETEST),), (), 0)
    monkeypatch.setattr(upkeep, "plan", lambda *_: plan)
    submitted = jobupkeep.submit(context, "slurm", [], ["--site", "local"])
    assert [each.name for each in scheduler.requests] == ["smoke-top"]
    submitted.entries[0].settle(Status(ENDED, DONE, 0))
    assert ends(submitted, context) == {"top": ("reused", "")}
