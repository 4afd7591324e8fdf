"""Jobs ended before their time, and with each those that wait for it.

Owns which jobs a person means. Those that wait go first: what a scheduler does with a job whose parent was
taken out of the queue differs, and with some it waits for ever.
"""

from __future__ import annotations

from kiln import ledger
from kiln.context import Context
from kiln.errors import UsageError
from kiln.ledger import Entry
from kiln.schedulers import choice
from kiln.submission import settle

ALL = "all"


def cancel(context: Context, text: str) -> list[Entry]:
    """Cancel the jobs of an image, one by its id, or all; returns them in the order in which they ended.

    Raises `UsageError` where there is none, `SchedulerError`.
    """
    book = ledger.of(context.site.jobs_folder)
    with book.locked():
        entries = book.entries()
        for name in {entry.job.scheduler for entry in entries if not entry.settled}:
            settle(choice.scheduler(name, context.site, context.environ), entries)
        live = [entry for entry in entries if not entry.status.ended]
        chosen = [entry for entry in live if text == ALL or _meant(entry, text)]
        if not chosen:
            raise UsageError(f"no job of '{text}' is queued or running", "see: invoke jobs")
        doomed = _with_dependents(chosen, live)
        for entry in doomed:
            choice.scheduler(entry.job.scheduler, context.site, context.environ).cancel(entry.id)
    return doomed


def _meant(entry: Entry, text: str) -> bool:
    job = entry.job
    return text in (job.image, job.reference, entry.name, entry.id, entry.id.partition(".")[0])


def _with_dependents(chosen: list[Entry], live: list[Entry]) -> list[Entry]:
    """The chosen and all that come after them, the last ones first; none without an id."""
    names = {entry.name for entry in chosen}
    while more := {each.name for each in live if names & set(each.job.after)} - names:
        names |= more
    return [entry for entry in reversed(live) if entry.name in names and entry.id]
