"""Schedules put where they are started from: a crontab, a systemd timer, or a queue.

Owns the text of each, and the commands that install, look for and remove it. Each names its schedule by
`kiln-NAME`, or by a comment with that.
"""

from __future__ import annotations

import os
import pwd
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kiln import files
from kiln.context import Context
from kiln.errors import KilnError
from kiln.resources import Resources
from kiln.run import CommandFailed, host_environment, run
from kiln.schedulers import choice
from kiln.schedulers.contract import Request
from kiln.schedules import CRON, SYSTEMD, Place, Schedule

CALL_SECONDS = 30.0
NO_CRONTAB = "no crontab for"


@dataclass(frozen=True)
class Printed:
    """What a person would put where by hand: titles and texts."""

    parts: tuple[tuple[str, str], ...]


def printed(context: Context, place: Place, schedule: Schedule) -> Printed:
    """The text of what is installed."""
    if schedule.kind == CRON:
        return Printed((("a line of your crontab (crontab -e)", crontab_line(place, schedule)),))
    if schedule.kind == SYSTEMD:
        units = _units(place, schedule)
        return Printed(tuple((str(_unit_folder() / name), text) for name, text in units.items()))
    scheduler = choice.scheduler(schedule.scheduler, context.site, context.environ)
    command = shlex.join(scheduler.command(_request(place, schedule, place.next_due(schedule))))
    return Printed(
        (("a job, which submits itself again", command), (str(place.script), place.script.read_text()))
    )


def install(context: Context, place: Place, schedule: Schedule) -> str:
    """Put it where it is started from, in place of an older one of the same name; says where that is."""
    if schedule.kind == CRON:
        _edit_crontab(context, place, crontab_line(place, schedule))
        return "your crontab"
    if schedule.kind == SYSTEMD:
        return _install_units(context, place, schedule)
    _forget_job(context, place, schedule)
    return f"job {submit(context, place, schedule)}"


def remove(context: Context, place: Place, schedule: Schedule) -> None:
    """Take it out again; what isn't there is fine."""
    if schedule.kind == CRON:
        _edit_crontab(context, place, "")
    elif schedule.kind == SYSTEMD:
        _remove_units(context, place)
    else:
        _forget_job(context, place, schedule)


def problem(context: Context, place: Place, schedule: Schedule) -> str:
    """Why it won't run by itself; '' where it will."""
    try:
        if schedule.kind == CRON:
            there = any(_is_of(line, place) for line in _crontab(context))
            return "" if there else "not in your crontab"
        if schedule.kind == SYSTEMD:
            _systemctl(context, "is-enabled", f"{_unit(place)}.timer")
            return ""
        return _job_problem(context, place, schedule)
    except CommandFailed:
        return "no such timer is enabled"
    except KilnError as error:
        return f"not known: {error.message}"


# --- cron --------------------------------------------------------------------------------------


def crontab_line(place: Place, schedule: Schedule) -> str:
    # cron takes % for the end of the command.
    command = shlex.quote(str(place.script)).replace("%", r"\%")
    return f"{schedule.recurrence.cron} {command} # {_unit(place)}"


def _is_of(line: str, place: Place) -> bool:
    return line.rstrip().endswith(f" # {_unit(place)}")


def _crontab(context: Context) -> list[str]:
    try:
        return run(
            ["crontab", "-l"],
            what="read your crontab",
            env=host_environment(context.environ),
            timeout=CALL_SECONDS,
            separate=True,
        ).output.splitlines()
    except CommandFailed as error:
        if NO_CRONTAB in " ".join(error.details):
            return []
        raise


def _edit_crontab(context: Context, place: Place, line: str) -> None:
    """Have `line` in place of the schedule's own one; every other stays as it is."""
    before = _crontab(context)
    after = [each for each in before if not _is_of(each, place)] + ([line] if line else [])
    if after == before:
        return
    with tempfile.NamedTemporaryFile("w", prefix="kiln-crontab-") as stream:
        stream.write("".join(f"{each}\n" for each in after))
        stream.flush()
        env = host_environment(context.environ)
        run(["crontab", stream.name], what="write your crontab", env=env, timeout=CALL_SECONDS)


# --- systemd -----------------------------------------------------------------------------------


def _unit(place: Place) -> str:
    return f"kiln-{place.path.name}"


def _unit_folder() -> Path:
    """Root's are the system's; a user's own are run by the user's manager, wherever HOME says to be."""
    if os.getuid() == 0:
        return Path("/etc/systemd/system")
    return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".config/systemd/user"


def _units(place: Place, schedule: Schedule) -> dict[str, str]:
    said = f"Kiln: {schedule.command}".replace("%", "%%")
    service = f"[Unit]\nDescription={said}\n\n[Service]\nType=oneshot\nExecStart={_word(str(place.script))}\n"
    timer = (
        f"[Unit]\nDescription={said}\n\n[Timer]\nOnCalendar={schedule.recurrence.systemd}\nPersistent=true\n\n"
        "[Install]\nWantedBy=timers.target\n"
    )
    return {f"{_unit(place)}.service": service, f"{_unit(place)}.timer": timer}


def _word(text: str) -> str:
    """One word of an ExecStart line: systemd.service(5), 'COMMAND LINES'."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _install_units(context: Context, place: Place, schedule: Schedule) -> str:
    folder = _unit_folder()
    files.make_folder(folder)
    for name, text in _units(place, schedule).items():
        files.write_atomic(folder / name, text.encode())
    _systemctl(context, "daemon-reload")
    _systemctl(context, "enable", "--now", f"{_unit(place)}.timer")
    user = pwd.getpwuid(os.getuid()).pw_name
    if os.getuid() and not Path(f"/var/lib/systemd/linger/{user}").exists():
        context.ui.warn(
            f"it runs only while you are logged in; to change that: loginctl enable-linger {user}"
        )
    return str(folder / f"{_unit(place)}.timer")


def _remove_units(context: Context, place: Place) -> None:
    paths = [_unit_folder() / f"{_unit(place)}.{kind}" for kind in ("timer", "service")]
    if not any(path.exists() for path in paths):
        return
    _systemctl(context, "disable", "--now", f"{_unit(place)}.timer")
    for path in paths:
        path.unlink(missing_ok=True)
    _systemctl(context, "daemon-reload")


def _systemctl(context: Context, *words: str) -> str:
    uid = os.getuid()
    # The user's manager is found by this variable alone, which a bare environment lacks.
    env = {"XDG_RUNTIME_DIR": f"/run/user/{uid}", **host_environment(context.environ)}
    argv = ["systemctl", *(["--user"] if uid else []), *words]
    return run(argv, what=f"{words[0]} a systemd timer", env=env, timeout=CALL_SECONDS).output


# --- a job that submits itself -------------------------------------------------------------------


def submit(context: Context, place: Place, schedule: Schedule) -> str:
    """Submit the job of the next run; returns its id."""
    due = place.next_due(schedule)
    scheduler = choice.scheduler(schedule.scheduler, context.site, context.environ)
    job = scheduler.submit(_request(place, schedule, due))
    place.keep(due, job)
    return job


def _request(place: Place, schedule: Schedule, due: float) -> Request:
    return Request(
        name=_unit(place),
        program=place.script,
        log=place.path / "scheduler.log",
        resources=Resources(**(schedule.resources or {})),
        begin=due,
    )


def _forget_job(context: Context, place: Place, schedule: Schedule) -> None:
    if job := place.state().get("job"):
        choice.scheduler(schedule.scheduler, context.site, context.environ).cancel(str(job))
        place.keep(0.0)


def _job_problem(context: Context, place: Place, schedule: Schedule) -> str:
    job = str(place.state().get("job", ""))
    if not job:
        return "no job is queued"
    known = choice.scheduler(schedule.scheduler, context.site, context.environ).query([job])
    status = known.get(job)
    return "" if status and not status.ended else f"job {job} is gone: install it again"
