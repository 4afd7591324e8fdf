"""The flow: from a manifest to a tested, published image. Reads top to bottom.

Owns the order of the steps and nothing else. Everything before the rename in `publish` happens in a
private workspace that is removed when the block ends, unless it is kept for a person to look into.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kiln import __version__, bases, files, finish, layerrun, preflight, publish, smoke, squashfs, workspace
from kiln import plan as planning
from kiln.context import Context
from kiln.errors import SmokeFailure
from kiln.plan import Plan
from kiln.record import LayerRecord, Record, SmokeResult
from kiln.runtime import choice
from kiln.runtime.contract import Output, Runtime
from kiln.ui import Step, size_text
from kiln.workspace import Workspace

CONTAINER, TESTED = "build", "smoke"


@dataclass(frozen=True)
class Options:
    """What a person asked for beside the image's name."""

    runtime: str = ""
    keep: bool = False


@dataclass(frozen=True)
class Outcome:
    """A published image: its record, the channel that leads to it now, and where things are."""

    record: Record
    channel: str
    path: Path
    logs: Path

    def to_data(self) -> dict[str, Any]:
        return {
            "name": self.record.name,
            "version": self.record.version,
            "channel": self.channel,
            "path": str(self.path),
            "logs": str(self.logs),
            "record": asdict(self.record),
        }


@dataclass(frozen=True)
class Build:
    """One build under way, and the seconds that each step took."""

    context: Context
    plan: Plan
    workspace: Workspace
    runtime: Runtime
    logs: Path
    keep: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, title: str, key: str) -> Iterator[Step]:
        with self.context.ui.step(title) as step:
            yield step
        self.seconds[key] = round(self.seconds.get(key, 0.0) + step.seconds, 2)


def plan(context: Context, name: str, options: Options) -> Plan:
    """What `build` would do; asks the base's registry or mirror, and writes nothing."""
    manifest = context.load(name)
    runtime = choice.resolve(options.runtime or context.site.runtime, context.environ)
    found = context.finder().find(manifest.base)
    store, site = context.store, context.site
    return planning.make(
        manifest, found, store.versions(name), store.folder(name), site.work, site.blobs, runtime
    )


def build(context: Context, name: str, options: Options) -> Outcome:
    """Build, test and publish one image. Raises the `KilnError` of the step that failed."""
    started = time.monotonic()
    workspace.reap(context.site.work)
    made = plan(context, name, options)
    preflight.check(context, made)
    with workspace.opened(context.site.work, name, context.environ) as private:
        logs = layerrun.log_folder(context.site.logs, private.id)
        work = Build(context, made, private, context.runtime(private, options.runtime), logs, options.keep)
        make_base(work)
        layers = run_layers(work)
        finish_image(work)
        exported = export(work)
        results = run_smoke(work, exported)
        record = describe(work, layers, exported, results, time.monotonic() - started)
        published, channel = publish_image(work, exported, record)
    return Outcome(published, channel, context.store.image(name, published.version), logs)


def make_base(work: Build) -> None:
    base = work.plan.base
    with work.step(f"base {base.base.text}", "base") as step, files.Log(work.logs / "00-base.log") as log:
        output = Output(log, step.line, work.context.redact)
        blobs = work.context.site.blobs
        env = {**work.context.host_env(), workspace.MARK: work.workspace.id}
        bases.Maker(work.runtime, blobs, env, output, step.progress).make(base, CONTAINER)
        layerrun.save_identity(work.runtime.rootfs(CONTAINER), work.workspace.state)


def run_layers(work: Build) -> tuple[LayerRecord, ...]:
    runner = layerrun.Runner(
        work.context, work.plan, work.workspace, work.runtime, CONTAINER, work.logs, work.keep
    )
    done = []
    for item in work.plan.layers:
        title = f"layer {item.number}/{len(work.plan.layers)} {item.title}"
        with work.step(title, f"layer {item.number}") as step:
            runner.run(item, step)
        done.append(LayerRecord(item.layer.kind, item.title, round(step.seconds, 2)))
    return tuple(done)


def finish_image(work: Build) -> None:
    with work.step("finish", "finish"):
        finish.finish(work.plan, work.runtime.rootfs(CONTAINER), work.workspace.state)


def export(work: Build) -> Path:
    target = work.workspace.export / work.plan.target.name
    with work.step("export", "export") as step:
        work.runtime.export(CONTAINER, target, work.plan.base.epoch)
        squashfs.check(target)
        step.outcome = size_text(target.stat().st_size)
    # Its space is wanted for the container that is tested.
    work.runtime.remove(CONTAINER)
    return target


def run_smoke(work: Build, exported: Path) -> tuple[SmokeResult, ...]:
    tests, context = work.plan.manifest.smoke, work.context
    if not tests:
        context.ui.warn(f"{work.plan.manifest.name} has no smoke hooks: nothing says that it works")
        return ()
    with work.step("unpack for smoke", "smoke"):
        work.runtime.create(exported, TESTED)
    results = smoke.run_all(work.runtime, TESTED, tests, context.hooks, work.logs, context.ui)
    work.seconds["smoke"] += round(sum(result.seconds for result in results), 2)
    failed = [result for result in results if result.required and result.state == "failed"]
    if failed:
        layerrun.keep(context.site.work, work.workspace, work.plan.manifest.name, len(work.plan.layers))
        raise SmokeFailure(
            f"smoke hook {failed[0].title} failed in {exported.name}: {failed[0].reason}",
            f"nothing was published. To look inside: invoke shell {work.plan.manifest.name} --user",
            [f"the tested file: {exported}", f"what the hook said: {work.logs}/smoke-{failed[0].hook}.log"],
        )
    return results


def describe(
    work: Build,
    layers: tuple[LayerRecord, ...],
    exported: Path,
    results: tuple[SmokeResult, ...],
    seconds: float,
) -> Record:
    """The record, but for what `publish` decides: the version and the file's name."""
    manifest, base = work.plan.manifest, work.plan.base
    size = exported.stat().st_size
    with work.step("sha256", "sha256") as step:
        digest = files.sha256_file(exported, lambda done: step.progress(done, size))
    return Record(
        name=manifest.name,
        version="",
        file="",
        digest=f"sha256:{digest}",
        size=size,
        base=base.base.text,
        base_digest=base.digest,
        platform_digest=base.platform_digest,
        built=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        description=manifest.description,
        maintainer=manifest.maintainer,
        seconds=round(seconds, 1),
        runtime=f"{work.runtime.name} {work.runtime.version()}",
        kiln=__version__,
        architecture=work.context.architecture,
        env=dict(manifest.env),
        layers=layers,
        steps=dict(work.seconds),
        smoke=results,
    )


def publish_image(work: Build, exported: Path, record: Record) -> tuple[Record, str]:
    with work.context.ui.step("publish") as step:
        published, channel = publish.publish(
            work.context.store, exported, record, work.plan.base.label, step.note
        )
        step.outcome = f"{published.file}, channel {channel}"
    return published, channel
