"""The benchmark: every contestant does the same work, in every case, side by side.

One round is: cold (no cache for anybody), nothing changed, last layer changed, first layer changed, base
tag moved. Within a case the contestants take turns, each round in another order, so that a slow hour of
the machine falls on all of them. What each keeps between the cases is in `contestants.py`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import (
    compare,
    contestants,
    machine,
    measure,
    network,
    quick,
    registry,
    results,
    stack,
    table,
)
from benchmarks.compare import Difference, Entry
from benchmarks.contestants import Contestant, Kiln
from benchmarks.registry import Registry
from benchmarks.results import CASES, COLD, FIRST, KILN, LAST, MOVED, Run, Usage
from benchmarks.stack import Work
from kiln import files
from kiln.errors import EnvironmentMissing, UsageError
from kiln.run import CommandFailed
from kiln.ui import Ui

BUSY_SECONDS = 1.0
# ext4 passes over each inode that was freed within the last minute (fs/ext4/ialloc.c, recently_deleted): who
# makes 80,000 files after another has removed as many waits for seconds, for what the other did.
REST_SECONDS = 65.0
CHANGE: Mapping[str, Callable[[Work], Work]] = {LAST: Work.last_changed, FIRST: Work.first_changed}


@dataclass(frozen=True)
class Options:
    """What is wanted: `folder` keeps the base; `only` names contestants, `cases` cases, () all of them."""

    folder: Path
    runs: int = 3
    cases: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ("embedded",)

    def check(self) -> None:
        if self.runs < 1:
            raise UsageError("--runs must be 1 or more")
        for case in self.cases:
            if case not in CASES:
                raise UsageError(f"there is no case '{case}'", f"there are: {', '.join(CASES)}")


@dataclass(frozen=True)
class Report:
    """The outcome: `data` for programs, `lines` for people."""

    data: Mapping[str, Any]
    lines: tuple[str, ...]


@dataclass
class Bench:
    """One run of the benchmark. `work` is private to it; `trees` are listings of cold images."""

    options: Options
    root: Path
    work: Path
    registry: Registry
    contestants: list[Contestant]
    environ: Mapping[str, str]
    ui: Ui
    titles: Mapping[str, str]
    skipped: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    trees: dict[str, dict[str, Entry]] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        return self.work / "report.json"

    def wanted(self, tag: str = stack.LATEST) -> Work:
        return Work(f"{self.registry.host}/{stack.NAME}:{tag}")

    def build(self, contestant: Contestant, work: Work, title: str) -> Usage | None:
        """One measured build; a contestant that fails is out, unless it is Kiln."""
        try:
            with self.ui.step(f"{title}: {contestant.title}") as step:
                usage = measure.build(contestant, work, self.report, step.line)
                step.outcome = _brief(usage)
                return usage
        except CommandFailed as error:
            if contestant.name == KILN:
                raise
            self.ui.error(error)
            self.skip(contestant, f"failed in '{title}': {error.message}")
            return None

    def skip(self, contestant: Contestant, reason: str) -> None:
        self.skipped[contestant.name] = reason
        self.contestants = [each for each in self.contestants if each is not contestant]
        self.ui.warn(f"SKIPPED: {contestant.title}: {reason}")


def _brief(usage: Usage) -> str:
    return f"{usage.seconds:.2f} s, {usage.written / 1e9:.2f} GB written, image {usage.image / 1e6:,.0f} MB"


@contextlib.contextmanager
def opened(options: Options, root: Path, environ: Mapping[str, str], ui: Ui) -> Iterator[Bench]:
    """A running registry with the base, and the contestants that this machine has.

    Afterwards all is gone but the base.
    """
    options.check()
    if os.geteuid() != 0:
        raise EnvironmentMissing(
            "the benchmark needs root: buildah's overlay storage and the base do", "run: sudo -E invoke bench"
        )
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack_:
        stack_.enter_context(files.locked(folder / "lock", wait=BUSY_SECONDS))
        _remove_remains(folder)
        served = stack_.enter_context(registry.serve(folder / "registry"))
        with ui.step("base") as step, stack.private_folder(folder, "work-base") as private:
            stack.Maker(private, root, environ, step.note).make(served)
        work = stack_.enter_context(stack.private_folder(folder, "work"))
        inside = network.of(root, environ)
        every = contestants.all_of(work, root, inside, environ, options.runtimes)
        titles = {each.name: each.title for each in every}
        bench = Bench(options, root, work, served, _chosen(every, options.only), environ, ui, titles)
        for each in list(bench.contestants):
            if lacking := each.missing():
                bench.skip(each, lacking)
        yield bench


def _remove_remains(folder: Path) -> None:
    """Of a benchmark that was killed."""
    for name in ("work", "work-base"):
        files.remove_tree(folder / name)


def _chosen(every: Sequence[Contestant], only: Sequence[str]) -> list[Contestant]:
    names = [each.name for each in every]
    for name in only:
        if name not in names:
            raise UsageError(f"there is no contestant '{name}'", f"there are: {', '.join(names)}")
    return [each for each in every if not only or each.name in only]


# --- what is measured --------------------------------------------------------------------------


def cases(bench: Bench) -> float:
    """Every round, into `bench.runs`; returns the median seconds of Python's start between them."""
    starts = []
    for number in range(bench.options.runs):
        starts.append(quick.start_seconds(bench.root, bench.environ, bench.report))
        for case in CASES:
            # Without a cold build there is nothing that could have changed.
            if case == COLD or not bench.options.cases or case in bench.options.cases:
                one_case(bench, case, number)
    return statistics.median(starts)


def one_case(bench: Bench, case: str, number: int) -> None:
    """One case of the round `number`, for each contestant in turn."""
    bench.registry.point(stack.NAME, stack.LATEST, stack.SECOND if case == MOVED else stack.FIRST)
    work = CHANGE[case](bench.wanted()) if case in CHANGE else bench.wanted()
    turn = number % max(1, len(bench.contestants))
    for each in (*bench.contestants[turn:], *bench.contestants[:turn]):
        if case == COLD:
            each.forget()
            os.sync()
            time.sleep(REST_SECONDS)
        title = f"{CASES[case]}, run {number + 1} of {bench.options.runs}"
        usage = bench.build(each, work, title)
        if usage is None:
            continue
        bench.runs.append(Run(each.name, case, usage))
        if case == COLD and number == 0:
            bench.trees[each.name] = compare.listing(each.result(), bench.environ)


def growth(bench: Bench) -> dict[tuple[str, int], Usage]:
    """A cold build with 1, 2 and 4 times the files: figures by contestant and multiple."""
    folder = bench.options.folder
    with bench.ui.step("larger bases") as step, stack.private_folder(bench.work, "copies") as private:
        stack.grow(bench.registry, folder / "registry", private, step.note)
    found = {}
    for each in list(bench.contestants):
        for size in stack.SIZES:
            each.forget()
            usage = bench.build(each, bench.wanted(f"size{size}"), f"{size} times the files")
            if usage is None:
                break
            found[each.name, size] = usage
        # Four times the files take a lot of the disk: one contestant's at a time.
        files.remove_tree(each.folder)
    return found


def differences(bench: Bench) -> dict[str, dict[str, list[Difference]]]:
    """For each other contestant how its tree differs from Kiln's, by reason."""
    mine = bench.trees.get(KILN, {})
    return {
        name: compare.by_reason(compare.differences(mine, tree))
        for name, tree in bench.trees.items()
        if mine and name != KILN
    }


# --- what is shown -----------------------------------------------------------------------------


def run_cases(bench: Bench) -> Report:
    start = cases(bench)
    found = results.lines(bench.runs)
    kiln = Kiln(bench.work / "quick", bench.root, bench.environ)
    bench.registry.point(stack.NAME, stack.LATEST, stack.FIRST)
    with bench.ui.step("plan and list"):
        checks = [*results.checks(found, start), *quick.checks(kiln, bench.wanted(), bench.report)]
    unlike = differences(bench)
    text = [*table.cases(found, bench.titles), "", *table.checks(checks), ""]
    for name, groups in unlike.items():
        text += table.trees(bench.titles[name], groups)
    data = {
        "lines": [results.line_data(line) for line in found],
        "runs": [asdict(run) for run in bench.runs],
        "checks": [check.to_data() for check in checks],
        "start_seconds": start,
        "trees": {
            name: {reason: list(map(str, group)) for reason, group in groups.items()}
            for name, groups in unlike.items()
        },
    }
    return _report(bench, data, text)


def run_growth(bench: Bench) -> Report:
    found = growth(bench)
    data = {
        "growth": [
            {"contestant": name, "size": size, **asdict(usage)} for (name, size), usage in found.items()
        ]
    }
    return _report(bench, data, table.growth(found, bench.titles))


def _report(bench: Bench, data: Mapping[str, Any], text: Sequence[str]) -> Report:
    """With what was left out, and what it ran on."""
    ground = machine.describe(bench.work, bench.environ)
    skipped = [f"SKIPPED: {bench.titles[name]}: {reason}" for name, reason in bench.skipped.items()]
    return Report({**data, "skipped": bench.skipped, "machine": ground}, (*ground, "", *text, *skipped))
