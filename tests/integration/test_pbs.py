"""Work as jobs of PBS, by stand-ins for its commands that answer as OpenPBS 23.06 was seen to."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kiln import ledger
from kiln.errors import SchedulerError
from kiln.resources import Resources
from kiln.schedulers.contract import NoAnswer, Request
from kiln.schedulers.pbs import Pbs
from tests.integration.layered import Layered
from tests.integration.project import CHECKOUT, Done, Project
from tests.integration.slurm import await_true

SMALL = {"cpus": 1, "memory": "500MB", "time": "10m"}


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """The folder of a PBS server, with its commands in `bin`."""
    folder = tmp_path / "pbs"
    (folder / "bin").mkdir(parents=True)
    (folder / "pbs.conf").touch()
    text = (CHECKOUT / "tests/standin/pbs.py").read_text()
    for name in ("qsub", "qstat", "qdel"):
        path = folder / "bin" / name
        path.write_text(text.replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1))
        path.chmod(0o755)
    return folder


@pytest.fixture
def farm(project: Project, server: Path) -> Project:
    jobs = {**{kind: dict(SMALL) for kind in ("build", "smoke")}, "patience": 10}
    project.site("farm", scheduler="pbs", jobs=jobs)
    own = {"PBS_CONF_FILE": str(server / "pbs.conf"), "PATH": f"{server}/bin:{project.environ['PATH']}"}
    return replace(project, environ={**project.environ, **own, "KILN_SITE": "farm"})


def told(farm: Project) -> dict[str, tuple[str, int | None]]:
    [result] = farm.run("jobs", "--json").expect(0).events("result")
    return {each["reference"]: (each["cause"] or each["state"], each["code"]) for each in result["jobs"]}


def family(farm: Project) -> Done:
    """A parent that fails, its child and grandchild, as jobs that are waited for."""
    farm.manifest("parent", [{"run": "exit 3"}])
    farm.manifest("child", base="image:parent")
    farm.manifest("grandchild", base="image:child")
    return farm.run("build", "all", "--wait")


def test_parent_and_child_are_built_in_order(farm: Project) -> None:
    farm.manifest("parent", [{"run": "echo 1 > /one"}])
    farm.manifest("child", [{"run": "cat /one"}], base="image:parent")
    farm.run("build", "all", "--wait").expect(0, "job 0.srv  build parent", "submitted, after 0.srv", "done")
    assert farm.record("child", "small-r1-r1").job == "1.srv"
    # The umask of a PBS job is 077: others must see what is published all the same.
    assert (farm.images / "child").stat().st_mode & 0o077 == 0o055


def test_a_failed_parent_blocks_also_where_pbs_would_run_the_grandchild(farm: Project) -> None:
    family(farm).expect(6, "layer 1 (run exit 3) of parent failed", "never ran")
    assert told(farm)["parent"] == ("failed", 6)
    assert told(farm)["child"] == ("blocked", None)
    assert told(farm)["grandchild"][0] == "blocked"
    assert farm.store.versions("grandchild") == []


def test_how_pbs_ends_a_job(farm: Project, server: Path) -> None:
    fates = {
        "time": ({"substate": 93, "Exit_status": -29}, "its time was up (0:10 h)", "out of time"),
        "memory": ({"substate": 93, "Exit_status": -27}, "it took more memory", "out of memory"),
        "node": ({"substate": 93, "Exit_status": -4}, "its node failed", "node failure"),
        "deleted": (
            {"substate": 91, "Exit_status": 271, "comment": "by u@n"},
            "it was cancelled during 'publish': by u@n",
            "cancelled",
        ),
        "signal": ({"substate": 93, "Exit_status": 265}, "it was killed", "killed"),
    }
    for name, (fate, _, _) in fates.items():
        (server / f"fate-build-{farm.manifest(name)}").write_text(json.dumps(fate))
    done = farm.run("build", "all", "--wait")
    for name, (_, words, _) in fates.items():
        done.expect(23, words, f"invoke build {name} --on pbs")
    assert {name: cause for name, (cause, _) in told(farm).items()} == {
        name: cause for name, (_, _, cause) in fates.items()
    }


def test_a_job_that_vanishes(farm: Project, server: Path) -> None:
    farm.manifest("one")
    (server / "hold").touch()
    farm.run("build", "one").expect(0, "submitted")
    assert told(farm)["one"][0] == "queued"
    (server / "jobs.json").unlink()
    [entry] = ledger.of(farm.cache / "v1/jobs").entries()
    text = (entry.path / "job.json").read_text()
    # It was submitted a minute ago: at once the server might only not know it yet.
    old = text.replace(str(entry.job.submitted), str(entry.job.submitted - 60))
    (entry.path / "job.json").write_text(old)
    farm.run("jobs", "--wait").expect(0, "it vanished", "invoke build one --on pbs")
    # The next build is another job.
    (server / "hold").unlink()
    farm.run("build", "one", "--wait").expect(0, "done")


def test_a_server_that_is_down_and_refusals(farm: Project, server: Path) -> None:
    farm.manifest("one")
    (server / "down").touch()
    farm.run("build", "one").expect(22, "PBS does not answer", "cannot connect to server srv")
    (server / "down").unlink()
    jobs = {"build": {**SMALL, "queue": "nowhere"}}
    farm.site("farm", scheduler="pbs", jobs=jobs)
    farm.run("build", "one").expect(
        22, "PBS refused to take the job build-one (exit code 170)", "Unknown queue"
    )
    assert told(farm)["one"][0] == "lost"


def test_cancelled_while_it_runs_and_with_its_children(farm: Project, layered: Layered) -> None:
    layered.manifest("held", ["while true; do sleep 0.1; done"])
    farm.manifest("child", base="image:held")
    farm.run("build", "held,child").expect(0, "submitted, after 0.srv")
    [held, _] = ledger.of(farm.cache / "v1/jobs").entries()
    await_true(lambda: held.events.exists() and "layer 1/1" in held.events.read_text(), "no layer")
    farm.run("build", "held").expect(0, "job 0.srv  build held  is under way already")
    farm.run("cancel", "held").expect(0, "cancelled job 1.srv", "cancelled job 0.srv")
    await_true(lambda: told(farm)["held"][0] == "cancelled", "it goes on")
    assert told(farm)["child"][0] == "cancelled"
    assert farm.workspaces() == []


def test_what_qsub_refuses_is_never_asked_for(server: Path, tmp_path: Path) -> None:
    environ = {
        "PBS_CONF_FILE": str(server / "pbs.conf"),
        "PATH": f"{server}/bin:{os.environ['PATH']}",
        "HOME": "/",
    }
    pbs = Pbs(environ, 10, "")
    (server / "hold").touch()
    program = tmp_path / "odd $(name) 'x'.sh"
    wanted = Resources(cpus=4, memory=10**10, gpus=2, time=5400, disk=10**9)
    request = Request("build-a.b", program, tmp_path / "log", wanted)
    job = pbs.submit(request)
    data = json.loads((server / "jobs.json").read_text())[job]
    assert data["Resource_List"]["select"] == "1:ncpus=4:mem=9765625kb:ngpus=2"
    assert data["Resource_List"]["walltime"] == "01:30:00"
    assert data["hidden"]["program"] == str(program)
    # One call for each id: of several qstat's JSON has the first.
    second = pbs.submit(replace(request, after=[job]))
    found = pbs.query([job, second, "99.srv"])
    assert {name: each.state for name, each in found.items()} == {job: "queued", second: "waiting"}
    pbs.cancel("99.srv")
    pbs.cancel(job)
    pbs.cancel(job)
    assert pbs.query([job])[job].cause == "cancelled"


def test_a_client_that_hangs_is_given_up(tmp_path: Path) -> None:
    for name in ("qsub", "qstat", "qdel"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 1000\n")
        (tmp_path / name).chmod(0o755)
    pbs = Pbs({"PATH": f"{tmp_path}:{os.environ['PATH']}"}, 0.3, "")
    for call in (lambda: pbs.query(["1.srv"]), lambda: pbs.cancel("1.srv")):
        with pytest.raises(NoAnswer, match=r"did not answer within 0\.3 s"):
            call()
    (tmp_path / "qstat").write_text("#!/bin/sh\necho no JSON\n")
    with pytest.raises(SchedulerError, match="can't be read"):
        pbs.query(["1.srv"])


def test_a_wait_that_is_killed_is_taken_up_again(farm: Project, layered: Layered) -> None:
    layered.manifest("held", ["while [ ! -e /mnt/diary/go ]; do sleep 0.1; done"])
    waiting = farm.start("build", "held", "--wait")
    waiting.until("layer 1/1")
    waiting.send(signal.SIGKILL)
    assert waiting.end().code == -signal.SIGKILL
    (layered.diary / "go").touch()
    farm.run("build", "held", "--wait").expect(0, "done")
    assert farm.store.versions("held") == ["small-r1"]
