"""What is known of a job: how it stands, why it failed, what to do about it.

Owns the words, and which of a job's ends is an error of which exit code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kiln.errors import BlockedError, JobFailure, KilnError
from kiln.ledger import Entry, Reader
from kiln.schedulers.contract import (
    BLOCKED,
    CANCELLED,
    DONE,
    FAILED,
    KILLED,
    LOST,
    MEMORY,
    NODE,
    WALLTIME,
    Status,
)  # fmt: skip

# What schedulers write to a job's log before they kill it for its memory.
MEMORY_WORDS = ("exceeded memory limit", "oom-kill", "oom_kill", "job killed: mem", "Out Of Memory")
LOG_TAIL = 1 << 16


@dataclass(frozen=True)
class Report:
    """A job and what is known of it; `words` say why it failed, `hint` what to do about it."""

    entry: Entry
    status: Status
    step: str
    words: str
    hint: str
    result: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        job = self.entry.job
        return {
            "id": self.entry.id,
            "job": self.entry.name,
            "kind": job.kind,
            "image": job.image,
            "reference": job.reference,
            "scheduler": job.scheduler,
            "after": list(job.after),
            **self.status.to_data(),
            "step": self.step,
            "problem": self.words,
            "hint": self.hint,
            "submitted": job.submitted,
            "started": self.entry.started,
            "ended": self.entry.ended,
            "log": str(self.entry.log),
            "events": str(self.entry.events),
            "version": self.result.get("version", ""),
            "channel": self.result.get("channel", ""),
        }

    def failure(self) -> KilnError:
        """What is raised for it."""
        message = f"{self.entry.title} (job {self.entry.id}): {self.words}"
        if self.status.cause == BLOCKED:
            return BlockedError(message, self.hint)
        code = self.status.code if self.status.cause == FAILED and self.status.code else 0
        return JobFailure(message, self.hint, code=code)


def report(entry: Entry, status: Status | None = None) -> Report:
    """What is known of a job."""
    reader = Reader(entry.events)
    reader.news()
    how = status or entry.status
    # Slurm without cgroups kills a job for its memory, and calls that failed or cancelled.
    if how.cause in (KILLED, CANCELLED) and _memory_told(entry):
        how = Status(how.state, MEMORY, how.code, how.reason, how.node)
    if how.cause == FAILED and reader.error.get("id") == BlockedError.id:
        how = Status(how.state, BLOCKED, how.code, str(reader.error.get("message", "")), how.node)
    words, hint = _told(entry, how, reader) if how.ended and how.cause != DONE else ("", "")
    return Report(entry, how, reader.step, words, hint, reader.result)


def _told(entry: Entry, status: Status, reader: Reader) -> tuple[str, str]:
    """Why a job failed, and what to do, in words."""
    job = entry.job
    again = f"invoke {job.kind} {job.reference} --on {job.scheduler}"
    kept = f"what it finished is kept, and the next job goes on from there: {again}"
    where = f" during '{reader.step}'" if reader.step else ""
    sizes = f"{job.kind}: {{{{{{}}: …}}}} under 'jobs:' in manifests/{job.image}.yaml asks for more"
    reason = f": {status.reason}" if status.reason else ""
    if status.cause == FAILED and status.code is not None:
        message = reader.error.get("message") or f"exit code {status.code}"
        return str(message), str(reader.error.get("hint") or f"look at: less {entry.log}")
    return {
        WALLTIME: (f"its time was up ({_hours(job.resources)}){where}", f"{kept}; {sizes.format('time')}"),
        MEMORY: (f"it took more memory than it had{where}", f"{kept}; {sizes.format('memory')}"),
        NODE: (f"its node failed{where}{reason}", kept),
        CANCELLED: (f"it was cancelled{where}{reason}", kept),
        BLOCKED: ("it never ran: a job that it waits for failed", f"mend that, then: {again}"),
        KILLED: (f"it was killed{where}{reason}", f"{kept}; see {entry.scheduler_log}"),
        FAILED: (
            f"its scheduler could not run it{reason}",
            f"look at what it asks for: less {entry.path}/job.json",
        ),
        LOST: (f"it vanished{reason}", f"submit it again: {again}"),
    }[status.cause]


def _hours(resources: Mapping[str, Any]) -> str:
    minutes = int(resources.get("time", 0)) // 60
    return f"{minutes // 60}:{minutes % 60:02} h"


def _memory_told(entry: Entry) -> bool:
    try:
        with entry.scheduler_log.open("rb") as stream:
            stream.seek(max(0, entry.scheduler_log.stat().st_size - LOG_TAIL))
            text = stream.read(LOG_TAIL).decode("utf-8", "replace")
    except OSError:
        return False
    return any(words in text for words in MEMORY_WORDS)


def conclude(reports: Sequence[Report]) -> None:
    """Raise what is wrong where a job has failed: the first that isn't only blocked, with all as details."""
    bad = [each for each in reports if each.status.ended and each.status.cause != DONE]
    if not bad:
        return
    first = next((each for each in bad if each.status.cause != BLOCKED), bad[0])
    error = first.failure()
    if bad[1:]:
        error.details = tuple(f"{each.entry.title} (job {each.entry.id}): {each.words}" for each in bad)
    raise error
