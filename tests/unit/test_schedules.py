"""Schedules: when they are due, how they get to cron and systemd, and a run with no environment at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiln import installing, recurrence, schedules
from kiln.context import Context, open_context
from kiln.errors import UsageError
from kiln.installing import crontab_line, install, printed, problem, remove
from kiln.schedules import CRON, SYSTEMD, Place, Schedule
from kiln.ui import PlainUi

CRONTAB = """#!/bin/sh
# Debian's: no crontab is exit code 1.
[ "$1" = -l ] || { cat "$1" > FOLDER/tab; exit; }
cat FOLDER/tab 2> /dev/null || { echo "no crontab for root" >&2; exit 1; }
"""


def at(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


def shown(moment: float) -> str:
    return time.strftime("%a %Y-%m-%d %H:%M", time.localtime(moment))


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("every", "now", "due", "cron", "systemd"),
    [
        ("sun 02:00", "2026-11-25 12:00", "Sun 2026-11-29 02:00", "0 2 * * 0", "Sun *-*-* 02:00:00"),
        ("Mon-Fri 22:30", "2026-11-27 22:30", "Mon 2026-11-30 22:30", "30 22 * * 1,2,3,4,5", None),
        ("sat-mon 7:05", "2026-11-25 12:00", "Sat 2026-11-28 07:05", "5 7 * * 1,6,0", None),
        ("day 04:00", "2026-11-25 03:59", "Wed 2026-11-25 04:00", "0 4 * * *", "*-*-* 04:00:00"),
        ("04:00", "2026-12-31 04:00", "Fri 2027-01-01 04:00", "0 4 * * *", "*-*-* 04:00:00"),
        ("1 03:00", "2026-11-25 12:00", "Tue 2026-12-01 03:00", "0 3 1 * *", "*-*-01 03:00:00"),
    ],
)
def test_when_it_is_due(every: str, now: str, due: str, cron: str, systemd: str | None) -> None:
    found = recurrence.parse(every)
    assert shown(found.next(at(now))) == due
    assert found.cron == cron
    assert systemd in (None, found.systemd)
    if analyze := shutil.which("systemd-analyze"):
        subprocess.run([analyze, "calendar", found.systemd], check=True, capture_output=True)


@pytest.mark.parametrize(
    "every", ["", "sunday", "sun", "sun 24:00", "02:60", "31 02:00", "fun 02:00", "mon- 1:00"]
)
def test_what_is_no_time(every: str) -> None:
    with pytest.raises(UsageError) as caught:
        recurrence.parse(every)
    assert caught.value.hint


def test_when_clocks_change(berlin: object) -> None:
    night = recurrence.parse("day 02:30")
    # In spring there is no half past two, in autumn there are two: each night has one run.
    for first, last in (("2026-03-27", "2026-03-31"), ("2026-10-23", "2026-10-27")):
        moment, runs = at(f"{first} 12:00"), []
        while moment < at(f"{last} 12:00"):
            moment = night.next(moment)
            runs.append(time.strftime("%d", time.localtime(moment)))
        assert len(runs) == len(set(runs)) >= 4


def test_a_clock_that_is_wrong_for_a_while() -> None:
    night, due = recurrence.parse("day 02:00"), at("2026-11-25 02:00")
    assert shown(night.after(due, at("2026-11-25 01:30"))) == "Thu 2026-11-26 02:00", "put back: not twice"
    assert shown(night.after(at("2031-01-01 02:00"), at("2026-11-25 12:00"))) == "Thu 2026-11-26 02:00"


# --- installing ----------------------------------------------------------------------------------


@pytest.fixture
def context(tmp_path: Path) -> Context:
    for name in ("manifests", "sites", "bin", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "sites/local.yaml").write_text("format: 1\nname: local\nimages: images\ncache: a%b c\n")
    (tmp_path / "bin/crontab").write_text(CRONTAB.replace("FOLDER", str(tmp_path)))
    (tmp_path / "bin/crontab").chmod(0o755)
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    return open_context(tmp_path, None, None, environ, PlainUi(sys.stdout, sys.stderr))


def made(context: Context, kind: str = CRON, name: str = "weekly", *argv: str) -> tuple[Place, Schedule]:
    place = schedules.place(context.site.jobs_folder, name)
    words = argv or ("list", "--site=local")
    found = Schedule(name, kind, "sun 02:00", words, str(context.root), "local", {}, 0o022)
    place.write(found)
    return place, found


def test_a_crontab_keeps_what_is_not_ours(context: Context) -> None:
    tab = context.root / "tab"
    place, found = made(context)
    assert problem(context, place, found) == "not in your crontab"
    install(context, place, found)
    assert tab.read_text() == crontab_line(place, found) + "\n"
    tab.write_text("# mine\n* * * * * true # kiln-weekly-not\n" + tab.read_text())
    install(context, place, found)
    assert tab.read_text().count("run.sh") == 1
    assert problem(context, place, found) == ""
    remove(context, place, found)
    assert tab.read_text() == "# mine\n* * * * * true # kiln-weekly-not\n"


def test_a_crontab_line_starts_it_with_no_environment_at_all(context: Context) -> None:
    place, found = made(context)
    line = crontab_line(place, found)
    assert line.startswith("0 2 * * 0 ")
    command = line.split(" ", 5)[5].replace(r"\%", "%")  # as cron reads it
    assert "%" not in line.replace(r"\%", "")
    done = subprocess.run(["/bin/sh", "-c", command], env={}, cwd="/", check=False, timeout=60)
    assert done.returncode == 0
    text = place.log.read_text()
    assert "begins: kiln list --site=local" in text
    assert "ends: exit code 0" in text
    last = place.last()
    assert last and last.code == 0


def test_systemd_reads_the_units(context: Context, tmp_path: Path) -> None:
    place, found = made(context, SYSTEMD)
    text = printed(context, place, found)
    (service, unit), (timer, when) = text.parts
    assert service.endswith("kiln-weekly.service")
    assert timer.endswith("kiln-weekly.timer")
    assert "Persistent=true" in when
    assert "a%%b c" in unit
    if analyze := shutil.which("systemd-analyze"):
        for name, body in ((service, unit), (timer, when)):
            (tmp_path / Path(name).name).write_text(body)
        paths = [str(tmp_path / Path(name).name) for name in (service, timer)]
        done = subprocess.run([analyze, "verify", *paths], capture_output=True, text=True, check=False)
        assert "kiln-weekly" not in done.stderr, done.stderr


def test_one_run_at_a_time(context: Context) -> None:
    place, _ = made(context)
    with place.lock.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        done = subprocess.run([str(place.script)], env={}, check=False, timeout=60)
    assert done.returncode == 0
    assert "not run: " in place.log.read_text()
    assert place.last() is None


def test_two_schedules_at_once_run_one_after_the_other(context: Context) -> None:
    place, _ = made(context)
    with place.shared_lock.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        running = subprocess.Popen([str(place.script)], env={})
        deadline = time.monotonic() + 30
        while not place.log.exists() or "waiting for" not in place.log.read_text():
            assert time.monotonic() < deadline
        assert running.poll() is None
    assert running.wait(60) == 0
    assert "ends: exit code 0" in place.log.read_text()


def test_a_removed_schedule_and_a_failing_one(context: Context) -> None:
    place, _ = made(context, CRON, "bad", "build", "nothing", "--site=local")
    assert subprocess.run([str(place.script)], env={}, check=False, timeout=60).returncode == 2
    assert "there is no manifest 'nothing'" in place.log.read_text()
    (place.path / "schedule.json").unlink()
    assert subprocess.run([str(place.script)], env={}, check=False, timeout=60).returncode == 0
    with pytest.raises(UsageError):
        schedules.place(context.site.jobs_folder, "../x")
    assert json.loads((place.path / "runs.jsonl").read_text())["code"] == 2
    assert os.stat(place.path).st_mode & 0o777 == 0o700


def test_a_timer_is_enabled_and_taken_out_again(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "_unit_folder", lambda: tmp_path / "units")
    said = tmp_path / "said"
    (tmp_path / "bin/systemctl").write_text(f'#!/bin/sh\necho "$XDG_RUNTIME_DIR $*" >> {said}\n')
    (tmp_path / "bin/systemctl").chmod(0o755)
    place, found = made(context, SYSTEMD)
    assert install(context, place, found).endswith("units/kiln-weekly.timer")
    assert problem(context, place, found) == ""
    remove(context, place, found)
    user = "" if os.getuid() == 0 else "--user "
    assert said.read_text().splitlines() == [
        f"/run/user/{os.getuid()} {user}{words}"
        for words in (
            "daemon-reload",
            "enable --now kiln-weekly.timer",
            "is-enabled kiln-weekly.timer",
            "disable --now kiln-weekly.timer",
            "daemon-reload",
        )
    ]
    assert list((tmp_path / "units").iterdir()) == []
    (tmp_path / "bin/systemctl").write_text("#!/bin/sh\necho disabled; exit 1\n")
    assert problem(context, place, found) == "no such timer is enabled"
