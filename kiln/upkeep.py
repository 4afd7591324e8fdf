"""`invoke rebuild`: what is due is built, tested and published again, and all of it is reported.

Owns what is done for which reason, the expectation before, and the report after. How one image is built anew
is `kiln.renew`'s; several of them are `kiln.fleet`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln import board, ended, files, manifest, notice, outdated, several
from kiln import report as reports
from kiln.context import Context
from kiln.due import PARENT, REBUILD, RETEST, State
from kiln.ended import Ended
from kiln.errors import KilnError, NotKnown
from kiln.fleet import Fleet
from kiln.order import Options
from kiln.plan import PACKED_PER_UNPACKED
from kiln.report import Report

LOCK = ".rebuild"
TREES_PER_BUILD = 2
"""While a build tests what it made, the tree of the tested file is there beside the one it was made from."""


@dataclass(frozen=True)
class Step:
    """What is done for one image: `action` is rebuild or smoke; what it took last time, and its size then."""

    state: State
    action: str
    needs: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        return {
            **self.state.to_data(),
            "action": self.action,
            "after": list(self.needs),
            "seconds": self.state.seconds,
            "bytes": self.state.size,
        }


@dataclass(frozen=True)
class Plan:
    """What a rebuild would do, in order; `seconds` and bytes are from the builds that are on record."""

    steps: tuple[Step, ...]
    states: tuple[State, ...]
    jobs: int

    @property
    def seconds(self) -> float:
        """How long it takes at least: the longest way through the graph, or all of it shared among jobs."""
        ends: dict[str, float] = {}
        for step in self.steps:
            ends[step.state.name] = _seconds(step) + max((ends[each] for each in step.needs), default=0.0)
        total = sum(_seconds(step) for step in self.steps)
        return max([total / self.jobs, *ends.values()])

    @property
    def stored(self) -> int:
        """Bytes of new versions in the store, if all come out otherwise."""
        return sum(step.state.size for step in self.steps if step.action == REBUILD)

    @property
    def scratch(self) -> int:
        """Bytes that the largest builds want at the same time for their trees and files."""
        sizes = sorted((step.state.size for step in self.steps), reverse=True)[: self.jobs]
        return sum(int(size / PACKED_PER_UNPACKED) * TREES_PER_BUILD + size for size in sizes)

    @property
    def unknown(self) -> dict[str, Sequence[str]]:
        return {state.name: state.unknown for state in self.states if state.unknown}

    def to_data(self) -> dict[str, Any]:
        return {
            "images": [step.to_data() for step in self.steps],
            "jobs": self.jobs,
            "seconds": round(self.seconds, 1),
            "store_bytes": self.stored,
            "scratch_bytes": self.scratch,
            "not_known": {name: list(why) for name, why in self.unknown.items()},
        }


def _seconds(step: Step) -> float:
    return step.state.seconds if step.action == REBUILD else 0.0


def plan(context: Context, names: Sequence[str], jobs: int) -> Plan:
    """What is due of `names`, and what for; changes nothing."""
    states = outdated.examine(context, names)
    wanted = {state.name: state for state in states if state.to_rebuild or state.to_test}
    needs = several.graph_of(context).needs([*wanted]) if wanted else {}
    steps = [
        Step(wanted[name], REBUILD if wanted[name].to_rebuild else RETEST, before)
        for name, before in needs.items()
    ]
    return Plan(tuple(steps), tuple(states), several.at_once(jobs, [*wanted] or [""]))


@dataclass
class Upkeep:
    """A rebuild under way."""

    context: Context
    plan: Plan
    options: Options
    report: Report
    found: Sequence[Ended] = ()

    def arguments(self, name: str) -> Sequence[str] | None:
        """What is to be done for an image now; None where its parent came out as it was."""
        context, [step] = self.context, [each for each in self.plan.steps if each.state.name == name]
        manifest.find(context.manifests, name)
        came = {each.name: each.state for each in self.found}
        reasons = [each for each in step.state.reasons if each.remedy == REBUILD]
        only_parents = reasons and all(
            each.kind == PARENT and came.get(str(each.evidence.get("parent"))) == ended.REUSED
            for each in reasons
        )
        if step.action == REBUILD and not only_parents:
            return [*several.place(context, "build", name), *several.given(self.options)]
        if not step.state.to_test:
            return None
        runtime = ["--runtime", self.options.runtime] if self.options.runtime else []
        return [*several.place(context, "smoke", f"{name}:{step.state.version}"), *runtime]

    def note(self, found: Sequence[Ended]) -> None:
        """Have what has ended in the report: whoever kills this process can't take that away."""
        self.found = found
        self.report.write(reports.RUNNING, found)


def rebuild(context: Context, names: Sequence[str], options: Options, jobs: int) -> None:
    """Do what is due. One at a time for a store: raises `BusyError` where somebody else is at it.

    Raises `ImagesFailed` where something failed, `NotKnown` where nothing did and not all could be asked.
    """
    files.make_folder(context.store.root)
    with files.locked(context.store.root / LOCK, wait=0):
        made = plan(context, names, jobs)
        _run(context, made, options)
    refuse_unknown(made)


def refuse_unknown(made: Plan) -> None:
    """Raise `NotKnown` where not all could be asked."""
    if made.unknown:
        raise NotKnown(f"not known whether these are due: {', '.join(made.unknown)}",
                       "run it again when all can be asked",
                       [f"{name}: {why[0]}" for name, why in made.unknown.items()])  # fmt: skip


def _run(context: Context, made: Plan, options: Options) -> None:
    due = [step.to_data() for step in made.steps]
    report = reports.begin(context.site.reports, context.site.name, due, made.unknown)
    work = Upkeep(context, made, options, report)
    needs: Mapping[str, Sequence[str]] = {step.state.name: step.needs for step in made.steps}
    crew = Fleet(context, needs, work.arguments, board.make(context.ui), made.jobs, after=work.note)
    state = reports.INTERRUPTED
    try:
        if needs:
            crew.run()
        state = reports.DONE
    finally:
        found = list(crew.ended.values())
        data = report.write(state, found)
        several.tell(context, found, report.path)
        if found or made.unknown:
            tell(context, data, report.path)
    ended.conclude(found)


def tell(context: Context, data: Mapping[str, Any], path: Path) -> None:
    """Send the report to whom the site names; whoever can't be told is named in a warning."""
    failed = [each["name"] for each in data["images"] if each["state"] not in (ended.BUILT, ended.REUSED)]
    rebuild = context.site.rebuild
    try:
        if rebuild.webhook:
            notice.post(context.site, data)
    except KilnError as error:
        context.ui.warn(error.message)
    try:
        if rebuild.mail and failed:
            subject = f"kiln: {len(failed)} of {len(data['images'])} rebuilds failed on {data['host']}"
            lines = [_line(each) for each in data["images"]]
            notice.mail(context.site, subject, [*lines, "", f"report: {path}"])
    except KilnError as error:
        context.ui.warn(error.message)


def _line(image: Mapping[str, Any]) -> str:
    error = image.get("error", {}).get("message", "")
    blocked = f"blocked by {image['by']}" if image.get("by") else ""
    return "  ".join(filter(None, (image["name"], image["state"], blocked, error, image.get("log", ""))))
