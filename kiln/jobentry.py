"""What a batch job runs: `python -m kiln.jobentry FOLDER`, with the folder of `kiln.ledger`.

Owns the job's side of that folder. It starts nothing where a job that it comes after did not end well: not
every scheduler keeps that promise in all cases.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kiln import ledger, tasks, unattended
from kiln.errors import BlockedError, KilnError
from kiln.ledger import Entry
from kiln.ui import JsonUi
from kiln.workspace import JOB_VARIABLES


def main(folder: Path) -> int:
    """Do the work; returns its exit code."""
    entry = ledger.read(folder)
    job = entry.job
    unattended.redirect(entry.events, entry.log)
    entry.begins(next((os.environ[name] for name in JOB_VARIABLES if name in os.environ), ""))
    os.environ.update(unattended.environment(job.environment, os.environ))
    os.umask(job.umask)
    try:
        check_parents(entry)
        os.chdir(job.root)
        os.environ["KILN_ROOT"] = job.root
        code = unattended.outcome(lambda: tasks.main(["kiln", *job.argv]))
    except KilnError as error:
        JsonUi(sys.stdout).error(error)
        code = error.exit_code
    except OSError as error:
        print(f"{job.root}: {error.strerror}", file=sys.stderr)
        code = 1
    entry.ends(code)
    return code


def check_parents(entry: Entry) -> None:
    """Raise `BlockedError` where a job that this one comes after has not ended well."""
    for name in entry.job.after:
        parent = ledger.read(entry.path.parent / name)
        said = parent.said
        if said is None or said.code != 0:
            how = f"failed (exit code {said.code})" if said else "did not come to its end"
            raise BlockedError(f"{entry.title} was not started: {parent.title} {how}", "see: invoke jobs")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
