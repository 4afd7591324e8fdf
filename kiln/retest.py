"""Running the smoke hooks again on a published image: after a driver's update, or on a node with GPUs.

The hooks are those of the manifest as it is now, else those on record. Owns what follows from the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kiln import channels, hardware, history, layerrun, manifest, publish, smoke, testruns, workspace
from kiln.build import TESTED
from kiln.context import Context
from kiln.errors import SmokeFailure, StoreError, UsageError
from kiln.manifest import SmokeTest
from kiln.record import Record, SmokeResult
from kiln.store import CANDIDATE, CURRENT, Entry, Store
from kiln.testruns import Run


@dataclass(frozen=True)
class Retested:
    """A run's results, and the channel that was moved because of them ('' for none)."""

    record: Record
    results: tuple[SmokeResult, ...]
    moved: str

    def to_data(self) -> dict[str, Any]:
        return {
            "name": self.record.name,
            "version": self.record.version,
            "smoke": self.record.smoke_state,
            "results": [{**vars(result), "hardware": _data(result)} for result in self.results],
            "moved": self.moved,
        }


def _data(result: SmokeResult) -> dict[str, Any] | None:
    return vars(result.hardware) if result.hardware else None


def retest(context: Context, reference: str, runtime: str) -> Retested:
    """Run the hooks, and keep what they said. Raises `SmokeFailure` where a required one failed."""
    entry = context.store.find(reference)
    if entry.record is None:
        raise StoreError(f"{entry.path.name} has no sound record: {entry.problem}", "take another version")
    tests = _tests(context, entry.record)
    publish.check_writable(context.store, entry.name)
    with workspace.opened(context.site.work, f"smoke-{entry.name}", context.environ) as private:
        running = context.runtime(private, runtime)
        with context.ui.step(f"unpack {entry.path.name}"):
            running.create(entry.path, TESTED)
        logs = layerrun.log_folder(context.site.logs, private.id)
        results = smoke.run_all(running, TESTED, tests, context.hooks, logs, context.ui)
    here = hardware.find(context.environ)
    results = tuple(replace(result, hardware=here) for result in results)
    done = _keep(context, entry, results)
    failed = [result for result in results if result.required and result.state == "failed"]
    if failed:
        raise SmokeFailure(
            f"smoke hook {failed[0].title} failed in {entry.path.name}: {failed[0].reason}",
            f"channels stay as they are; to take a version back: invoke rollback {entry.name}",
            [f"what the hook said: {logs}/smoke-{failed[0].hook}.log"],
        )
    return done


def pending(store: Store, name: str) -> str:
    """The candidate of an image as NAME:VERSION; '' where there is none that is newer than `current`."""
    found, versions = store.channels(name), store.versions(name)
    candidate = found.get(CANDIDATE, "")
    behind = found.get(CURRENT) in versions and candidate in versions
    if not candidate or (behind and versions.index(candidate) < versions.index(found[CURRENT])):
        return ""
    return f"{name}:{candidate}" if candidate != found.get(CURRENT) else ""


def _tests(context: Context, record: Record) -> tuple[SmokeTest, ...]:
    try:
        found = context.load(record.name).smoke
    except UsageError:
        # The manifest of an image that is built elsewhere.
        found = tuple(
            manifest.SmokeTest(hook=each.hook, args=each.args, required=each.required)
            for each in record.smoke
        )
    if not found:
        raise UsageError(f"{record.name} has no smoke hooks", f"name some in manifests/{record.name}.yaml")
    return found


def _keep(context: Context, entry: Entry, results: tuple[SmokeResult, ...]) -> Retested:
    store, notify = context.store, context.ui.warn
    who, time = history.stamp()
    with publish.image_lock(store, entry.name, notify):
        testruns.add(store.tests(entry.name, entry.version), Run(time, who, results))
    found = store.entry(entry.name, entry.version).record
    if found is None:
        raise StoreError(f"{entry.path.name} has no sound record", f"see: invoke show {entry.name}")
    moved = ""
    leads = store.channels(entry.name)
    if leads.get(CANDIDATE) == entry.version and found.smoke_state == "passed":
        channels.promote(store, f"{entry.name}:{entry.version}", CURRENT, "", notify)
        moved = CURRENT
    else:
        publish.refresh_catalog(store, notify)
    return Retested(found, results, moved)
