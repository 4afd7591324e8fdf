"""The commands for jobs and schedules, and what `--on` does to others."""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from invoke.context import Context as InvokeContext

from kiln import jobview
from kiln.command import opened, options, task
from kiln.context import Context
from kiln.errors import BlockedError, UsageError
from kiln.schedulers.contract import Status
from kiln.schedules import JOB, Listed, Place, Schedule

RECENT_SECONDS = 86_400.0
RUNS = "rebuild"


def flags(**said: str | bool | int) -> list[str]:
    """A command line of those options that were given."""
    found = []
    for name, value in said.items():
        option = f"--{name.strip('_').replace('_', '-')}"
        if value:
            found += [option] if value is True else [f"{option}={value}"]
    return found


def handed_over(
    context: Context, on: str, kind: str, names: Sequence[str], given: Sequence[str], *, wait: bool
) -> bool:
    """Whether a command's work went to a scheduler: then its jobs were told, and with `wait` have ended.

    `given` are the options of the command that each job's has too. Raises what a job failed by.
    """
    from kiln.schedulers import choice

    chosen = choice.wanted(on, context.site, context.environ)
    if chosen == choice.HERE:
        return False
    from kiln import submission
    from kiln.submission import Work

    jobs = submission.submitter(context, chosen).submit(Work(kind, names, given))
    entries = _tell(context, jobs)
    if wait and entries:
        _follow(context, entries)
    problem = next((each.problem for each in jobs if each.problem), None)
    if problem:
        raise problem if not entries else BlockedError(problem.message, problem.hint, problem.details)
    return True


def rebuilt(context: Context, on: str, names: Sequence[str], given: Sequence[str], *, wait: bool) -> bool:
    """`handed_over` for `rebuild`: jobs for what is due alone, and its report."""
    from kiln.schedulers import choice

    chosen = choice.wanted(on, context.site, context.environ)
    if chosen == choice.HERE:
        return False
    from kiln import ended, following, jobupkeep, several, upkeep

    done = jobupkeep.submit(context, chosen, names, given)
    entries = _tell(context, done.sent, report=str(done.report.path))
    problem = next((each.problem for each in done.sent if each.problem), None)
    if entries and not wait:
        if problem:
            raise problem
        return True
    following.follow(context, entries)
    found = done.end(context)
    several.tell(context, found, done.report.path)
    ended.conclude(found)
    upkeep.refuse_unknown(done.plan)
    return True


def _tell(context: Context, jobs: Sequence[Any], **more: str) -> list[Any]:
    """Say which jobs there are now; returns those."""
    from kiln import ledger

    entries = [each.entry for each in jobs if each.entry]
    book = ledger.of(context.site.jobs_folder)
    ids = {name: book.entry(name).id for entry in entries for name in entry.job.after}
    context.ui.result(
        {"jobs": [_sent(each) for each in jobs], **more},
        functools.partial(jobview.sent, jobs=jobs, parents=ids),
    )
    return entries


def _sent(each: Any) -> dict[str, Any]:
    entry = each.entry
    return {
        "reference": each.reference,
        "id": entry.id if entry else "",
        "job": entry.name if entry else "",
        "kind": entry.job.kind if entry else "",
        "after": list(entry.job.after) if entry else [],
        "found": each.found,
        "problem": str(each.problem or ""),
    }


def _follow(context: Context, entries: Sequence[Any]) -> None:
    from kiln import following, jobreport

    following.follow(context, entries)
    reports = [jobreport.report(entry) for entry in entries]
    context.ui.result(
        {"jobs": [each.to_data() for each in reports]}, functools.partial(jobview.jobs, found=reports)
    )
    jobreport.conclude(reports)


@task(
    help={
        **options("site", "wait", "json"),
        "name": "only the jobs of this image",
        "all": "also those that ended more than a day ago",
    }
)
def jobs(
    _: InvokeContext,
    name: str = "",
    site: str | None = None,
    all: bool = False,  # the option's name
    wait: bool = False,
    json: bool = False,
) -> None:
    """Show the jobs that were submitted: their state, what they do, and how they ended."""
    from kiln import jobreport, ledger, submission
    from kiln.schedulers import choice

    with opened(json, site, None) as context:
        entries = ledger.of(context.site.jobs_folder).entries()
        entries = [entry for entry in entries if not name or name in (entry.job.image, entry.id)]
        known: dict[str, Status] = {}
        for each in {entry.job.scheduler for entry in entries if not entry.settled}:
            scheduler = choice.scheduler(each, context.site, context.environ)
            known |= submission.settle(scheduler, entries)
        if wait and (live := [entry for entry in entries if not entry.status.ended]):
            _follow(context, live)
            return
        since = time.time() - RECENT_SECONDS
        shown = [entry for entry in entries if all or not entry.settled or entry.ended > since]
        reports = [jobreport.report(entry, known.get(entry.name)) for entry in shown]
        context.ui.result(
            {"jobs": [each.to_data() for each in reports]}, functools.partial(jobview.jobs, found=reports)
        )


@task(help={**options("site", "json"), "name": "an image, the id of a job, or 'all'"})
def cancel(_: InvokeContext, name: str, site: str | None = None, json: bool = False) -> None:
    """End jobs that are queued or running, and those that wait for them."""
    from kiln import cancellation

    with opened(json, site, None) as context:
        done = cancellation.cancel(context, name)
        context.ui.result(
            {"cancelled": [{"id": entry.id, "job": entry.name} for entry in done]},
            functools.partial(jobview.cancelled, entries=done),
        )


# --- schedules -----------------------------------------------------------------------------------


@task(
    help={
        **options("site", "json"),
        "every": "when: 'sun 02:00', 'mon-fri 22:30', 'day 04:00', '1 03:00' for the first of each month",
        "run": f"what it runs (default: '{RUNS}')",
        "name": "its name, for another one beside it (default: the command's first word)",
        "install": "install it where the site profile says: cron, systemd, or as a job",
        "list": "show the schedules",
        "remove": "remove the schedule of this name",
    }
)
def schedule(
    _: InvokeContext,
    every: str = "",
    run: str = RUNS,
    name: str = "",
    install: bool = False,
    list: bool = False,  # the option's name
    remove: str = "",
    site: str | None = None,
    json: bool = False,
) -> None:
    """Have something done again and again; without --install it is only printed."""
    with opened(json, site, None) as context:
        if remove:
            _remove(context, remove)
        elif list:
            _list(context)
        elif every:
            _make(context, every, run, name, install=install)
        else:
            raise UsageError("no time given", "write --every 'sun 02:00', --list, or --remove NAME")


def _make(context: Context, every: str, run: str, name: str, *, install: bool) -> None:
    from kiln import installing, schedules

    made = _schedule(context, every, run, name)
    place = schedules.place(context.site.jobs_folder, made.name)
    if not install:
        place.write(made)
        text = installing.printed(context, place, made)
        data = {
            "name": made.name,
            "kind": made.kind,
            "texts": [{"title": t, "text": x} for t, x in text.parts],
        }
        context.ui.result(data, functools.partial(jobview.printed, schedule=made, made=text))
        return
    place.write(made)
    where = installing.install(context, place, made)
    due = float(place.state().get("due", 0.0)) or place.next_due(made)
    context.ui.result(
        {"name": made.name, "kind": made.kind, "installed": where, "due": due, "log": str(place.log)},
        functools.partial(jobview.installed, schedule=made, where=where, log=str(place.log), due=due),
    )


def _schedule(context: Context, every: str, run: str, name: str) -> Schedule:
    from kiln import recurrence, resources, submission, unattended
    from kiln.schedulers import choice

    recurrence.parse(every)
    words = shlex.split(run)
    if not words:
        raise UsageError("--run names no command", f"leave it out for '{RUNS}'")
    site, scheduler = context.site, ""
    asks = None
    if site.schedule == JOB:
        scheduler = site.scheduler
        if scheduler == choice.NONE:
            raise UsageError(
                f"site {site.name} has 'schedule: job' and no scheduler", "name one in the site profile"
            )
        asks = asdict(resources.resources(resources.SCHEDULE, site.jobs, resources.Jobs()))
        if words[0] in ("build", "rebuild", "smoke") and not any(word.startswith("--on") for word in words):
            words.append(f"--on={scheduler}")  # in a job work is done there, unless another place is named
    if not any(word.startswith("--site") for word in words):
        words.append(f"--site={site.name}")
    return Schedule(
        name=name or words[0],
        kind=site.schedule,
        every=every,
        argv=tuple(words),
        root=str(context.root),
        site=site.name,
        environment=unattended.carried(site, context.environ, context.ui.warn),
        umask=submission.current_umask(),
        scheduler=scheduler,
        resources=asks,
    )


def _list(context: Context) -> None:
    from kiln import installing, schedules

    found = [
        _listed(context, place, installing.problem) for place in schedules.places(context.site.jobs_folder)
    ]
    context.ui.result(
        {"schedules": [each.to_data() for each in found]}, functools.partial(jobview.schedules, found=found)
    )


def _listed(context: Context, place: Place, problem: Any) -> Listed:
    made = place.read()
    due = float(place.state().get("due", 0.0)) or place.next_due(made)
    return Listed(made, problem(context, place, made), due, place.last(), str(place.log))


def _remove(context: Context, name: str) -> None:
    from kiln import files, installing, schedules

    place = schedules.place(context.site.jobs_folder, name)
    if place.path not in [each.path for each in schedules.places(context.site.jobs_folder)]:
        raise UsageError(f"there is no schedule '{name}'", "see: invoke schedule --list")
    installing.remove(context, place, place.read())
    files.remove_tree(place.path)
    context.ui.result({"removed": name}, lambda console: console.print(f"removed the schedule {name}"))


TASKS = (jobs, cancel, schedule)
