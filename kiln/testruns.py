"""Later runs of smoke hooks on a published image, beside its record, which never changes.

    <images>/NAME/NAME-VERSION.tests.jsonl      JSON lines, oldest first; changed under NAME's lock, by rename

Owns the lines, and what several runs say together: of each hook the last one that was not skipped counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kiln import files
from kiln.record import Record, SmokeResult, smoke_results

SKIPPED = "skipped"


@dataclass(frozen=True)
class Run:
    """One run: when (ISO 8601, UTC), by whom, and what came of each hook."""

    time: str
    who: str
    results: tuple[SmokeResult, ...]


def read(path: Path) -> list[Run]:
    """The runs, oldest first; none where there is no file. A damaged line is passed over."""
    try:
        return parse(path.read_text(errors="replace"))
    except OSError:
        return []


def parse(text: str) -> list[Run]:
    """The runs in a file's text."""
    return [run for line in text.splitlines() if (run := _parse(line))]


def _parse(line: str) -> Run | None:
    try:
        data = json.loads(line)
        return Run(str(data["time"]), str(data["who"]), smoke_results(data["results"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def add(path: Path, run: Run) -> None:
    """Add a run; whoever calls holds the image's lock."""
    before = path.read_bytes() if path.exists() else b""
    separator = b"" if not before or before.endswith(b"\n") else b"\n"
    line = json.dumps(asdict(run), ensure_ascii=False).encode()
    files.write_atomic(path, before + separator + line + b"\n")


def together(record: Record, runs: Sequence[Run]) -> Record:
    """The record with what the later runs say; which hooks count is the last run's matter."""
    if not runs:
        return record
    every = [record.smoke, *(run.results for run in runs)]
    return replace(record, smoke=tuple(_last(each.title, each, every) for each in runs[-1].results))


def _last(title: str, now: SmokeResult, every: Iterable[Sequence[SmokeResult]]) -> SmokeResult:
    ran = [each for results in every for each in results if each.title == title and each.state != SKIPPED]
    return replace(ran[-1], required=now.required) if ran else now
