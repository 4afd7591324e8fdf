"""PBS (OpenPBS, PBS Professional): qsub, qstat, qdel.

Owns what these take and say, as it was read off OpenPBS 23.06. What they say with an exit code is PBS's own
error number & 255; of jobs that have ended qstat knows as long as the server keeps its history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from kiln.errors import SchedulerError
from kiln.resources import Resources, kibibytes
from kiln.run import CommandFailed
from kiln.schedulers.contract import (
    BLOCKED,
    CANCELLED,
    DONE,
    ENDED,
    FAILED,
    KILLED,
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

UNKNOWN_JOB, HAS_ENDED, IS_ENDING = 153, 35, 168
NO_SERVER = (162, 255)
DELETED = 91
# What PBS gives as Exit_status where it, and no program, ended a job: PBS's job.h.
OWN_CODES = {-29: WALLTIME, -28: WALLTIME, -27: MEMORY, -26: MEMORY, -25: KILLED, -24: KILLED}
BY_SIGNAL = 256
AT_ONCE = 4


class Pbs:
    """PBS's commands. `disk` is the site's resource for local disk, '' where it has none."""

    name = "pbs"

    def __init__(self, environ: Mapping[str, str], patience: float, disk: str) -> None:
        self._client, self._disk = Client("PBS", environ, patience), disk

    def command(self, request: Request) -> list[str]:
        return arguments(request, self._disk)

    def submit(self, request: Request) -> str:
        try:
            said = self._client.ask(self.command(request), "submit a job")
        except CommandFailed as error:
            raise self._failure(error, f"take the job {request.name}") from error
        found = re.fullmatch(r"(\d+(\.\S+)?)", said.strip())
        if not found:
            raise SchedulerError(f"qsub gave no job id: {said!r}", self._client.hint)
        return found[1]

    def query(self, ids: Sequence[str]) -> dict[str, Status]:
        # qstat's JSON of several ids has the first only.
        with ThreadPoolExecutor(min(AT_ONCE, len(ids))) as pool:
            found = dict(zip(ids, pool.map(self._one, ids), strict=True))
        return {job: each for job, each in found.items() if each}

    def _one(self, job: str) -> Status | None:
        try:
            said = self._client.ask(["qstat", "-x", "-f", "-F", "json", job], "ask for a job")
        except CommandFailed as error:
            if error.result.returncode == UNKNOWN_JOB:
                return None
            raise self._failure(error, "say how a job is") from error
        try:
            # A job's own variables may hold anything.
            jobs = json.loads(said, strict=False).get("Jobs", {})
            return next((status(jobs[each]) for each in jobs if _same(each, job)), None)
        except (ValueError, TypeError, AttributeError) as error:
            raise SchedulerError(f"what qstat says of job {job} can't be read: {error}") from error

    def cancel(self, job: str) -> None:
        try:
            self._client.ask(["qdel", job], "cancel a job")
        except CommandFailed as error:
            if error.result.returncode not in (UNKNOWN_JOB, HAS_ENDED, IS_ENDING):
                raise self._failure(error, f"cancel job {job}") from error

    def _failure(self, error: CommandFailed, what: str) -> SchedulerError:
        return self._client.failure(error, what, silent=error.result.returncode in NO_SERVER)


def _same(one: str, other: str) -> bool:
    """Ids are given with the server's name or without."""
    return one == other or one.partition(".")[0] == other.partition(".")[0]


def arguments(request: Request, disk: str) -> list[str]:
    """The command line of qsub. Nobody's environment goes along: there is neither -V nor -v."""
    wanted = request.resources
    argv = [
        "qsub",
        # Without it a qsub stays behind for a minute, and answers for the next one.
        "-f",
        "-N", re.sub(r"[^A-Za-z0-9_-]", "_", request.name)[:230],
        "-l", f"select=1:{':'.join(_chunk(wanted, disk))}",
        "-l", f"walltime={_duration(wanted.time)}",
        "-j", "oe",
        "-o", str(request.log),
        # A job that starts anew by itself can't be told from one that goes on.
        "-r", "n",
    ]  # fmt: skip
    argv += ["-W", f"depend=afterok:{':'.join(request.after)}"] if request.after else []
    argv += ["-a", datetime.fromtimestamp(request.begin).strftime("%Y%m%d%H%M.%S")] if request.begin else []
    argv += ["-q", wanted.queue] if wanted.queue else []
    argv += ["-P", wanted.project] if wanted.project else []
    # Without a shell over it the program itself gets SIGTERM, and has the time to tidy up.
    return [*argv, "--", str(request.program)]


def _chunk(wanted: Resources, disk: str) -> Iterator[str]:
    yield f"ncpus={wanted.cpus}"
    yield f"mem={kibibytes(wanted.memory)}kb"
    if wanted.gpus:
        yield f"ngpus={wanted.gpus}"
    if wanted.disk and disk:
        yield f"{disk}={kibibytes(wanted.disk)}kb"


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


def status(job: Mapping[str, Any]) -> Status:
    """A job of qstat's JSON in Kiln's words."""
    letter, comment = str(job.get("job_state", "")), str(job.get("comment", "")).strip()
    node = str(job.get("exec_host", "")).partition("/")[0]
    if letter in ("F", "X"):
        return _ended(job.get("substate"), job.get("Exit_status"), comment)
    if letter in ("R", "E", "S", "B"):
        return Status(RUNNING, reason="", node=node)
    if letter == "H" and str(job.get("Hold_Types", "")) == "s" and job.get("depend"):
        return Status(WAITING, reason="Dependency")
    return Status(QUEUED, reason="held by its user" if letter == "H" else comment)


def _ended(substate: object, code: object, comment: str) -> Status:
    """By substate and Exit_status together: neither says it alone. See docs/jobs.md, 'PBS'."""
    number = code if isinstance(code, int) else None
    if substate == DELETED:
        return Status(ENDED, CANCELLED, number if number != 0 else None, comment)
    if number is None:
        return Status(ENDED, BLOCKED, None, comment)
    if number < 0:
        return Status(ENDED, OWN_CODES.get(number, NODE), number, comment)
    if number >= BY_SIGNAL:
        return of_signal(number - BY_SIGNAL, comment)
    found = of_exit_code(number)
    if found.cause == DONE and substate != 92:
        return Status(ENDED, FAILED, number, f"substate {substate}")
    return found
