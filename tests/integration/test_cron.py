"""A schedule that a real cron starts: installed, run with what cron gives, seen, and taken out again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.project import Project

pytestmark = [
    pytest.mark.skipif(shutil.which("cron") is None, reason="cron is missing: ./bootstrap test says how"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run cron's daemon"),
]
# Crontabs and the file by which cron knows that it runs, of this machine's own cron neither.
OWN_CRON = """\
mount -t tmpfs -o mode=1730,gid=crontab none /var/spool/cron/crontabs && mount -t tmpfs none /run || exit 99
echo ready
exec cron -f
"""


@pytest.fixture
def within(project: Project) -> Iterator[list[str]]:
    """The beginning of a command line that runs beside that cron."""
    argv = ["unshare", "--mount", "sh", "-c", OWN_CRON]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout and daemon.stdout.readline() == "ready\n"
        yield [
            *("nsenter", "--target", str(daemon.pid), "--mount", "--"),
            *("env", f"--chdir={project.root}"),
        ]
        daemon.terminate()


def read_until(path: Path, text: str) -> str:
    """What is in a file once `text` is, which may not be there yet."""
    found = ""
    argv = ["tail", "--follow=name", "--retry", "--lines=+1", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as reading:
        with contextlib.closing(reading.stdout or pytest.fail()) as lines:
            while text not in found:
                found += lines.readline()
        reading.terminate()
    return found


def test_cron_starts_it(project: Project, within: list[str]) -> None:
    project.manifest("x")
    project.build("x")
    # The minute that begins in 10 s at the earliest: cron looks for new crontabs when one begins.
    when = time.strftime("day %H:%M", time.localtime(time.time() + 70))
    crontab = [*within, "crontab", "-l"]
    done = project.run("schedule", "--every", when, "--run", "outdated", "--install", within=within)
    done.expect(0, "outdated is installed: your crontab")
    assert subprocess.check_output(crontab, text=True).endswith("# kiln-outdated\n")
    [log] = [line.split()[1] for line in done.out.splitlines() if line.startswith("log ")]
    text = read_until(Path(log), "ends: ")
    assert "begins: kiln outdated" in text and "x small-r1: up to date" in text and "exit code 0" in text
    project.run("schedule", "--list", within=within).expect(0, when, ", exit code 0")
    project.run("schedule", "--remove", "outdated", within=within).expect(0)
    assert subprocess.check_output(crontab, text=True) == ""
