"""Slurm: sbatch, squeue, scancel, and sacct where jobs are accounted for.

Owns what these take and say. Slurm forgets an ended job after MinJobAge (five minutes).
https://slurm.schedmd.com/squeue.html, 'JOB STATE CODES'
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from kiln.errors import SchedulerError
from kiln.resources import Resources, kibibytes
from kiln.run import CommandFailed
from kiln.schedulers.contract import (
    BLOCKED,
    CANCELLED,
    DONE,
    ENDED,
    FAILED,
    MEMORY,
    NODE,
    QUEUED,
    RUNNING,
    WAITING,
    WALLTIME,
    Client,
    Request,
    Status,
    of_exit_code,
    of_signal,
)

# With a suffix and no size a field is as long as its value.
FIELDS = "JobID:|,State:|,Reason:|,exit_code:|,BatchHost:|"
UNKNOWN_JOB = "Invalid job id specified"
SILENT = re.compile("Unable to contact slurm controller|Socket timed out|Connection refused")
NEVER = "DependencyNeverSatisfied"
NOTHING = ("", "None", "(null)", "n/a")
CAUSES = {
    "TIMEOUT": WALLTIME,
    "DEADLINE": WALLTIME,
    "OUT_OF_MEMORY": MEMORY,
    "NODE_FAIL": NODE,
    "BOOT_FAIL": NODE,
    "PREEMPTED": CANCELLED,
    "CANCELLED": CANCELLED,
    "REVOKED": CANCELLED,
}
BEFORE = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
)


class Slurm:
    """Slurm's commands."""

    name = "slurm"

    def __init__(self, environ: Mapping[str, str], patience: float) -> None:
        self._client = Client("Slurm", environ, patience)

    def command(self, request: Request) -> list[str]:
        return arguments(request)

    def submit(self, request: Request) -> str:
        try:
            said = self._client.ask(self.command(request), "submit a job")
        except CommandFailed as error:
            raise self._failure(error, f"take the job {request.name}") from error
        # --parsable: ID, or ID;CLUSTER
        found = re.match(r"(\d+)(;|\s|$)", said)
        if not found:
            raise SchedulerError(f"sbatch gave no job id: {said!r}", self._client.hint)
        return found[1]

    def query(self, ids: Sequence[str]) -> dict[str, Status]:
        argv = ["squeue", "--noheader", "--states=all", f"--jobs={','.join(ids)}", f"--Format={FIELDS}"]
        try:
            said = self._client.ask(argv, "ask for jobs")
        except CommandFailed as error:
            if UNKNOWN_JOB not in " ".join(error.details):
                raise self._failure(error, "say how jobs are") from error
            said = ""
        rows = (line.strip().split("|") for line in said.splitlines())
        found = {row[0]: status(row[1], row[2], int(row[3]), row[4]) for row in rows if len(row) > 5}
        missing = [job for job in ids if job not in found]
        return {**found, **(self._accounted(missing) if missing else {})}

    def _accounted(self, ids: Sequence[str]) -> dict[str, Status]:
        """Of jobs that the controller has forgotten, where the site accounts for jobs."""
        argv = [
            "sacct",
            "-n",
            "-P",
            "-X",
            "-o",
            "JobIDRaw,State,ExitCode,NodeList",
            f"--jobs={','.join(ids)}",
        ]
        try:
            said = self._client.ask(argv, "ask for ended jobs")
        except (CommandFailed, SchedulerError):
            return {}
        found = {}
        for job, state, code, node in (line.split("|") for line in said.splitlines() if line.count("|") == 3):
            number, _, signal = code.partition(":")
            wait = (int(number) << 8) + int(signal or 0)
            found[job] = status(state.split()[0], "", wait, node)
        return {job: each for job, each in found.items() if job in ids}

    def cancel(self, job: str) -> None:
        try:
            self._client.ask(["scancel", job], "cancel a job")
        except CommandFailed as error:
            if "Invalid job id" not in " ".join(error.details):
                raise self._failure(error, f"cancel job {job}") from error

    def _failure(self, error: CommandFailed, what: str) -> SchedulerError:
        return self._client.failure(error, what, silent=bool(SILENT.search(" ".join(error.details))))


def arguments(request: Request) -> list[str]:
    """The command line of sbatch."""
    wanted = request.resources
    argv = [
        "sbatch",
        "--parsable",
        # Of the caller's environment, which sbatch passes on whole, one variable.
        "--export=HOME",
        f"--job-name={request.name}",
        f"--output={str(request.log).replace('%', '%%')}",
        "--open-mode=append",
        # A job that starts anew by itself can't be told from one that goes on.
        "--no-requeue",
        "--nodes=1",
        "--ntasks=1",
        *_sizes(wanted),
    ]
    if request.after:
        argv += [f"--dependency=afterok:{':'.join(request.after)}", "--kill-on-invalid-dep=yes"]
    if request.begin:
        argv.append(f"--begin={datetime.fromtimestamp(request.begin).isoformat(timespec='seconds')}")
    argv += [f"--partition={wanted.queue}"] if wanted.queue else []
    argv += [f"--account={wanted.project}"] if wanted.project else []
    return [*argv, str(request.program)]


def _sizes(wanted: Resources) -> list[str]:
    sizes = [
        f"--cpus-per-task={wanted.cpus}",
        f"--mem={kibibytes(wanted.memory)}K",
        f"--time={-(-wanted.time // 60)}",
    ]
    sizes += [f"--gres=gpu:{wanted.gpus}"] if wanted.gpus else []
    sizes += [f"--tmp={kibibytes(wanted.disk)}K"] if wanted.disk else []
    return sizes


def status(state: str, reason: str, wait: int, node: str) -> Status:
    """Slurm's state, reason and wait status of a job (exit code << 8 | signal) in Kiln's words."""
    said = "" if reason in NOTHING else reason
    place = "" if node in NOTHING else node
    if state in BEFORE:
        return Status(WAITING if said in ("Dependency", NEVER) else QUEUED, reason=said)
    if state == "COMPLETED":
        return Status(ENDED, DONE, 0, node=place)
    if state == "CANCELLED" and said == NEVER:
        return Status(ENDED, BLOCKED, reason=said)
    if state in CAUSES:
        return Status(ENDED, CAUSES[state], _code(wait), said if state != "CANCELLED" else "", place)
    if state == "FAILED":
        return _failed(wait, said)
    return Status(RUNNING, reason=said, node=place)


def _failed(wait: int, said: str) -> Status:
    code = _code(wait)
    if wait & 0x7F:
        return of_signal(wait & 0x7F, said)
    if code and said in ("", "NonZeroExitCode"):
        return of_exit_code(code)
    # It never ran: what it asks for is nowhere to be had.
    return Status(ENDED, FAILED, None, said)


def _code(wait: int) -> int | None:
    return wait >> 8 or None
