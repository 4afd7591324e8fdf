"""When something is done again and again: `sun 02:00`, `mon-fri 22:30`, `day 04:00`, `1 03:00`.

Owns that notation, the next time after a moment, and the same in cron's and systemd's words. Times are those
of the machine's clock on the wall.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from kiln.errors import UsageError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FORM = re.compile(r"(?:(?P<day>[a-z0-9,-]+) +)?(?P<hour>\d{1,2}):(?P<minute>\d{2})")
LAST_DAY = 28
LONGEST = 63
DAY_SECONDS = 86_400
EXAMPLES = "write it as 'sun 02:00', 'mon-fri 22:30', 'day 04:00', or '1 03:00' for the first of each month"


@dataclass(frozen=True)
class Recurrence:
    """On these `weekdays` (0 is Monday; all of them for every day), or on a `day` of the month, at a time."""

    weekdays: tuple[int, ...]
    day: int
    hour: int
    minute: int

    def next(self, moment: float) -> float:
        """The first time after `moment`, both Unix seconds.

        Where the clock jumps over the time of day it is done at what takes its place; where a time of day
        comes twice, once.
        """
        now = time.localtime(moment)
        for ahead in range(LONGEST):
            noon = time.localtime(
                time.mktime((now.tm_year, now.tm_mon, now.tm_mday + ahead, 12, 0, 0, 0, 0, -1))
            )
            date = (noon.tm_year, noon.tm_mon, noon.tm_mday)
            found = time.mktime((*date, self.hour, self.minute, 0, 0, 0, -1))
            wanted = noon.tm_mday == self.day if self.day else noon.tm_wday in self.weekdays
            if wanted and found > moment:
                return found
        raise AssertionError("every recurrence comes within two months")

    def after(self, last: float, now: float) -> float:
        """The next time, given when it was `last` due: one that a clock put back brings twice is done once.

        A `last` that is more than a day ahead was noted by a clock that was wrong, and doesn't count.
        """
        return self.next(max(last, now) if last - now < DAY_SECONDS else now)

    @property
    def cron(self) -> str:
        """Minute, hour, day of the month, month, day of the week (Sunday is 0)."""
        days = ",".join(str((day + 1) % 7) for day in self.weekdays) if len(self.weekdays) < 7 else "*"
        return f"{self.minute} {self.hour} {self.day or '*'} * {'*' if self.day else days}"

    @property
    def systemd(self) -> str:
        """systemd.time(7), 'CALENDAR EVENTS'."""
        clock = f"{self.hour:02}:{self.minute:02}:00"
        if self.day:
            return f"*-*-{self.day:02} {clock}"
        named = ",".join(DAYS[day].capitalize() for day in self.weekdays)
        return f"{named} *-*-* {clock}" if len(self.weekdays) < 7 else f"*-*-* {clock}"


def parse(text: str) -> Recurrence:
    """Raises `UsageError`."""
    match = FORM.fullmatch(text.strip().lower())
    if not match:
        raise UsageError(f"--every '{text}' is no time", EXAMPLES)
    hour, minute, day = int(match["hour"]), int(match["minute"]), match["day"] or "day"
    if hour > 23 or minute > 59:
        raise UsageError(f"--every '{text}': there is no {hour}:{minute:02} o'clock", EXAMPLES)
    if day.isdigit():
        if not 1 <= int(day) <= LAST_DAY:
            raise UsageError(f"--every '{text}': not every month has a day {day}", f"1 to {LAST_DAY}")
        return Recurrence((), int(day), hour, minute)
    return Recurrence(tuple(_weekdays(day, text)), 0, hour, minute)


def _weekdays(said: str, text: str) -> list[int]:
    if said in ("day", "daily"):
        return list(range(7))
    found: set[int] = set()
    for word in said.split(","):
        first, dash, last = word.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise UsageError(f"--every '{text}': '{word}' is no day", EXAMPLES)
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return sorted(found)
