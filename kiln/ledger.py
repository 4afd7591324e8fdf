"""The jobs that Kiln has submitted: a folder for each, which the job itself writes to.

    <cache>/v1/jobs/<uid>/
      .lock               held while jobs are submitted
      <job>/              IMAGE-KIND-TIME-PID
        job.json          what it is to do; never changed
        job.sh            what the scheduler starts; holds the folder's path and nothing else
        id                the scheduler's id of it
        start.json        when it started, where, under which id: written by the job
        events.jsonl      its progress, as `--json` has it: written by the job
        output.log        what else it writes
        scheduler.log     what the scheduler says of it
        end.json          its exit code: written by the job; missing where it was killed
        status.json       how it ended in the scheduler's words, once that was asked

Owns these files. No secret is ever in one, and the folder is its user's alone. Asks no scheduler.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kiln import files
from kiln.errors import StoreError
from kiln.schedulers.contract import ENDED, QUEUED, RUNNING, Status, of_exit_code

FORMAT = 1
LOCK = ".lock"
WAIT_SECONDS = 120.0
KEEP_SECONDS = 30 * 86_400
LONGEST_EVENTS = 64 << 20


@dataclass(frozen=True)
class Job:
    """What a job is to do: `argv` is Kiln's command line, `environment` what it has beside the node's own.

    `after` are the folders' names of jobs that must have ended well; `store` is the images folder that it
    writes to; `reference` what a person calls its subject, most often the image's name.
    """

    kind: str
    image: str
    reference: str
    argv: tuple[str, ...]
    root: str
    environment: Mapping[str, str]
    umask: int
    scheduler: str
    store: str
    submitted: float
    resources: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    format: int = FORMAT


@dataclass(frozen=True)
class Entry:
    """One job of the ledger."""

    path: Path
    job: Job

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def log(self) -> Path:
        return self.path / "output.log"

    @property
    def scheduler_log(self) -> Path:
        return self.path / "scheduler.log"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def script(self) -> Path:
        return self.path / "job.sh"

    @property
    def id(self) -> str:
        """The scheduler's id; '' where it isn't known: Kiln was killed while it submitted the job."""
        with contextlib.suppress(OSError):
            return (self.path / "id").read_text().strip()
        return str(self._read("start.json").get("id", ""))

    @property
    def title(self) -> str:
        return f"{self.job.kind} {self.job.reference}"

    @property
    def started(self) -> float:
        """Unix seconds; 0 for one that hasn't."""
        return float(self._read("start.json").get("time", 0.0))

    @property
    def ended(self) -> float:
        return float(self._read("end.json").get("time", 0.0) or self._read("status.json").get("time", 0.0))

    @property
    def said(self) -> Status | None:
        """How it ended, by its own word; None where it left none."""
        code = self._read("end.json").get("code")
        return of_exit_code(code) if isinstance(code, int) else None

    @property
    def status(self) -> Status:
        """How it is, as far as its folder says: its scheduler may know better of one that hasn't ended."""
        with contextlib.suppress(TypeError):
            known = self._read("status.json")
            if known:
                return Status(**{name: value for name, value in known.items() if name != "time"})
        if said := self.said:
            return said
        begun = self._read("start.json")
        return Status(RUNNING, node=str(begun.get("host", ""))) if begun else Status(QUEUED)

    @property
    def settled(self) -> bool:
        """Whether its scheduler has said how it ended."""
        return (self.path / "status.json").exists()

    def submitted_as(self, job: str) -> None:
        files.write_atomic(self.path / "id", f"{job}\n".encode(), 0o600)

    def begins(self, job: str) -> None:
        """To be called in the job itself."""
        self._write("start.json", {"id": job, "host": os.uname().nodename, "time": time.time()})

    def ends(self, code: int) -> None:
        """To be called in the job itself, last."""
        self._write("end.json", {"code": code, "time": time.time()})

    def settle(self, status: Status) -> None:
        """Keep how it ended: the scheduler forgets it."""
        if status.state == ENDED:
            self._write("status.json", {**status.to_data(), "time": self.ended or time.time()})

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        files.write_atomic(self.path / name, json.dumps(data).encode(), 0o600)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}


@dataclass(frozen=True)
class Ledger:
    """The caller's jobs, below `folder`."""

    folder: Path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one who submits jobs. Raises `BusyError`."""
        private_folder(self.folder)
        with files.locked(self.folder / LOCK, wait=WAIT_SECONDS):
            yield

    def add(self, job: Job) -> Entry:
        """A folder for a job that is about to be submitted."""
        private_folder(self.folder)
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        path = self.folder / f"{job.image}-{job.kind}-{stamp}-{os.getpid()}"
        with files.translated(path):
            path.mkdir(mode=0o700)
        files.write_atomic(path / "job.json", json.dumps(asdict(job), indent=1).encode(), 0o600)
        files.write_atomic(path / "job.sh", script("kiln.jobentry", path).encode(), 0o700)
        return Entry(path, job)

    def entries(self) -> list[Entry]:
        """All jobs, the oldest first; one whose folder is damaged is left out."""
        try:
            paths = [path for path in self.folder.iterdir() if (path / "job.json").is_file()]
        except OSError:
            return []
        found = []
        for path in paths:
            with contextlib.suppress(StoreError):
                found.append(read(path))
        return sorted(found, key=lambda entry: (entry.job.submitted, entry.name))

    def entry(self, name: str) -> Entry:
        return read(self.folder / name)

    def tidy(self) -> None:
        """Remove the folders of jobs that ended long ago."""
        for entry in self.entries():
            if entry.settled and 0 < entry.ended < time.time() - KEEP_SECONDS:
                files.remove_tree(entry.path)


def of(jobs: Path) -> Ledger:
    """The caller's ledger below the site's folder for jobs."""
    return Ledger(jobs / str(os.getuid()))


def private_folder(path: Path) -> None:
    """The caller's own folder below one that all may share. Raises `StoreError` for another's."""
    with files.translated(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise StoreError(f"{path} isn't yours", f"have it removed: it holds your jobs; see: ls -ld {path}")


def script(module: str, folder: Path) -> str:
    """The lines that start a module of Kiln's on a folder: from any folder, with any environment."""
    # -I: no folder of the caller's is looked into for modules.
    return f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -m {module} {shlex.quote(str(folder))}\n"


def read(path: Path) -> Entry:
    """The job in a folder. Raises `StoreError` for one that is damaged, or of a newer Kiln."""
    place = path / "job.json"
    try:
        data = json.loads(place.read_text())
        if data["format"] > FORMAT:
            raise StoreError(f"{place} was written by a newer Kiln", "update this Kiln")
        job = Job(**{**data, "argv": tuple(data["argv"]), "after": tuple(data["after"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place} can't be read as a job: {error}", f"look at it: less {place}") from error
    return Entry(path, job)


class Reader:
    """What a job's events say, read as they come: the step, its last line, the error or result at the end."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.step, self.line = "", ""
        self.error: dict[str, Any] = {}
        self.result: dict[str, Any] = {}

    def news(self) -> list[str]:
        """Steps that began or failed, and warnings, since the last call."""
        found = []
        for line in self._lines():
            try:
                event = json.loads(line)
                found += self._take(str(event["event"]), event)
            except (ValueError, KeyError, TypeError):
                continue  # cut off by what killed the job
        return found

    def _take(self, kind: str, event: Mapping[str, Any]) -> list[str]:
        if kind == "step-started":
            self.step, self.line = str(event["step"]), ""
            return [self.step]
        if kind == "output":
            self.line = str(event["line"])
        elif kind == "error":
            self.error = dict(event)
        elif kind == "result":
            self.result = dict(event)
        elif kind == "warning":
            return [f"warning: {event['text']}"]
        return []

    def _lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read(LONGEST_EVENTS)
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()
