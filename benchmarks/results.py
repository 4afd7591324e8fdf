"""What was measured, the medians, and how they stand against the targets. Pure: no files, no processes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

COLD, SAME, LAST, FIRST, MOVED = "cold", "same", "last", "first", "moved"
CASES = {
    COLD: "cold",
    SAME: "nothing changed",
    LAST: "last layer changed",
    FIRST: "first layer changed",
    MOVED: "base tag moved",
}
KILN = "kiln"
# The highest ratio of Kiln's median to that of another.
RATIOS: Mapping[tuple[str, str], float] = {
    (COLD, "enroot"): 0.15,
    (COLD, "enroot-tuned"): 0.40,
    (COLD, "buildah"): 0.65,
    (LAST, "enroot"): 0.12,
    (LAST, "enroot-tuned"): 0.30,
    (LAST, "buildah"): 0.80,
    (SAME, "enroot"): 0.01,
    (SAME, "enroot-tuned"): 0.02,
}
BEYOND_START_SECONDS = 1.0
OWN_BYTES = 200_000_000
PLAN_SECONDS, LIST_SECONDS = 1.0, 0.5


@dataclass(frozen=True)
class Usage:
    """What one build took, as `meter.py` tells it, or the medians of several. Sizes are bytes."""

    seconds: float
    cpu_seconds: float
    written: float
    peak_tree: float
    peak_own: float
    image: float = 0.0


@dataclass(frozen=True)
class Run:
    contestant: str
    case: str
    usage: Usage


@dataclass(frozen=True)
class Line:
    """One line of the table: a contestant's medians in a case, and Kiln's share of its time."""

    case: str
    contestant: str
    runs: int
    median: Usage
    ratio: float | None = None
    target: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.ratio is None or self.target is None else self.ratio <= self.target


@dataclass(frozen=True)
class Check:
    """A figure with its target, both in the same unit."""

    title: str
    value: float
    target: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.target

    def to_data(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def usage(data: Mapping[str, float]) -> Usage:
    """From the meter's report."""
    return Usage(**{item.name: data[item.name] for item in fields(Usage) if item.name in data})


def medians(runs: Iterable[Usage]) -> Usage:
    """Of each figure by itself."""
    every = list(runs)
    return Usage(
        **{item.name: statistics.median(getattr(run, item.name) for run in every) for item in fields(Usage)}
    )


def lines(runs: Iterable[Run]) -> list[Line]:
    """The table: by case in their order, contestants in the order in which they first appear."""
    grouped: dict[tuple[str, str], list[Usage]] = {}
    for run in runs:
        grouped.setdefault((run.case, run.contestant), []).append(run.usage)
    middle = {key: medians(group) for key, group in grouped.items()}
    made = []
    for case in CASES:
        kiln = middle.get((case, KILN))
        for (its_case, contestant), group in grouped.items():
            if its_case == case:
                median = middle[case, contestant]
                ratio = kiln.seconds / median.seconds if kiln and contestant != KILN else None
                target = RATIOS.get((case, contestant))
                made.append(Line(case, contestant, len(group), median, ratio, target))
    return made


def checks(table: Iterable[Line], start_seconds: float) -> list[Check]:
    """Kiln against the targets that are no ratios; `start_seconds` is what `invoke --version` takes."""
    mine = {line.case: line.median for line in table if line.contestant == KILN}
    found = []
    if SAME in mine:
        title = f"nothing changed, beyond Python's start ({start_seconds:.2f} s)"
        found.append(Check(title, mine[SAME].seconds - start_seconds, BEYOND_START_SECONDS, "s"))
    if mine:
        most = max(median.peak_own for median in mine.values())
        found.append(Check("peak memory of Kiln's own processes", most / 1e6, OWN_BYTES / 1e6, "MB"))
    return found


def line_data(line: Line) -> dict[str, Any]:
    return {**asdict(line), "met": line.met}
