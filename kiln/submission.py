"""Work handed to a scheduler: one job for each image, in order, each after those that it needs.

Owns what a job is made of, and that there is one of a kind for an image at a time. A scheduler's promise to
hold a job back until another has ended well has gaps: a parent that is over is looked at first, and the job
looks again itself (`kiln.jobentry`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from kiln import graph, ledger, resources, smoke, unattended
from kiln.context import Context
from kiln.errors import BlockedError, KilnError, UsageError
from kiln.ledger import Entry, Job, Ledger
from kiln.manifest import Manifest
from kiln.resources import BUILD, SMOKE, Resources
from kiln.run import unbroken
from kiln.schedulers import choice
from kiln.schedulers.contract import (
    BLOCKED,
    DONE,
    ENDED,
    LOST,
    QUEUED,
    NoAnswer,
    Request,
    Scheduler,
    Status,
)

# A scheduler that has just taken a job may not know it for a moment.
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Work:
    """What is asked for: a `kind` of work (build, smoke) on `names`, and Kiln's further `options`.

    `names` are images; of smoke also NAME:VERSION.
    """

    kind: str
    names: Sequence[str]
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Sent:
    """A job for one image: `found` says that it was there already; `problem` why there is none."""

    reference: str
    entry: Entry | None
    found: bool = False
    problem: KilnError | None = None


@dataclass(frozen=True)
class Submitter:
    """Submits to one scheduler, for one command."""

    context: Context
    scheduler: Scheduler
    book: Ledger
    kept: Mapping[str, str]

    def submit(self, work: Work) -> list[Sent]:
        """Submit the jobs of a work; one that is there already is found.

        Raises what is wrong before the first.
        """
        context = self.context
        images = graph.of(context.manifests, lambda name: bool(context.store.versions(name)))
        names = work.names if work.kind == SMOKE else images.order(work.names)
        for name in names if work.kind != SMOKE else ():
            refuse_unreachable(context.load(name))
        sent: list[Sent] = []
        with self.book.locked():
            self.book.tidy()
            settle(self.scheduler, self.book.entries())
            for name in names:
                parents = () if work.kind == SMOKE else images.parents(name)
                sent += self._image(work, name, parents, sent)
        return sent

    def _image(self, work: Work, name: str, parents: Iterable[str], sent: Sequence[Sent]) -> list[Sent]:
        """The job of one image and, where its GPU hooks can't run in that one, the one that tests it."""
        try:
            after = [job for parent in parents for job in self._last_of(parent, sent)]
            made = self._one(work, name, after)
            if made.entry and work.kind == BUILD and self._wants_gpu(name, made.entry):
                return [made, self._one(Work(SMOKE, [name], ["--pending"]), name, [made.entry])]
        except NoAnswer as error:
            # One that is silent would keep each of the others waiting, too.
            told = ", ".join(f"{each.reference} (job {each.entry.id})" for each in sent if each.entry)
            error.details += (f"submitted before that: {told or 'nothing'}",)
            raise
        except KilnError as error:
            if not sent:
                raise
            return [Sent(name, None, problem=error)]
        return [made]

    def _last_of(self, parent: str, sent: Sequence[Sent]) -> list[Entry]:
        """The job after which an image is there for its children: of those just sent, else one under way."""
        for each in reversed(sent):
            if each.reference == parent and each.entry is None:
                raise BlockedError(f"its parent {parent} was not submitted", "mend that first")
            if each.entry and each.entry.job.image == parent:
                return [each.entry]
        running = self._live((BUILD, SMOKE), parent)
        return running[-1:]

    def _live(self, kinds: Sequence[str], reference: str) -> list[Entry]:
        """Jobs of these kinds on an image of this store that have not ended."""
        store = str(self.context.store.root)
        return [
            entry
            for entry in self.book.entries()
            if entry.job.kind in kinds
            and entry.job.reference == reference
            and entry.job.store == store
            and entry.status.state != ENDED
        ]

    def _one(self, work: Work, reference: str, after: Sequence[Entry]) -> Sent:
        if running := self._live((work.kind,), reference):
            return Sent(reference, running[-1], found=True)
        job = self._job(work, reference, after)
        waits_for = self._unfinished(after)
        entry = self.book.add(job)
        request = Request(
            name=f"{job.kind}-{job.image}",
            program=entry.script,
            log=entry.scheduler_log,
            resources=Resources(**job.resources),
            after=waits_for,
        )
        try:
            with unbroken():
                entry.submitted_as(self.scheduler.submit(request))
        except KilnError as error:
            entry.settle(Status(ENDED, LOST, reason=error.message))
            raise
        return Sent(reference, entry)

    def _unfinished(self, parents: Sequence[Entry]) -> list[str]:
        """The ids of those that are still to end. Raises `BlockedError` for one that ended badly."""
        settle(self.scheduler, parents)
        for parent in parents:
            status = parent.status
            if status.state == ENDED and status.cause != DONE:
                raise BlockedError(
                    f"{parent.title} (job {parent.id}) is over: {status.cause}",
                    f"see: invoke jobs; log: {parent.log}",
                )
        return [parent.id for parent in parents if parent.status.state != ENDED]

    def _job(self, work: Work, reference: str, after: Sequence[Entry]) -> Job:
        context, image = self.context, reference.partition(":")[0]
        found = _manifest(context, image)
        gpu = bool(found and needs_gpu(context, found))
        jobs = found.jobs if found else resources.Jobs()
        return Job(
            kind=work.kind,
            image=image,
            reference=reference,
            argv=(
                *(work.kind, reference, *work.options),
                *(
                    "--json",
                    "--on",
                    choice.HERE,
                    "--site",
                    context.site.name,
                    "--images",
                    str(context.store.root),
                ),
            ),
            root=str(context.root),
            environment=self.kept,
            umask=current_umask(),
            scheduler=self.scheduler.name,
            store=str(context.store.root),
            submitted=time.time(),
            resources=asdict(resources.resources(work.kind, context.site.jobs, jobs, gpu=gpu)),
            after=tuple(parent.name for parent in after),
        )

    def _wants_gpu(self, name: str, build: Entry) -> bool:
        return not build.job.resources.get("gpus") and needs_gpu(self.context, self.context.load(name))


def submitter(context: Context, on: str) -> Submitter:
    """For the scheduler named `on`."""
    found = choice.scheduler(on, context.site, context.environ)
    kept = unattended.carried(context.site, context.environ, context.ui.warn)
    return Submitter(context, found, ledger.of(context.site.jobs_folder), kept)


def settle(scheduler: Scheduler, entries: Iterable[Entry]) -> dict[str, Status]:
    """Ask how those jobs are that haven't ended, and keep it of those that have; by the folders' names.

    Raises `SchedulerError`.
    """
    asked = [entry for entry in entries if not entry.settled and entry.job.scheduler == scheduler.name]
    ids = {entry.name: entry.id for entry in asked}
    known = scheduler.query([job for job in ids.values() if job]) if any(ids.values()) else {}
    found = {}
    for entry in asked:
        status = verdict(entry, known.get(ids[entry.name]), time.time())
        entry.settle(status)
        found[entry.name] = status
    return found


def verdict(entry: Entry, said: Status | None, now: float) -> Status:
    """How a job is, by its scheduler's word and by its own.

    Its own counts where the scheduler knows it no more. One of which neither says anything is lost; a clock
    that was put back makes that later, not sooner.
    """
    if said and said.cause == BLOCKED and not entry.job.after:
        return replace(said, cause=LOST, reason=said.reason or "its scheduler dropped it before it ran")
    if said:
        return said
    if own := entry.said:
        return own
    if now - entry.job.submitted < GRACE_SECONDS:
        return Status(QUEUED)
    return Status(ENDED, LOST, reason="its scheduler knows it no more, and it left no word of its end")


def needs_gpu(context: Context, manifest: Manifest) -> bool:
    """Whether an image counts as tested only with a GPU."""
    there = smoke.known(context.hooks, manifest.smoke)
    return any(test.required and "gpu" in there[test.hook].needs for test in manifest.smoke)


def refuse_unreachable(manifest: Manifest) -> None:
    """Raise `UsageError` for a secret that a job can't get: no variable of the caller's goes along."""
    for number, layer in enumerate(manifest.layers, 1):
        for name, secret in getattr(layer, "secrets", {}).items():
            if secret.env:
                raise UsageError(
                    f"layer {number} of {manifest.name} has the secret {name} from the variable {secret.env},"
                    " which a job doesn't get: anybody may read a job's environment",
                    f"give it as a file, {name}: {{file: ~/…}}; or build here: --on here",
                )


def _manifest(context: Context, image: str) -> Manifest | None:
    """An image that is built elsewhere has none here."""
    try:
        return context.load(image)
    except UsageError:
        return None


def current_umask() -> int:
    """Reading it means setting it; nothing else runs meanwhile."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
