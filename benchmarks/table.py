"""The results as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.compare import OTHER, Difference
from benchmarks.results import CASES, Check, Line, Usage

SHOWN = 10
HEAD = ("", "seconds", "ratio", "target", "", "cpu s", "own MB", "tree MB", "written MB", "image MB", "runs")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first cell to the left, the others to the right of their columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lined = []
    for first, *rest in rows:
        cells = [
            first.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)),
        ]
        lined.append("  ".join(cells).rstrip())
    return lined


def cases(table: Iterable[Line], titles: Mapping[str, str]) -> list[str]:
    """The main table; the ratio is Kiln's time to the line's."""
    rows: list[Sequence[str]] = [HEAD]
    last = ""
    for line in table:
        if line.case != last:
            rows.append((CASES[line.case], *[""] * (len(HEAD) - 1)))
            last = line.case
        ratio = "" if line.ratio is None else f"{line.ratio:.3f}"
        target = "" if line.target is None else f"<= {line.target:.2f}"
        rows.append(
            (
                f"  {titles[line.contestant]}",
                f"{line.median.seconds:.2f}",
                ratio,
                target,
                {None: "", True: "met", False: "MISSED"}[line.met],
                *figures(line.median),
                str(line.runs),
            )
        )
    return columns(rows)


def figures(usage: Usage) -> tuple[str, ...]:
    """Processor seconds, then sizes in MB."""
    sizes = (usage.peak_own, usage.peak_tree, usage.written, usage.image)
    return (f"{usage.cpu_seconds:.1f}", *(f"{size / 1e6:,.0f}" if size else "-" for size in sizes))


def checks(found: Iterable[Check]) -> list[str]:
    rows = [
        (
            check.title,
            f"{check.value:.2f} {check.unit}",
            f"<= {check.target:g} {check.unit}",
            "met" if check.met else "MISSED",
        )
        for check in found
    ]
    return columns(rows) if rows else []


def growth(found: Mapping[tuple[str, int], Usage], titles: Mapping[str, str]) -> list[str]:
    """A cold build's figures by contestant and multiple of the files."""
    rows: list[Sequence[str]] = [("", "files", "seconds", *HEAD[5:10])]
    for (contestant, size), usage in found.items():
        rows.append((titles[contestant], f"x {size}", f"{usage.seconds:.1f}", *figures(usage)))
    return columns(rows)


def trees(title: str, found: Mapping[str, Sequence[Difference]]) -> list[str]:
    """How a contestant's tree differs from Kiln's; what has no good reason is shown by name."""
    if not found:
        return [f"{title}: the same tree as Kiln's"]
    total = sum(map(len, found.values()))
    lined = [f"{title}: {total} paths differ from Kiln's (Kiln's | the other's)"]
    lined += [f"  {len(group):6}  {reason}" for reason, group in found.items()]
    rest = found.get(OTHER, [])
    lined += [f"          {difference}" for difference in rest[:SHOWN]]
    if len(rest) > SHOWN:
        lined.append(f"          and {len(rest) - SHOWN} more, see --json")
    return lined
