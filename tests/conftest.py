"""What is said at the end of every run."""

from __future__ import annotations

import pytest

NO_ENROOT = "no enroot here: put it on PATH, or set KILN_REAL_ENROOT"
NO_BROWSER = "no Chromium here: apt-get install chromium chromium-driver"
NO_SHELL = "no such shell here: apt-get install zsh fish"
NO_SLURM = "no Slurm here: apt-get install slurm-wlm"
TOLD = {
    NO_ENROOT: "against a REAL enroot",
    NO_BROWSER: "in a REAL browser",
    NO_SHELL: "in zsh or fish",
    NO_SLURM: "against a REAL Slurm",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skip without a word would look like a test that passed."""
    reasons = [
        report.longrepr[2]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    ]
    for why, what in TOLD.items():
        if count := sum(why in reason for reason in reasons):
            terminalreporter.write_line(f"kiln: {count} tests {what} did not run ({why})")
