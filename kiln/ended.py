"""How it went with each of several images: a value, and what follows from all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kiln.errors import ImagesFailed, KilnError

BUILT, REUSED, FAILED, BLOCKED, STOPPED = "built", "reused", "failed", "blocked", "stopped"
STATES = (BUILT, REUSED, FAILED, BLOCKED, STOPPED)
LONGEST_LIST = 15


@dataclass(frozen=True)
class Ended:
    """How it went with one image: `state` is one of `STATES`, `version` the one that is published now.

    `by` is the image that blocks it, `error` the data of the event that told why it failed, `log` its log,
    `seconds` what it took; `why` says of a reused one why nothing came of it.
    """

    name: str
    state: str
    version: str = ""
    seconds: float = 0.0
    by: str = ""
    error: Mapping[str, Any] = field(default_factory=dict)
    log: Path | None = None
    why: str = ""

    @property
    def fine(self) -> bool:
        return self.state in (BUILT, REUSED)

    def to_data(self) -> dict[str, Any]:
        """Its fields, but for the empty ones."""
        data = {**asdict(self), "log": str(self.log) if self.log else ""}
        return {key: value for key, value in data.items() if value}


def error_data(error: KilnError) -> dict[str, Any]:
    """As the event of an error has it."""
    return {
        "id": error.id,
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint,
        "details": list(error.details),
    }


def counts(ended: Iterable[Ended]) -> dict[str, int]:
    """How many ended in each state."""
    states = [each.state for each in ended]
    return {state: states.count(state) for state in STATES}


def conclude(ended: Sequence[Ended]) -> None:
    """Raise `ImagesFailed` where an image wasn't built."""
    failed = [each for each in ended if not each.fine]
    if not failed:
        return
    words = ", ".join(_words(each) for each in failed[:LONGEST_LIST])
    more = f" and {len(failed) - LONGEST_LIST} more" if len(failed) > LONGEST_LIST else ""
    logs = [each.log for each in failed if each.log]
    raise ImagesFailed(
        f"{len(failed)} of {len(ended)} images were not built: {words}{more}",
        f"look at what came of it: less {logs[0]}" if logs else "mend these, and run it again",
        [f"log: {each}" for each in logs[:LONGEST_LIST]],
    )


def _words(ended: Ended) -> str:
    return f"{ended.name} (blocked by {ended.by})" if ended.by else f"{ended.name} ({ended.state})"
