"""Jobs followed to their end: progress from their own files, the end from their scheduler.

Owns the waiting. A wait that is broken off leaves the jobs as they are, and can be taken up again.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kiln.context import Context
from kiln.errors import Interrupted, SchedulerError
from kiln.ledger import Entry, Reader
from kiln.schedulers import choice
from kiln.schedulers.contract import ENDED, Status
from kiln.submission import settle
from kiln.ui import Step

LOOK_SECONDS = 0.5
ASK_SECONDS, ASK_EACH_SECONDS = 3.0, 0.5
SILENT_SECONDS = 3600.0
GO_ON = "the jobs go on: invoke jobs shows them, invoke jobs --wait follows them again"


@dataclass
class Watched:
    """One job that is followed."""

    entry: Entry
    reader: Reader
    status: Status
    ask_at: float = 0.0
    pause: float = ASK_SECONDS


@dataclass
class Follower:
    """Follows jobs, with what it sees said in a step."""

    context: Context
    watched: list[Watched]
    silent_since: float = field(default=0.0)

    def follow(self) -> None:
        """Wait until all have ended. Raises `SchedulerError` where the scheduler is silent for an hour."""
        names = ", ".join(f"{each.entry.id} {each.entry.title}" for each in self.watched)
        with self.context.ui.step(f"wait for {names}") as step:
            try:
                while any(not each.status.ended for each in self.watched):
                    self._look(step)
                    # Files tell of no change from another node: they are looked at again and again.
                    select.select([], [], [], LOOK_SECONDS)
            except Interrupted as error:
                error.hint = GO_ON
                raise
            for each in self.watched:
                self._progress(each, step)

    def _look(self, step: Step) -> None:
        now = time.monotonic()
        for each in self.watched:
            if not each.status.ended:
                self._progress(each, step)
        due = [each for each in self.watched if not each.status.ended and self._due(each, now)]
        if due:
            self._ask(due, now, step)

    @staticmethod
    def _progress(each: Watched, step: Step) -> None:
        for text in each.reader.news():
            step.note(f"{each.entry.title}: {text}")
        if each.reader.line and each.reader.line != step.last_line:
            step.line(each.reader.line)

    @staticmethod
    def _due(each: Watched, now: float) -> bool:
        """One that says itself that it is done is asked for at once, and soon again."""
        if each.entry.said and each.pause > LOOK_SECONDS * 2:
            each.pause = LOOK_SECONDS * 2
            return True
        return now >= each.ask_at

    def _ask(self, due: Sequence[Watched], now: float, step: Step) -> None:
        for each in due:
            usual = max(ASK_SECONDS, ASK_EACH_SECONDS * len(self.watched))
            each.ask_at = now + (min(each.pause, usual) if each.entry.said else usual)
        try:
            found = self._asked(due)
        except SchedulerError as error:
            self._silent(error, due, now, step)
            return
        self.silent_since = 0.0
        for each in due:
            self._note(each, found.get(each.entry.name, each.entry.status), step)

    def _asked(self, due: Sequence[Watched]) -> dict[str, Status]:
        found: dict[str, Status] = {}
        for name in sorted({each.entry.job.scheduler for each in due}):
            scheduler = choice.scheduler(name, self.context.site, self.context.environ)
            found |= settle(scheduler, [each.entry for each in due])
        return found

    def _silent(self, error: SchedulerError, due: Sequence[Watched], now: float, step: Step) -> None:
        """The jobs' own words count meanwhile."""
        if not self.silent_since:
            self.silent_since = now
            self.context.ui.warn(f"{error.message}; the jobs go on, and it is asked again")
        elif now - self.silent_since > SILENT_SECONDS:
            error.hint = GO_ON
            raise error
        for each in due:
            if said := each.entry.said:
                self._note(each, said, step)

    @staticmethod
    def _note(each: Watched, status: Status, step: Step) -> None:
        before, each.status = each.status, status
        if (before.state, before.reason) == (status.state, status.reason):
            return
        words = status.cause if status.state == ENDED else status.state
        more = f" ({status.reason})" if status.reason and not status.ended else ""
        place = f" on {status.node}" if status.node and not status.ended else ""
        step.note(f"{each.entry.title}: {words}{place}{more}")


def follow(context: Context, entries: Sequence[Entry]) -> None:
    """Follow jobs until all have ended; says nothing where there are none."""
    if not entries:
        return
    watched = [
        Watched(entry, Reader(entry.events), entry.status if entry.settled else Status(""))
        for entry in entries
    ]
    Follower(context, watched).follow()
