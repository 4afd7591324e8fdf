"""What is said at the end of every run."""

from __future__ import annotations

import pytest

NO_ENROOT = "no enroot here: put it on PATH, or set KILN_REAL_ENROOT"
NO_SLURM = "no Slurm here: apt-get install slurm-wlm"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skip without a word would look like a test that passed."""
    for what, why in (("enroot", NO_ENROOT), ("Slurm", NO_SLURM)):
        skipped = [
            report
            for report in terminalreporter.stats.get("skipped", [])
            if isinstance(report.longrepr, tuple) and why in report.longrepr[2]
        ]
        if skipped:
            terminalreporter.write_line(
                f"kiln: {len(skipped)} tests against a REAL {what} did not run ({why})"
            )
