"""Jobs and schedules for people. Owns their wording and layout; computes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from kiln.render import facts, table
from kiln.schedulers.contract import BLOCKED, DONE, RUNNING

if TYPE_CHECKING:
    from kiln.installing import Printed
    from kiln.jobreport import Report
    from kiln.ledger import Entry
    from kiln.schedules import Listed, Schedule
    from kiln.submission import Sent

STYLES = {RUNNING: "cyan", DONE: "green", BLOCKED: "yellow"}


def sent(console: Console, jobs: Sequence[Sent], parents: dict[str, str]) -> None:
    """What was submitted; `parents` are ids of jobs by the names of their folders."""
    for each in jobs:
        if each.entry is None:
            console.print(Text(f"{each.reference}: not submitted: {each.problem}", style="bold red"))
            continue
        ids = [parents[name] for name in each.entry.job.after if name in parents]
        after = f", after {', '.join(ids)}" if ids else ""
        how = "is under way already" if each.found else f"submitted{after}"
        console.print(Text(f"job {each.entry.id}  {each.entry.title}  {how}"))
    if any(each.entry for each in jobs):
        console.print(Text("to follow them: invoke jobs --wait; to end one: invoke cancel NAME", style="dim"))


def jobs(console: Console, found: Sequence[Report]) -> None:
    if not found:
        console.print("no jobs; see: invoke build NAME --on pbs|slurm")
        return
    rows = table("job", "what", "state", "for", "where", "doing")
    for each in found:
        state = each.status.cause or each.status.state
        style = STYLES.get(state, "bold red" if each.status.ended else "")
        doing = each.words or each.step or each.status.reason
        rows.add_row(
            each.entry.id or "?",
            each.entry.title,
            Text(state, style=style),
            _time(each),
            each.status.node,
            Text(doing),
        )
    console.print(rows)
    for each in found:
        if each.hint:
            console.print(Text(f"{each.entry.title}: {each.hint}", style="bold"))


def _time(report: Report) -> str:
    """Since it was submitted or started, or how long it took; a clock that was put back gives 0."""
    entry = report.entry
    begin = entry.started or entry.job.submitted
    end = (entry.ended or time.time()) if report.status.ended else time.time()
    seconds = max(0, int(end - begin))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def cancelled(console: Console, entries: Sequence[Entry]) -> None:
    for entry in entries:
        console.print(Text(f"cancelled job {entry.id}  {entry.title}"))


def printed(console: Console, schedule: Schedule, made: Printed) -> None:
    for title, text in made.parts:
        console.print(Text(f"{title}:", style="bold"))
        console.print(Text(text.rstrip("\n")), soft_wrap=True)
        console.print()
    again = f"invoke schedule --every '{schedule.every}' --name {schedule.name} --install"
    console.print(Text(f"nothing was installed; to do that: {again}"))


def installed(console: Console, schedule: Schedule, where: str, log: str, due: float) -> None:
    console.print(Text(f"{schedule.name} is installed: {where}", style="green"))
    facts(console, [("runs", schedule.command), ("next", clock(due)), ("log", log)])


def schedules(console: Console, found: Sequence[Listed]) -> None:
    if not found:
        console.print("no schedules; see: invoke schedule --every 'sun 02:00'")
        return
    rows = table("schedule", "when", "by", "runs", "next", "last run", "log")
    for each in found:
        last = f"{clock(each.last.began)}, exit code {each.last.code}" if each.last else "none yet"
        due = Text(each.problem, style="bold red") if each.problem else Text(clock(each.due))
        made = each.schedule
        rows.add_row(made.name, made.every, made.kind, Text(made.command), due, last, Text(each.log))
    console.print(rows)


def clock(moment: float) -> str:
    return time.strftime("%a %Y-%m-%d %H:%M", time.localtime(moment))
