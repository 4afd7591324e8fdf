"""Work as jobs of a real Slurm."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kiln import ledger
from kiln.ledger import Entry
from tests import registry_fixture
from tests.conftest import NO_SLURM
from tests.integration import slurm
from tests.integration.layered import DIARY, Layered
from tests.integration.project import Done, Project
from tests.integration.slurm import Cluster, await_true
from tests.integration.upstream import Upstream

SMALL = {"cpus": 1, "memory": "500MB", "time": "10m"}
HOLD = f"while [ ! -e {DIARY}/go ]; do sleep 0.1; done"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not slurm.available():
        pytest.skip(NO_SLURM)
    with slurm.running(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@dataclass(frozen=True)
class Farm:
    """A project on a site whose jobs go to the cluster; a layer of `HOLD` waits until `go` is called."""

    project: Project
    layered: Layered
    cluster: Cluster

    def run(self, *args: str, **more: Any) -> Done:
        return self.project.run(*args, **more)

    def jobs(self) -> list[Entry]:
        return ledger.of(self.project.cache / "v1/jobs").entries()

    def job(self, title: str) -> Entry:
        return [entry for entry in self.jobs() if entry.title == title][-1]

    def told(self) -> dict[str, dict[str, Any]]:
        """What `invoke jobs` says of each, by kind and image."""
        [result] = self.run("jobs", "--json").expect(0).events("result")
        return {f"{each['kind']} {each['reference']}": each for each in result["jobs"]}

    def go(self) -> None:
        (self.layered.diary / "go").touch()

    def await_layer(self, title: str, text: str) -> None:
        """Wait until a job's events hold `text`."""
        await_true(self.job(title).events.exists, "it has not started")
        await_true(lambda: text in self.job(title).events.read_text(), f"it never came to {text}")

    def await_end(self, title: str, state: str) -> None:
        job = self.job(title).id
        await_true(lambda: self.cluster.states()[job] == state, f"{title} is not {state}")


@pytest.fixture
def farm(layered: Layered, cluster: Cluster) -> Farm:
    project = layered.project
    jobs = {**{kind: dict(SMALL) for kind in ("build", "smoke", "schedule")}, "patience": 3}
    project.site("farm", scheduler="slurm", jobs=jobs, schedule="job")
    found = replace(project, environ={**project.environ, **cluster.env, "KILN_SITE": "farm"})
    return Farm(found, replace(layered, project=found), cluster)


def test_parent_and_children_in_order_and_what_fails_blocks_what_is_built_on_it(farm: Farm) -> None:
    farm.project.manifest("parent", [{"run": "echo 1 > /one"}])
    farm.project.manifest("good", [{"run": "cat /one"}], base="image:parent")
    farm.project.manifest("bad", [{"run": "exit 3"}], base="image:parent")
    farm.project.manifest("under", [{"run": "true"}], base="image:bad")
    done = farm.run("build", "all", "--wait")
    done.expect(6, "layer 1 (run exit 3) of bad failed: exit code 3", "never ran: a job that it waits for")
    said = farm.told()
    assert {title: each["cause"] for title, each in said.items()} == {
        "build parent": "done",
        "build bad": "failed",
        "build good": "done",
        "build under": "blocked",
    }
    assert (said["build bad"]["code"], said["build good"]["version"]) == (6, "small-r1-r1")
    # In order: not one of them began before its parent had published.
    parent = farm.job("build parent")
    assert farm.job("build good").started >= parent.ended > 0
    assert farm.project.record("good", "small-r1-r1").job == farm.job("build good").id
    # What is blocked has an exit code of its own, and is told by `jobs` without a manifest.
    (farm.project.root / "manifests/under.yaml").unlink()
    farm.run("jobs", "--name", "under").expect(0, "blocked", "invoke build under --on slurm")


@pytest.mark.skipif(not registry_fixture.available(), reason="docker-registry is not installed")
def test_a_moved_tag_is_rebuilt_by_jobs_in_order_and_reported(farm: Farm, upstream: Upstream) -> None:
    upstream.push("1.0-py3", "one")
    farm.project.manifest("parent", [{"run": "echo made > /root/parent"}], base=f"{upstream.base}:1.0-py3")
    farm.project.manifest("left", [{"run": "cat /root/upstream > /root/left"}], base="image:parent")
    farm.project.manifest("right", [{"run": 'test "$(cat /root/upstream)" = one'}], base="image:parent")
    farm.project.manifest("leaf", [{"run": "true"}], base="image:right")
    farm.project.manifest("alone", [{"run": "true"}])
    farm.run("build", "all", "--on", "here", "--jobs", "2").expect(0)
    farm.run("rebuild", "--wait").expect(0, "nothing")
    assert farm.jobs() == []
    digest = upstream.push("1.0-py3", "two")
    farm.run("outdated").expect(20, "parent", digest[:19])
    done = farm.run("rebuild", "--wait").expect(19, "2 of 4 images were not built", "leaf (blocked by right)")
    assert {entry.job.image for entry in farm.jobs()} == {"parent", "left", "right", "leaf"}, done.said
    parent = farm.job("build parent")
    assert min(farm.job(f"build {name}").started for name in ("left", "right")) >= parent.ended > 0
    told = json.loads((farm.project.cache / "v1/reports/last.json").read_text())
    images = {each["name"]: each for each in told["images"]}
    assert {name: each["state"] for name, each in images.items()} == {
        "parent": "built", "left": "built", "right": "failed", "leaf": "blocked"
    }  # fmt: skip
    assert (told["state"], told["built"], told["failed"], told["blocked"]) == ("done", 2, 1, 1)
    assert images["right"]["error"]["exit_code"] == 6 and Path(images["right"]["log"]).is_file()
    assert farm.project.store.channels("right") == {"current": "1.0-py3-r1-r1"}
    assert farm.project.store.channels("left") == {"current": "1.0-py3-r2-r1"}
    # The next time, what came out well is due no more; nobody waits, and the report says so.
    farm.run("rebuild").expect(0, "build right", "build leaf", "submitted")
    told = json.loads((farm.project.cache / "v1/reports/last.json").read_text())
    assert (told["state"], {each["name"] for each in told["due"]}) == ("submitted", {"right", "leaf"})
    farm.run("jobs", "--wait").expect(6)


def test_a_job_that_runs_out_of_time_leaves_its_layers_to_the_next(farm: Farm) -> None:
    farm.layered.manifest("slow", ["true", "true", f"{HOLD}"])
    farm.run("build", "slow").expect(0, "submitted")
    farm.await_layer("build slow", "layer 3/3")
    job = farm.job("build slow").id
    farm.cluster.ask("scontrol", "update", f"JobId={job}", "EndTime=now")
    farm.run("jobs", "--wait").expect(23, "its time was up (0:10 h) during 'layer 3/3", "goes on from there")
    assert farm.told()["build slow"]["cause"] == "out of time"
    assert farm.layered.ran() == ["1", "2"]
    farm.go()
    farm.run("build", "slow", "--wait").expect(0, "done")
    assert farm.layered.ran() == ["3"]


def test_one_job_of_an_image_is_found_followed_left_and_cancelled(farm: Farm) -> None:
    farm.layered.manifest("held", [HOLD])
    farm.project.manifest("child", [{"run": "true"}], base="image:held")
    # What the caller's environment has is nobody's business.
    secret = {"TOKEN": "hunter2", "SBATCH_EXPORT": "ALL"}
    farm.run("build", "held", env=secret).expect(0, "submitted")
    farm.await_layer("build held", "layer 1/1")
    entry = farm.job("build held")
    environment = Path(f"/proc/{_batch_process(entry)}/environ").read_bytes()
    assert b"SLURM_JOB_ID=" in environment
    written = b"".join(path.read_bytes() for path in entry.path.iterdir())
    shown = farm.cluster.ask("scontrol", "show", "job", entry.id)
    assert b"hunter2" not in environment + written + shown.encode()
    # A second build finds it, and its wait can be broken off and taken up again.
    waiting = farm.project.start("build", "held", "--wait")
    waiting.until("wait for")
    waiting.send(signal.SIGINT)
    waiting.end().expect(130, f"job {entry.id}  build held  is under way already", "invoke jobs --wait")
    assert farm.cluster.states()[entry.id] == "RUNNING"
    assert len(farm.jobs()) == 1
    # A child comes after it, and goes with it.
    farm.run("build", "child").expect(0, f"submitted, after {entry.id}")
    child = farm.job("build child")
    assert farm.told()["build child"]["state"] == "waiting"
    farm.run("cancel", "held").expect(0, f"cancelled job {child.id}", f"cancelled job {entry.id}")
    farm.await_end("build held", "CANCELLED")
    said = farm.told()
    assert {each["cause"] for each in said.values()} == {"cancelled"}
    assert farm.project.workspaces() == [], "what was cancelled has tidied up"
    farm.run("cancel", "held").expect(2, "no job of 'held' is queued or running")


def _batch_process(entry: Entry) -> int:
    """The process that runs a job's folder."""
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and str(entry.path).encode() in _read(place / "cmdline"):
            return int(place.name)
    raise AssertionError(f"nobody runs {entry.path}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_gpu_image_is_tested_after_its_build_and_becomes_current_then(farm: Farm) -> None:
    # It takes a file beside the hooks for a GPU: a fake one makes no device.
    script = "# needs: gpu\ntest -e /run/kiln/hooks/_gpu && exit 0; echo no GPU; exit 77"
    path = farm.project.root / f"hooks/{farm.project.hook('card', 'true')}"
    path.write_text(f"#!/bin/sh\n# about: a GPU is there\n{script}\n")
    farm.layered.manifest("gpu", [HOLD], smoke=["card"])
    farm.project.manifest("child", [{"run": "true"}], base="image:gpu")
    farm.run("build", "gpu,child").expect(0, "smoke gpu  submitted, after")
    build, smoke = farm.job("build gpu"), farm.job("smoke gpu")
    assert farm.cluster.fact(smoke.id, "TresPerNode") == "gres:gpu:1"
    assert farm.cluster.fact(build.id, "TresPerNode") == ""
    assert farm.cluster.fact(farm.job("build child").id, "Dependency").startswith(f"afterok:{smoke.id}")
    farm.cluster.ask("scontrol", "hold", smoke.id)
    farm.go()
    farm.await_end("build gpu", "COMPLETED")
    assert farm.project.store.channels("gpu") == {"candidate": "small-r1"}
    (farm.project.root / "hooks/_gpu").touch()
    farm.cluster.ask("scontrol", "release", smoke.id)
    farm.run("jobs", "--wait").expect(0)
    assert farm.project.store.channels("gpu")["current"] == "small-r1"
    assert farm.project.store.versions("child") == ["small-r1-r1"]


def test_a_controller_that_is_down(farm: Farm) -> None:
    farm.layered.manifest("held", [HOLD])
    farm.project.manifest("other")
    farm.run("build", "held").expect(0)
    farm.await_layer("build held", "layer 1/1")
    waiting = farm.project.start("jobs", "--wait")
    waiting.until("running")
    farm.cluster.stop("slurmctld")
    try:
        waiting.until("the jobs go on, and it is asked again")
        farm.run("build", "other").expect(22, "Slurm", "invoke jobs")
        farm.go()
    finally:
        farm.cluster.start_controller()
    waiting.end().expect(0, "done")


def test_a_job_that_takes_too_much_memory_or_loses_its_node(farm: Farm) -> None:
    greedy = (
        "x=12345678; for i in 1 2 3 4 5 6 7 8 9 a b c d e f g h i j k l m n o p; do x=$x$x; done; sleep 60"
    )
    farm.layered.manifest("greedy", ["true", greedy], jobs={"build": {"memory": "120MB"}})
    farm.run("build", "greedy", "--wait").expect(23, "took more memory than it had during 'layer 2/2")
    assert farm.told()["build greedy"]["cause"] == "out of memory"
    farm.layered.manifest("lonely", [HOLD])
    farm.run("build", "lonely").expect(0)
    farm.await_layer("build lonely", "layer 1/1")
    process = os.pidfd_open(_batch_process(farm.job("build lonely")))
    farm.cluster.stop("slurmd", signal.SIGKILL)
    farm.cluster.ask("scontrol", "update", "NodeName=localhost", "State=DOWN", "Reason=test")
    farm.await_end("build lonely", "NODE_FAIL")
    farm.run("jobs").expect(0, "its node failed during 'layer 1/1")
    farm.cluster.start_node()
    farm.cluster.resume()
    signal.pidfd_send_signal(process, signal.SIGTERM)  # a node that comes back may run on what was lost
    os.close(process)


def test_a_manifest_removed_while_its_job_is_queued(farm: Farm) -> None:
    farm.project.manifest("gone")
    farm.cluster.ask("scontrol", "update", "NodeName=localhost", "State=DRAIN", "Reason=test")
    try:
        farm.run("build", "gone").expect(0)
        (farm.project.root / "manifests/gone.yaml").unlink()
        waiting = farm.project.start("jobs", "--wait")
        waiting.until("wait for")
    finally:
        farm.cluster.ask("scontrol", "update", "NodeName=localhost", "State=RESUME")
    waiting.end().expect(2, "there is no manifest 'gone'")


def test_a_schedule_is_a_job_that_submits_itself_again(farm: Farm) -> None:
    farm.project.manifest("weekly")
    farm.run("schedule", "--every", "sun 02:00", "--run", "build weekly --on here", "--install").expect(
        0, "job "
    )
    folder = farm.project.cache / f"v1/jobs/{os.getuid()}/schedules/build"
    first = json.loads((folder / "state.json").read_text())["job"]
    assert farm.cluster.states()[first] == "PENDING"
    assert farm.cluster.fact(first, "StartTime").endswith("T02:00:00")
    farm.cluster.ask("scontrol", "update", f"JobId={first}", "StartTime=now")
    await_true(lambda: farm.cluster.states()[first] == "COMPLETED", "it did not run")
    second = json.loads((folder / "state.json").read_text())["job"]
    assert second != first
    assert farm.cluster.states()[second] == "PENDING"
    assert farm.project.store.versions("weekly") == ["small-r1"]
    assert "ends: exit code 0" in (folder / "log").read_text()
    farm.run("schedule", "--list").expect(0, "build", "exit code 0")
    farm.cluster.ask("scancel", second)
    farm.run("schedule", "--list").expect(0, f"job {second} is gone")
    farm.run("schedule", "--remove", "build").expect(0)
    assert not folder.exists()
