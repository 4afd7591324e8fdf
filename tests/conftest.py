"""What is said at the end of every run."""

from __future__ import annotations

import pytest

NO_ENROOT = "no enroot here: put it on PATH, or set KILN_REAL_ENROOT"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skip without a word would look like a test that passed."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and NO_ENROOT in report.longrepr[2]
    ]
    if skipped:
        terminalreporter.write_line(
            f"kiln: {len(skipped)} tests against a REAL enroot did not run ({NO_ENROOT})"
        )
