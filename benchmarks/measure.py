"""Runs one build of a contestant under the meter."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import results
from benchmarks.contestants import Call, Contestant
from benchmarks.results import Usage
from benchmarks.stack import Work
from kiln.run import run

LIMIT_SECONDS = 3 * 3600.0
METER = Path(__file__).with_name("meter.py")


def call(wanted: Call, what: str, report: Path, on_line: Callable[[str], None] | None = None) -> Usage:
    """Run a program to its end. Raises `CommandFailed` with the end of what it said."""
    # What was written before must not be paid for by this run.
    os.sync()
    argv = [sys.executable, str(METER), str(report), *wanted.argv]
    run(argv, what=what, env=wanted.env, cwd=wanted.cwd, timeout=LIMIT_SECONDS, on_line=on_line)
    found = json.loads(report.read_text())
    report.unlink()
    return results.usage(found)


def build(contestant: Contestant, work: Work, report: Path, on_line: Callable[[str], None]) -> Usage:
    """One build; the finished image's size is in the outcome."""
    taken = call(contestant.prepare(work), contestant.title, report, on_line)
    return replace(taken, image=contestant.result().stat().st_size)
