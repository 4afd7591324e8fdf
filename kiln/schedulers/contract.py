"""What every batch scheduler does for Kiln: take a job, say how it is, end it.

Owns the words for a job's state and for why it ended, and the way to a scheduler's own commands, each with
a time limit: with the controller down a client may hang for minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from kiln.errors import SchedulerError
from kiln.resources import Resources
from kiln.run import CommandFailed, TimeLimit, host_environment, run

# States of a job. `WAITING` is for other jobs, `QUEUED` for all else.
QUEUED, WAITING, RUNNING, ENDED = "queued", "waiting", "running", "ended"
# Why one ended. `BLOCKED`: it never ran, for a job that it waits for failed. `LOST`: nobody knows.
DONE, FAILED, BLOCKED, LOST = "done", "failed", "blocked", "lost"
WALLTIME, MEMORY, NODE = "out of time", "out of memory", "node failure"
CANCELLED, KILLED = "cancelled", "killed"
# What a client finds its configuration by; nothing else of the caller's environment reaches it.
CLIENT_VARIABLES = ("SLURM_CONF", "PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT")
GONE = 128 + 9


class NoAnswer(SchedulerError):
    """It can't be reached, or took too long: asking for something else would be no better."""


@dataclass(frozen=True)
class Status:
    """How a job is: `cause` is '' until it has ended, `code` its program's exit code where there is one.

    `reason` is what the scheduler says of it, `node` where it runs.
    """

    state: str
    cause: str = ""
    code: int | None = None
    reason: str = ""
    node: str = ""

    @property
    def ended(self) -> bool:
        return self.state == ENDED

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Request:
    """A job to be: `program` is an executable file, `log` takes what the scheduler says of it.

    `after` are ids of jobs that must end well before it starts. It starts at the local time `begin` (Unix
    seconds) or later; 0 for at once.
    """

    name: str
    program: Path
    log: Path
    resources: Resources
    after: Sequence[str] = ()
    begin: float = 0.0


class Scheduler(Protocol):
    """A batch scheduler. Every method raises `SchedulerError` where it doesn't answer or refuses."""

    name: str

    def submit(self, request: Request) -> str:
        """Submit a job; returns its id."""

    def command(self, request: Request) -> list[str]:
        """The command line by which `submit` does it."""

    def query(self, ids: Sequence[str]) -> dict[str, Status]:
        """How these jobs are. Those that the scheduler doesn't know any more are left out."""

    def cancel(self, job: str) -> None:
        """End a job, or take it out of the queue; one that has ended is fine."""


@dataclass(frozen=True)
class Client:
    """The door to a scheduler's commands; `patience` is the limit of one call in seconds."""

    title: str
    environ: Mapping[str, str]
    patience: float

    def ask(self, argv: Sequence[str], what: str) -> str:
        """What a command writes to its stdout. Raises `CommandFailed`, `SchedulerError` after the limit."""
        own = {name: self.environ[name] for name in CLIENT_VARIABLES if name in self.environ}
        env = host_environment(self.environ, own)
        try:
            return run(argv, what=what, env=env, timeout=self.patience, separate=True).output
        except TimeLimit as error:
            raise NoAnswer(
                f"{self.title} did not answer within {self.patience:g} s ({what})", self.hint, error.details
            ) from error

    def failure(self, error: CommandFailed, what: str, *, silent: bool) -> SchedulerError:
        """What a command's failure means where no other meaning is known; `silent` is no answer at all."""
        if silent:
            return NoAnswer(f"{self.title} does not answer", self.hint, error.details)
        return SchedulerError(
            f"{self.title} refused to {what} (exit code {error.result.returncode})", self.hint, error.details
        )

    @property
    def hint(self) -> str:
        return "jobs that were submitted go on; look again later with: invoke jobs"


def of_exit_code(code: int) -> Status:
    """How a job ended whose program gave `code`; a shell gives 128 + N for signal N."""
    if code == 0:
        return Status(ENDED, DONE, 0)
    return Status(ENDED, KILLED if code == GONE else FAILED, code)


def of_signal(number: int, reason: str) -> Status:
    return Status(ENDED, KILLED, 128 + number, reason or f"signal {number}")
