"""One run of a schedule: `python -m kiln.scheduled FOLDER`, with the folder of `kiln.schedules`.

Owns that there is one run at a time, that it leaves a log, and that a schedule which is a job submits the
next one: before the work, which may be killed, and after it where that failed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from kiln import files, installing, tasks, unattended
from kiln.context import open_context
from kiln.errors import BusyError, KilnError
from kiln.schedules import JOB, Place, Run, Schedule
from kiln.ui import PlainUi
from kiln.workspace import JOB_VARIABLES

LONGEST_WAIT = 12 * 3600.0  # seconds, for another schedule


def main(folder: Path) -> int:
    """Run it once; returns the exit code of its command, 0 where it runs already."""
    place = Place(folder)
    if not (folder / "schedule.json").is_file():
        print(f"{folder}: this schedule was removed", file=sys.stderr)
        return 0
    place.turn_log()
    unattended.redirect(place.log, place.log)
    schedule = place.read()
    os.environ.update(unattended.environment(schedule.environment, os.environ))
    os.umask(schedule.umask)
    try:
        with files.locked(place.lock, wait=0.0):
            return _run(place, schedule)
    except BusyError as error:
        _say(f"not run: {error.message}")
        return 0
    except KilnError as error:
        _say(f"error: {error.message}")
        return error.exit_code


def _run(place: Place, schedule: Schedule) -> int:
    mine = next((os.environ[name] for name in JOB_VARIABLES if name in os.environ), "")
    expected = place.state().get("job", "")
    if schedule.kind == JOB and expected and mine.partition(".")[0] != str(expected).partition(".")[0]:
        _say(f"not run: this is job {mine}, and the schedule goes on with job {expected}")
        return 0
    began = time.time()
    _say(f"begins: {schedule.command}")
    next_is_sure = _submit_next(place, schedule)
    os.chdir(schedule.root)
    os.environ["KILN_ROOT"] = schedule.root
    # Two schedules may be due at the same time: the second finds done what the first did.
    with files.locked(place.shared_lock, wait=LONGEST_WAIT, on_wait=_say):
        code = unattended.outcome(lambda: tasks.main(["kiln", *schedule.argv]))
    place.add(Run(began, time.time(), code))
    _say(f"ends: exit code {code}, {time.time() - began:.0f} s")
    if not next_is_sure and not _submit_next(place, schedule):
        return code or 1
    return code


def _submit_next(place: Place, schedule: Schedule) -> bool:
    """Of a schedule that is a job: submit the next one. Others are started by cron or systemd."""
    if schedule.kind != JOB:
        return True
    try:
        context = open_context(
            Path(schedule.root), schedule.site, None, os.environ, PlainUi(sys.stdout, sys.stderr)
        )
        job = installing.submit(context, place, schedule)
    except KilnError as error:
        _say(f"the next run could not be submitted: {error.message}")
        return False
    due = time.localtime(place.state()["due"])
    _say(f"the next run is job {job}, {time.strftime('%a %Y-%m-%d %H:%M', due)}")
    return True


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
