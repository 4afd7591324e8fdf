"""Signals in every phase of a build: what is left after them, and what the next run does."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kiln import files
from tests.integration.mirror import Mirror
from tests.integration.processes import Family, traces
from tests.integration.project import Project, Running

PHASES = ("base", "unpack", "layer", "export", "smoke", "publish")
# An hour's work for mksquashfs, but for the signal.
SLOW_TO_PACK = "head -c 40000000 /dev/urandom > /root/noise"


@dataclass(frozen=True)
class Stages:
    """Builds of the image `x` that have come to a phase and stay in it."""

    project: Project
    mirror: Mirror

    def base(self) -> Running:
        self.project.site("stuck", mirrors={"debian": self.mirror.url})
        self.project.manifest("x", base="debootstrap:stuck")
        running = self.project.start("build", "x", "--site", "stuck")
        self.mirror.until_asked()
        return running

    def unpack(self) -> Running:
        self.project.manifest("x", [{"run": "sleep 1007"}])
        running = self.project.start("build", "x")
        running.until("base sqsh:")
        return running

    def layer(self) -> Running:
        script = "sleep 1008 & setsid sleep 1009 & trap '' TERM INT; echo ready; sleep 1010; wait"
        self.project.manifest("x", [{"run": script}])
        running = self.project.start("build", "x", "--json")
        running.until('"line": "ready"')
        return running

    def export(self) -> Running:
        self.project.site("slow", squashfs={"level": 22})
        self.project.manifest("x", [{"run": SLOW_TO_PACK}])
        running = self.project.start("build", "x", "--site", "slow")
        running.until("export ...")
        return running

    def smoke(self) -> Running:
        self.project.hook("endless", "setsid sleep 1011 & trap '' TERM INT; echo ready; sleep 1012")
        self.project.manifest("x", smoke=["endless"])
        running = self.project.start("build", "x", "--json")
        running.until('"line": "ready"')
        return running

    @contextlib.contextmanager
    def reached(self, phase: str) -> Iterator[Running]:
        with contextlib.ExitStack() as stack:
            if phase == "publish":
                self.project.manifest("x")
                (self.project.images / "x").mkdir(parents=True)
                stack.enter_context(files.locked(self.project.images / "x/.lock", wait=0))
                running = self.project.start("build", "x")
                running.until("which holds")
            else:
                running = getattr(self, phase)()
            yield running


@pytest.fixture
def stages(project: Project, mirror: Mirror) -> Stages:
    return Stages(project, mirror)


def leaves_nothing(project: Project, family: Family) -> None:
    family.assert_ended()
    assert traces(project.root) == []
    assert project.workspaces() == []
    project.nothing_published()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_leaves_no_process_mount_or_file(
    stages: Stages, phase: str, number: signal.Signals, code: int
) -> None:
    with stages.reached(phase) as running:
        family = Family(running.pid)
        running.send(number)
        running.end().expect(code, f"stopped by {number.name}", "nothing was published")
        leaves_nothing(stages.project, family)


def test_a_lost_connection_is_a_signal_too(stages: Stages) -> None:
    with stages.reached("layer") as running:
        family = Family(running.pid)
        running.send(signal.SIGHUP)
        running.end().expect(129, "stopped by SIGHUP")
        leaves_nothing(stages.project, family)


def test_an_impatient_second_signal_does_not_leave_things_half_done(stages: Stages) -> None:
    with stages.reached("layer") as running:
        family = Family(running.pid)
        for _ in range(5):
            running.send(signal.SIGINT)
        running.end().expect(130)
        leaves_nothing(stages.project, family)


@pytest.mark.parametrize("phase", PHASES)
def test_what_a_kill_leaves_is_reaped_by_the_next_run(stages: Stages, phase: str) -> None:
    project = stages.project
    with stages.reached(phase) as running:
        family = Family(running.pid)
        running.send(signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
        family.assert_ended()
        [left] = project.workspaces()
        project.nothing_published()
    done = project.run("gc", "--json").expect(0)
    assert done.events("result")[0]["workspaces"] == [left]
    assert project.workspaces() == []
    assert traces(project.root) == []


def test_the_next_build_reaps_the_dead_and_neither_the_living_nor_the_kept(
    stages: Stages, project: Project, tmp_path: Path
) -> None:
    with stages.reached("layer") as running:
        family = Family(running.pid)
        running.send(signal.SIGKILL)
        running.end()
        family.assert_ended()
    [dead] = project.workspaces()
    project.manifest("kept", [{"run": "exit 3"}])
    project.run("build", "kept", "--keep").expect(6)
    [kept] = project.workspaces()
    assert kept != dead
    gate = tmp_path / "gate"
    gate.mkdir()
    script = "echo waiting; until [ -e /mnt/gate/open ]; do read -r -t 0.1 _ <> <(:) || :; done"
    project.manifest("alive", [{"run": script}], mounts=[f"{gate}:/mnt/gate"])
    living = project.start("build", "alive", "--json")
    living.until('"line": "waiting"')
    project.manifest("y")
    project.build("y")
    left = project.workspaces()
    assert len(left) == 2 and kept in left
    project.run("gc", "--name", "nothing").expect(0)
    assert project.workspaces() == left
    (gate / "open").touch()
    living.end().expect(0)
    assert project.workspaces() == [kept]


def test_a_kill_between_file_and_catalog_is_mended_by_the_next_build(project: Project) -> None:
    project.manifest("x")
    project.images.mkdir()
    with files.locked(project.images / ".lock", wait=0):
        running = project.start("build", "x")
        running.until("which holds")
        running.send(signal.SIGKILL)
        running.end()
    assert project.store.channels("x") == {"current": "small-r1"}
    project.run("list").expect(0, "small-r1")
    project.run("build", "x").expect(0, "x small-r1 is up to date")
    versions = json.loads(project.store.catalog.read_text())["images"]["x"]["versions"]
    assert [version["version"] for version in versions] == ["small-r1"]


def test_a_signal_after_the_rename_does_not_claim_that_nothing_was_published(project: Project) -> None:
    project.manifest("x")
    project.images.mkdir()
    with files.locked(project.images / ".lock", wait=0):
        running = project.start("build", "x")
        running.until("which holds")
        running.send(signal.SIGTERM)
        done = running.end().expect(143)
    assert project.store.channels("x") == {"current": "small-r1"}
    assert "nothing was published" not in done.said
    assert "x-small-r1.sqsh" in done.said
    assert project.workspaces() == []


def test_a_signal_ends_a_shell_and_what_runs_in_it(project: Project) -> None:
    project.manifest("x")
    project.build("x")
    argv = [str(project.invoke), "shell", "x"]
    with subprocess.Popen(
        argv, env=dict(project.environ), cwd=project.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdin and shell.stdout
        shell.stdin.write(b"echo ready; sleep 1013\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"ready\n"
        family = Family(shell.pid)
        shell.send_signal(signal.SIGTERM)
        assert shell.wait() == 143
    family.assert_ended()
    assert traces(project.root) == []
    assert project.workspaces() == []
