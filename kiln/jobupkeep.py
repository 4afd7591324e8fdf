"""`invoke rebuild --on SCHEDULER`: what is due, a job for each image, and the report of how they ended.

Owns how the end of a job is told in a rebuild's report. What is due is `kiln.upkeep`'s, jobs are
`kiln.submission`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kiln import jobreport, ledger, lockfile, submission, upkeep
from kiln import report as reports
from kiln.context import Context
from kiln.due import PARENT, REBUILD
from kiln.ended import BLOCKED, BUILT, FAILED, REUSED, STOPPED, Ended, error_data
from kiln.errors import BlockedError, KilnError
from kiln.ledger import Entry
from kiln.report import Report
from kiln.resources import BUILD, SMOKE
from kiln.schedulers import contract
from kiln.schedulers.contract import NoAnswer
from kiln.submission import Sent, Work
from kiln.upkeep import Plan, Step


@dataclass(frozen=True)
class Submitted:
    """The jobs of a rebuild, in order, and its report."""

    plan: Plan
    sent: tuple[Sent, ...]
    report: Report

    @property
    def entries(self) -> list[Entry]:
        return [each.entry for each in self.sent if each.entry]

    def end(self, context: Context) -> list[Ended]:
        """How each image came out, once all jobs have ended: reported, and told to whom the site names."""
        found = [_ended(each) for each in self.sent if not _is_test_of_other(each, self.sent)]
        data = self.report.write(reports.DONE, found)
        if found or self.plan.unknown:
            upkeep.tell(context, data, self.report.path)
        return found


def submit(context: Context, scheduler: str, names: Sequence[str], options: Sequence[str]) -> Submitted:
    """Submit a job for each of `names` that is due; `options` are those of the jobs' commands."""
    made = upkeep.plan(context, names, 0)
    due = [step.to_data() for step in made.steps]
    report = reports.begin(context.site.reports, context.site.name, due, made.unknown)
    submitter = submission.submitter(context, scheduler)
    sent: list[Sent] = []
    for step in made.steps:
        lost = {each.reference for each in sent if each.problem}.intersection(step.needs)
        try:
            if lost:
                raise BlockedError(f"its parent {min(lost)} was not submitted", "mend that first")
            sent += submitter.submit(_work(context, step, options))
        except NoAnswer:
            report.write(reports.INTERRUPTED, [])
            raise
        except KilnError as error:
            sent.append(Sent(step.state.name, None, problem=error))
    done = Submitted(made, tuple(sent), report)
    report.write(reports.SUBMITTED if done.entries else reports.DONE, [])
    return done


def _work(context: Context, step: Step, options: Sequence[str]) -> Work:
    state = step.state
    if step.action != REBUILD:
        return Work(SMOKE, [f"{state.name}:{state.version}"], options)
    # Where the parent comes out as it was, what is due for it alone isn't made anew. A lock names the parent.
    alone = all(each.kind == PARENT for each in state.reasons if each.remedy == REBUILD)
    locked = lockfile.path_of(context.manifests, state.name).exists()
    return Work(BUILD, [state.name], [*(["--renew"] if locked or not alone else []), *options])


def _is_test_of_other(each: Sent, sent: Sequence[Sent]) -> bool:
    """Whether it is the test of what another of these jobs builds, and says nothing more than that one."""
    entry = each.entry
    if entry is None or entry.job.kind != SMOKE or _failed(entry):
        return False
    return any(other.entry and other.entry.name in entry.job.after for other in sent)


def _failed(entry: Entry) -> bool:
    return entry.status.state == contract.ENDED and entry.status.cause not in (
        contract.DONE,
        contract.BLOCKED,
    )


def _ended(sent: Sent) -> Ended:
    """How the job of an image ended, as a rebuild tells it."""
    name = sent.reference.partition(":")[0]
    if sent.entry is None:
        error = error_data(sent.problem) if sent.problem else {}
        return Ended(name, FAILED, error=error)
    found = jobreport.report(sent.entry)
    status, result, log = found.status, found.result, sent.entry.log
    seconds = round(max(0.0, sent.entry.ended - sent.entry.started), 1) if sent.entry.started else 0.0
    version = str(result.get("version", ""))
    if status.state != contract.ENDED:
        return Ended(name, STOPPED, log=log, why=f"its job {sent.entry.id} has not ended")
    if status.cause == contract.DONE:
        same = bool(result.get("up_to_date") or result.get("unchanged") or sent.entry.job.kind == SMOKE)
        return Ended(name, REUSED if same else BUILT, version, seconds, log=log)
    if status.cause == contract.BLOCKED:
        return Ended(name, BLOCKED, by=_parent(sent.entry))
    return Ended(name, FAILED, version, seconds, error=error_data(found.failure()), log=log)


def _parent(entry: Entry) -> str:
    """The image whose job an entry waited for, the one that failed if there are several."""
    book = ledger.Ledger(entry.path.parent)
    parents = [book.entry(name) for name in entry.job.after]
    bad = [each for each in parents if each.status.cause not in ("", contract.DONE)]
    return next((each.job.image for each in (*bad, *parents)), "")
