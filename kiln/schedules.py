"""Schedules: what of Kiln is run again and again, and the folder that each has.

    <cache>/v1/jobs/<uid>/schedules/
      .lock                 one schedule of the user's runs at a time
      <name>/
        schedule.json       when, what, where, with which variables
        state.json          when it is due next and, of a job that submits itself, which one that is
        run.sh              what cron, systemd or the scheduler starts
        .lock               held while it runs
        log  log.1          what its runs wrote
        runs.jsonl          when each began and ended, and its exit code

Owns these files. How a schedule gets to cron, systemd or a scheduler is in `kiln.installing`.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiln import files, ledger, recurrence
from kiln.errors import StoreError, UsageError
from kiln.recurrence import Recurrence

FORMAT = 1
FOLDER = "schedules"
LOCK = ".lock"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")
LOG_LIMIT = 4 << 20
CRON, SYSTEMD, JOB = "cron", "systemd", "job"


@dataclass(frozen=True)
class Schedule:
    """One schedule: `kind` is cron, systemd or job; `argv` Kiln's command line; `every` as it was given.

    `scheduler` is that of a job, with what such a job asks for (`resources`); '' for the other kinds.
    """

    name: str
    kind: str
    every: str
    argv: tuple[str, ...]
    root: str
    site: str
    environment: Mapping[str, str]
    umask: int
    scheduler: str = ""
    resources: Mapping[str, Any] | None = None
    format: int = FORMAT

    @property
    def recurrence(self) -> Recurrence:
        return recurrence.parse(self.every)

    @property
    def command(self) -> str:
        return " ".join(("kiln", *self.argv))


@dataclass(frozen=True)
class Run:
    """One run that has ended: Unix seconds, and the exit code."""

    began: float
    ended: float
    code: int


@dataclass(frozen=True)
class Listed:
    """A schedule, how it stands, and its last run; `problem` says why it won't run by itself."""

    schedule: Schedule
    problem: str
    due: float
    last: Run | None
    log: str

    def to_data(self) -> dict[str, Any]:
        made = self.schedule
        return {
            **{"name": made.name, "every": made.every, "kind": made.kind, "argv": list(made.argv)},
            **{"problem": self.problem, "due": self.due, "log": self.log},
            "last": asdict(self.last) if self.last else None,
        }


@dataclass(frozen=True)
class Place:
    """A schedule's folder."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def script(self) -> Path:
        return self.path / "run.sh"

    @property
    def lock(self) -> Path:
        return self.path / LOCK

    @property
    def shared_lock(self) -> Path:
        return self.path.parent / LOCK

    def write(self, schedule: Schedule) -> None:
        ledger.private_folder(self.path)
        text = json.dumps(asdict(schedule), indent=1)
        files.write_atomic(self.path / "schedule.json", text.encode(), 0o600)
        files.write_atomic(self.script, ledger.script("kiln.scheduled", self.path).encode(), 0o700)

    def read(self) -> Schedule:
        """Raises `StoreError` for one that is damaged, or of a newer Kiln."""
        place = self.path / "schedule.json"
        try:
            data = json.loads(place.read_text())
            if data["format"] > FORMAT:
                raise StoreError(f"{place} was written by a newer Kiln", "update this Kiln")
            return Schedule(**{**data, "argv": tuple(data["argv"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = f"make it anew: invoke schedule --name {self.path.name} --every …"
            raise StoreError(f"{place} can't be read as a schedule: {error}", hint) from error

    def state(self) -> dict[str, Any]:
        """`due` (Unix seconds) and `job`, where they are known."""
        try:
            data = json.loads((self.path / "state.json").read_text())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def keep(self, due: float, job: str = "") -> None:
        files.write_atomic(self.path / "state.json", json.dumps({"due": due, "job": job}).encode(), 0o600)

    def add(self, run: Run) -> None:
        with files.Log(self.path / "runs.jsonl") as stream:
            stream.write(json.dumps(asdict(run)) + "\n")

    def last(self) -> Run | None:
        """The last run that has ended."""
        with contextlib.suppress(OSError, ValueError, TypeError, IndexError):
            return Run(**json.loads((self.path / "runs.jsonl").read_text().splitlines()[-1]))
        return None

    def turn_log(self) -> None:
        """Begin a new log where the old one is long; one old one is kept."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_LIMIT:
                self.log.replace(self.log.with_name("log.1"))

    def next_due(self, schedule: Schedule) -> float:
        """When it is to run after now."""
        return schedule.recurrence.after(float(self.state().get("due", 0.0)), time.time())


def place(jobs: Path, name: str) -> Place:
    """The folder of a schedule of the caller's. Raises `UsageError` for what can't be a name."""
    if not NAME.fullmatch(name):
        raise UsageError(f"'{name}' can't be the name of a schedule", "use small letters, digits, _ and -")
    return Place(ledger.of(jobs).folder / FOLDER / name)


def places(jobs: Path) -> list[Place]:
    """The folders of the caller's schedules, by name."""
    folder = ledger.of(jobs).folder / FOLDER
    try:
        return [Place(path) for path in sorted(folder.iterdir()) if (path / "schedule.json").is_file()]
    except OSError:
        return []
