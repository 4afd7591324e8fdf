"""The words of Slurm and PBS, what jobs ask for, and who takes them: no scheduler is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiln import site as sites
from kiln import unattended
from kiln.errors import SchedulerError, UsageError
from kiln.resources import BUILD, SMOKE, Jobs, Resources, Sizes, resources
from kiln.schedulers import choice, pbs, slurm
from kiln.schedulers.contract import NoAnswer, Request, Status
from kiln.schedulers.slurm import Slurm
from kiln.site import Site

ROOT = Path(__file__).resolve().parents[2]
HOME = {"HOME": "/home/me", "USER": "me"}
WANTED = Resources(cpus=4, memory=10**10, gpus=1, time=90, disk=10**9, queue="gpu", project="p1")


@pytest.fixture
def aspire() -> Site:
    return sites.load("aspire2a-plus", ROOT, {**HOME, "KILN_PROJECT": "p1"})


# --- Slurm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "state", "cause", "code"),
    [
        (("PENDING", "Dependency", 0, ""), "waiting", "", None),
        (("PENDING", "Resources", 0, ""), "queued", "", None),
        (("RUNNING", "None", 0, "n1"), "running", "", None),
        (("COMPLETING", "None", 0, "n1"), "running", "", None),
        (("COMPLETED", "None", 0, "n1"), "ended", "done", 0),
        (("FAILED", "NonZeroExitCode", 6 << 8, "n1"), "ended", "failed", 6),
        (("FAILED", "NonZeroExitCode", 137 << 8, "n1"), "ended", "killed", 137),
        (("FAILED", "JobLaunchFailure", 9, "n1"), "ended", "killed", 137),
        (("FAILED", "BadConstraints", 256, "n/a"), "ended", "failed", None),
        (("TIMEOUT", "TimeLimit", 143 << 8, "n1"), "ended", "out of time", 143),
        (("OUT_OF_MEMORY", "OutOfMemory", 125 << 8, "n1"), "ended", "out of memory", 125),
        (("NODE_FAIL", "NodeDown", 0, "n1"), "ended", "node failure", None),
        (("CANCELLED", "None", 15, "n1"), "ended", "cancelled", None),
        (("CANCELLED", "DependencyNeverSatisfied", 0, ""), "ended", "blocked", None),
    ],
)
def test_slurms_words(said: tuple[str, str, int, str], state: str, cause: str, code: int | None) -> None:
    found = slurm.status(*said)
    assert (found.state, found.cause, found.code) == (state, cause, code)


def test_what_sbatch_is_given() -> None:
    argv = slurm.arguments(Request("build-a", Path("/j/job.sh"), Path("/a%j/log"), WANTED, ("4", "5")))
    assert argv[:3] == ["sbatch", "--parsable", "--export=HOME"]
    assert argv[-1] == "/j/job.sh"
    assert "--output=/a%%j/log" in argv
    assert {"--mem=9765625K", "--time=2", "--gres=gpu:1", "--tmp=976563K", "--account=p1"} <= set(argv)
    assert {"--dependency=afterok:4:5", "--kill-on-invalid-dep=yes", "--partition=gpu"} <= set(argv)


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_job_that_slurm_has_forgotten_is_asked_of_the_accounts(tmp_path: Path) -> None:
    found = Slurm({"PATH": f"{tmp_path}:{os.environ['PATH']}"}, 10)
    tool(tmp_path, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    tool(tmp_path, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert found.query(["7"]) == {}
    tool(tmp_path, "sacct", "echo '7|CANCELLED by 1000|0:15|n1'; echo '8|FAILED|6:0|n1'; echo 9")
    said = found.query(["7", "8"])
    assert (said["7"].cause, said["8"].cause, said["8"].code) == ("cancelled", "failed", 6)
    tool(tmp_path, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(NoAnswer):
        found.query(["7"])


def test_an_answer_without_an_id_and_one_that_never_comes(tmp_path: Path) -> None:
    request = Request("build-a", Path("/j/job.sh"), Path("/log"), WANTED)
    tool(tmp_path, "sbatch", "echo hello")
    with pytest.raises(SchedulerError, match="gave no job id: 'hello'"):
        Slurm({"PATH": f"{tmp_path}:{os.environ['PATH']}"}, 10).submit(request)
    tool(tmp_path, "sbatch", "exec sleep 1000")
    with pytest.raises(NoAnswer, match=r"did not answer within 0\.2 s"):
        Slurm({"PATH": f"{tmp_path}:{os.environ['PATH']}"}, 0.2).submit(request)
    tool(tmp_path, "sbatch", "env >&2; exit 1")
    with pytest.raises(SchedulerError) as caught:
        Slurm({"PATH": f"{tmp_path}:{os.environ['PATH']}", "TOKEN": "hunter2"}, 10).submit(request)
    assert "hunter2" not in " ".join(caught.value.details)


# --- PBS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (
            {"job_state": "Q", "comment": "Can Never Run: ncpus"},
            Status("queued", reason="Can Never Run: ncpus"),
        ),
        (
            {"job_state": "H", "Hold_Types": "s", "depend": "afterok:1.s@s"},
            Status("waiting", reason="Dependency"),
        ),
        ({"job_state": "H", "Hold_Types": "u"}, Status("queued", reason="held by its user")),
        ({"job_state": "R", "exec_host": "n1/0*2"}, Status("running", node="n1")),
        ({"job_state": "F", "substate": 92, "Exit_status": 0}, Status("ended", "done", 0)),
        ({"job_state": "F", "substate": 92}, Status("ended", "blocked")),
        ({"job_state": "F", "substate": 93, "Exit_status": 7}, Status("ended", "failed", 7)),
        ({"job_state": "F", "substate": 93, "Exit_status": 137}, Status("ended", "killed", 137)),
        ({"job_state": "F", "substate": 93, "Exit_status": -29}, Status("ended", "out of time", -29)),
        ({"job_state": "F", "substate": 93, "Exit_status": -27}, Status("ended", "out of memory", -27)),
        ({"job_state": "F", "substate": 93, "Exit_status": -3}, Status("ended", "node failure", -3)),
        ({"job_state": "F", "substate": 91}, Status("ended", "cancelled")),
        ({"job_state": "F", "substate": 91, "Exit_status": 0}, Status("ended", "cancelled")),
    ],
)
def test_pbss_words(job: dict[str, object], expected: Status) -> None:
    assert pbs.status(job) == expected


def test_what_qsub_is_given() -> None:
    argv = pbs.arguments(Request("build-a.b", Path("/j/job.sh"), Path("/log"), WANTED, ["4.s", "5.s"]), "ssd")
    assert argv[:4] == ["qsub", "-f", "-N", "build-a_b"]
    assert argv[-2:] == ["--", "/j/job.sh"]
    assert "select=1:ncpus=4:mem=9765625kb:ngpus=1:ssd=976563kb" in argv
    assert {"walltime=00:01:30", "depend=afterok:4.s:5.s"} <= set(argv)
    assert not {"-V", "-v"} & set(argv)


# --- what is asked for, and of whom ----------------------------------------------------------------


def test_the_manifest_wins_over_the_site_and_the_site_over_what_ships(aspire: Site) -> None:
    image = Jobs(build=Sizes(cpus=4), smoke=Sizes(gpus=2))
    build = resources(BUILD, aspire.jobs, image)
    assert (build.cpus, build.memory, build.gpus, build.project) == (4, 235 * 10**9, 0, "p1")
    assert resources(SMOKE, aspire.jobs, image, gpu=True).gpus == 2
    assert resources(SMOKE, aspire.jobs, Jobs(), gpu=True).gpus == 1
    assert resources(SMOKE, aspire.jobs, Jobs(), gpu=False).gpus == 0


def test_who_takes_the_jobs(aspire: Site) -> None:
    local = sites.load("local", ROOT, HOME)
    assert choice.wanted("", local, {}) == "here"
    assert choice.wanted("slurm", local, {}) == "slurm"
    assert choice.wanted("", aspire, {}) == "pbs"
    assert choice.wanted("", aspire, {"PBS_JOBID": "1.srv"}) == "here"
    assert choice.wanted("here", aspire, {}) == "here"
    with pytest.raises(UsageError, match="no such scheduler"):
        choice.wanted("lsf", local, {})


def test_what_a_job_keeps_of_the_callers_environment() -> None:
    local, said = sites.load("local", ROOT, HOME), list[str]()
    environ = {
        **{"KILN_IMAGES": "/i", "TOKEN": "hunter2", "KILN_BUILD": "x", "no_proxy": "localhost"},
        **{"http_proxy": "http://me:hunter2@proxy:1", "PATH": "/opt/bin:/bin"},
    }
    kept = unattended.carried(local, environ, said.append)
    assert kept == {"KILN_IMAGES": "/i", "no_proxy": "localhost", "PATH": "/opt/bin:/bin"}
    assert said == ["http_proxy has a login in it and is not kept for later: write it into sites/local.yaml"]
    found = unattended.environment(kept, {"PBS_JOBID": "7", "PATH": "/bin"})
    assert (found["PBS_JOBID"], found["PATH"], found["HOME"]) == (
        "7",
        "/opt/bin:/bin",
        os.path.expanduser("~"),
    )
