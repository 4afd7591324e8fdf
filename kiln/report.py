"""The report of a rebuild: one JSON file, there from the beginning, and whole at every moment.

    <cache>/v1/reports/rebuild-TIME-PID.json      the last of them is also last.json
        format, state (running, submitted, done, interrupted), started, ended, host, pid, site
        due        every image that was due, with its reasons and what is done for it
        images     how each ended, as in the summary of `build`
        not_known  what could not be asked, by image

One that says `submitted` is of jobs that nobody waited for: `invoke jobs` knows how they ended. One that says
`running` and whose process is gone is of a rebuild that was killed. Owns these fields.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiln import ended, files, invocation
from kiln.ended import Ended

FORMAT = 1
RUNNING, SUBMITTED, DONE, INTERRUPTED = "running", "submitted", "done", "interrupted"
LAST = "last.json"
MOST_KEPT = 100


@dataclass
class Report:
    """A report that is being written to `path`."""

    path: Path
    site: str
    due: Sequence[Mapping[str, Any]]
    not_known: Mapping[str, Sequence[str]]
    started: str = field(default_factory=invocation.now)

    def data(self, state: str, found: Sequence[Ended]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "state": state,
            "started": self.started,
            "ended": "" if state in (RUNNING, SUBMITTED) else invocation.now(),
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "site": self.site,
            "due": list(self.due),
            "images": [each.to_data() for each in found],
            **ended.counts(found),
            "not_known": {name: list(why) for name, why in self.not_known.items()},
            "report": str(self.path),
        }

    def write(self, state: str, found: Sequence[Ended]) -> dict[str, Any]:
        """Put the report where it is read; returns it."""
        data = self.data(state, found)
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        files.write_atomic(self.path, text.encode("utf-8", "replace"))
        return data


def begin(
    folder: Path, site: str, due: Sequence[Mapping[str, Any]], unknown: Mapping[str, Sequence[str]]
) -> Report:
    """A new report in `folder`, which keeps the last hundred."""
    files.make_folder(folder)
    stamp = invocation.now().translate({ord(":"): None, ord("-"): None})
    report = Report(folder / f"rebuild-{stamp}-{os.getpid()}.json", site, due, unknown)
    report.write(RUNNING, [])
    files.link_atomic(folder / LAST, report.path.name)
    for old in sorted(folder.glob("rebuild-*.json"))[:-MOST_KEPT]:
        old.unlink(missing_ok=True)
    return report
