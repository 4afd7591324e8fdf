"""A scheduler that only remembers, for what is decided before and after a real one is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kiln.schedulers.contract import QUEUED, NoAnswer, Request, Status


@dataclass
class Memory:
    """A scheduler that only remembers; `down` from that many submissions on."""

    name: str = "slurm"
    requests: list[Request] = field(default_factory=list)
    status: dict[str, Status] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    down: int = 1000

    def command(self, request: Request) -> list[str]:
        return ["true", request.name]

    def submit(self, request: Request) -> str:
        if len(self.requests) >= self.down:
            raise NoAnswer("it does not answer")
        self.requests.append(request)
        job = str(len(self.requests))
        self.status[job] = Status(QUEUED)
        return job

    def query(self, ids: Sequence[str]) -> dict[str, Status]:
        if self.down == 0:
            raise NoAnswer("it does not answer")
        return {job: self.status[job] for job in ids if job in self.status}

    def cancel(self, job: str) -> None:
        self.cancelled.append(job)
