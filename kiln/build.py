"""The flow: from a manifest to a tested, published image. Reads top to bottom.

Owns the order of the steps and nothing else. Everything before the rename in `publish` happens in a
private workspace that is removed when the block ends, unless it is kept for a person to look into.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kiln import (
    assembly,
    audit,
    bases,
    drivergate,
    files,
    finish,
    invocation,
    layerrun,
    layersecrets,
    leaks,
    lockuse,
    page,
    pieces,
    preflight,
    provenance,
    publish,
    same,
    scrub,
    sitetraces,
    smoke,
    squashfs,
    workspace,
)
from kiln import plan as planning
from kiln.assembly import CONTAINER, Assembly
from kiln.bases import Found
from kiln.companions import Sign
from kiln.context import Context
from kiln.errors import AuditError, SmokeFailure
from kiln.invocation import Invocation
from kiln.locked import Lock
from kiln.manifest import Manifest
from kiln.order import Options, Outcome
from kiln.origin import Origins
from kiln.pieces import Measured
from kiln.plan import Plan, PlannedLayer, Setting
from kiln.provenance import Contents
from kiln.record import Finding, LayerRecord, PackageChange, Record, SmokeResult, package_changes
from kiln.runtime import choice, gpu
from kiln.runtime.contract import Output, Runtime
from kiln.ui import Step, size_text
from kiln.workspace import Workspace

TESTED = "smoke"


@dataclass(frozen=True)
class Build:
    """One build under way, and the seconds that each step took."""

    context: Context
    plan: Plan
    invocation: Invocation
    workspace: Workspace
    assembly: Assembly
    logs: Path
    keep: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, title: str, key: str) -> Iterator[Step]:
        with self.context.ui.step(title) as step:
            yield step
        self.seconds[key] = round(self.seconds.get(key, 0.0) + step.seconds, 2)


def plan(context: Context, name: str, options: Options) -> Plan:
    """What `build` would do; asks the base's registry or mirror, and changes nothing."""
    manifest = context.load(name)
    lock = lockuse.in_force(context, manifest, demanded=options.locked)
    found = lockuse.find_base(context, manifest, lock) if lock else context.finder().find(manifest.base)
    return planned(context, manifest, found, options, lock)


def planned(
    context: Context, manifest: Manifest, found: Found, options: Options, lock: Lock | None = None
) -> Plan:
    """The plan on a base that was found."""
    anew = options.anew(manifest)
    runtime = choice.resolve(options.runtime or context.site.runtime, context.environ)
    name, store, site = manifest.name, context.store, context.site
    uncached = context.layer_store_refusal or planning.too_many(manifest)
    setting = Setting(
        manifests=context.manifests,
        hooks=context.hooks,
        folder=store.folder(name),
        work=site.work,
        blobs=site.blobs,
        runtime=runtime,
        architecture=context.architecture,
        packing=choice.packing(site),
        unpacker=bases.unpacker(found, runtime, site.unpack),
        versions=store.versions(name),
        published=store.led_to(name),
        store=None if uncached else context.layer_store,
        uncached=uncached,
        stale_after=site.layers.stale_after,
        gpu=gpu.find(context.environ) != gpu.NOTHING,
        anew=anew,
        lock=lock,
    )
    return replace(planning.make(manifest, found, setting), driver=drivergate.of_base(found, site))


def build(context: Context, name: str, options: Options) -> Outcome:
    """Build, test and publish one image. Raises the `KilnError` of the step that failed."""
    started = time.monotonic()
    workspace.reap(context.site.work)
    made = plan(context, name, options)
    if made.published and made.published.record:
        return up_to_date(context, made.published.record)
    if not options.trial:
        drivergate.refuse(made, context.site)
    preflight.check(context, made)
    sign = None if options.trial else preflight.signing(context)
    came = invocation.take(context, name)
    with contextlib.ExitStack() as ending:
        private = ending.enter_context(workspace.opened(context.site.work, name, context.environ))
        tree = ending.enter_context(assembly.opened(context, made, private, options.runtime))
        logs = layerrun.log_folder(context.site.logs, private.id)
        work = Build(context, made, came, private, tree, logs, options.keep)
        fetch(work)
        make_base(work)
        layers = run_layers(work)
        contents, traces = finish_image(work)
        exported = export(work)
        findings = audit_image(work, exported, traces)
        tester = context.runtime(private, options.runtime)
        results = () if options.trial else run_smoke(work, exported, tester)
        measured = measure(work, exported)
        record = describe(work, layers, contents, measured, results, findings, time.monotonic() - started)
        if options.renew and (there := same.find(context, tester, exported, record)):
            return unchanged(context, there, logs)
        published, channel = publish_image(work, exported, record, sign)
    return Outcome(published, channel, context.store.image(name, published.version), logs)


def up_to_date(context: Context, record: Record) -> Outcome:
    """What was published already is what a build would make."""
    channels = context.store.channels(record.name)
    channel = next(name for name, version in channels.items() if version == record.version)
    publish.mend_catalog(context.store, record, context.ui.warn)
    return Outcome(record, channel, context.store.image(record.name, record.version), None)


def unchanged(context: Context, record: Record, logs: Path) -> Outcome:
    """What came out is published already."""
    return replace(up_to_date(context, record), logs=logs, unchanged=True)


def fetch(work: Build) -> None:
    """Have the locked packages here before the first of them is needed."""
    lock, wanted = work.plan.lock, lockuse.wanted(work.plan)
    if lock and wanted:
        with work.step("fetch", "fetch") as step:
            lockuse.fetch(work.context, lock, wanted, step)


def make_base(work: Build) -> None:
    base = work.plan.base
    with work.step(f"base {base.base.text}", "base") as step, files.Log(work.logs / "00-base.log") as log:
        output = Output(log, step.line, work.context.redact)
        site, client = work.context.site, work.context.client
        env = {**work.context.host_env(), workspace.MARK: work.workspace.id}
        plain = work.context.runtime(work.workspace, work.plan.runtime)
        maker = bases.Maker(plain, client, site.blobs, site.unpack, env, output, step.progress)

        def make(container: str) -> None:
            maker.make(lockuse.with_archives(work.context, work.plan.lock, base, work.workspace), container)

        work.assembly.base(work.plan.base_wanted, make, step)


def run_layers(work: Build) -> tuple[LayerRecord, ...]:
    if not work.plan.uncached:
        work.context.layer_store.remember(work.plan.manifest.name, work.plan.inputs)
    runner = layerrun.Runner(
        work.context,
        work.plan,
        work.workspace,
        work.assembly.runtime,
        CONTAINER,
        work.logs,
        work.keep,
        work.assembly.bottom,
        work.assembly.space,
    )
    return tuple(run_layer(work, runner, item) for item in work.plan.layers)


def run_layer(work: Build, runner: layerrun.Runner, item: PlannedLayer) -> LayerRecord:
    title = f"layer {item.number}/{len(work.plan.layers)} {item.title}"
    changes: list[PackageChange] = []
    with work.step(title, f"layer {item.number}") as step:

        def run() -> list[dict[str, Any]]:
            if not work.plan.uncached:
                step.note(item.reason if item.lookup.entry is None else "it is made anew")
            changes.extend(runner.run(item, step))
            return [asdict(change) for change in changes]

        before = work.assembly.layer(item, run, runner.log(item), step)
    made = before.made if before else time.time()
    seconds = before.seconds if before else round(step.seconds, 2)
    found = package_changes(before.changes) if before else tuple(changes)
    key = item.wanted.key.digest
    return LayerRecord(item.layer.kind, item.title, seconds, key, made, before is not None, found)


def finish_image(work: Build) -> tuple[Contents, list[Finding]]:
    """Make the tree what the image is to hold; returns that, and what in it tells of the build's place."""
    context, plan = work.context, work.plan
    with work.step("finish", "finish"):
        work.assembly.complete()
        rootfs = work.assembly.runtime.rootfs(CONTAINER)
        finish.finish(plan, rootfs, work.workspace.state)
        with files.Log(work.logs / "90-finish.log") as log:
            for line in scrub.scrub(rootfs, plan.base.epoch, work.assembly.baseline):
                log.write(f"{line}\n")
        own = (context.root, context.site.cache, context.site.work)
        builder = audit.builder(context.environ)
        wanted = sitetraces.traces(context.site, plan.manifest.mounts, own, builder)
        found = sitetraces.find(work.assembly.changed, wanted, context.host_env())
        # After that: the manifest, which is put there, may name its mounts.
        return write_provenance(work, rootfs), found


def write_provenance(work: Build, rootfs: Path) -> Contents:
    contents = provenance.look(rootfs)
    problems = contents.inventory.problems
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        work.context.ui.warn(f"{problems[0]}{more}: it is not among the packages on record")
    came, tools = work.invocation, work.invocation.tools(title(work.assembly.runtime))
    provenance.write(rootfs, work.plan, contents.inventory, tools, came.commit, came.lock)
    return contents


def title(runtime: Runtime) -> str:
    """A runtime's name and version: `enroot 4.1.2`."""
    return f"{runtime.name} {runtime.version()}"


def export(work: Build) -> Path:
    target = work.workspace.export / work.plan.target.name
    with work.step("export", "export") as step:
        work.assembly.runtime.export(CONTAINER, target, work.plan.base.epoch)
        squashfs.check(target)
        step.outcome = size_text(target.stat().st_size)
    # Its space is wanted for the container that is tested.
    work.assembly.release()
    return target


def audit_image(work: Build, exported: Path, traces: list[Finding]) -> tuple[Finding, ...]:
    """What the exported file holds that a person should know of; raises `AuditError` for what it must not."""
    context, manifest, tree = work.context, work.plan.manifest, work.assembly
    with work.step("audit", "audit") as step:
        against = audit.Audit(
            base=tree.baseline,
            names=audit.left_names(work.workspace.state / "identity"),
            builder=audit.builder(context.environ),
            origins=Origins(
                context.manifests / f"{manifest.name}.yaml",
                [item.title for item in work.plan.layers],
                tree.trees,
            ),
            allow_setuid=frozenset(manifest.allow_setuid),
        )
        findings = against.findings(exported, work.workspace.path, context.host_env(), traces)
        if work.keep and audit.errors(findings):
            layerrun.keep(context.site.work, work.workspace, manifest.name, len(work.plan.layers))
        audit.check(manifest.name, findings)
        refuse_secrets(work, exported)
        step.outcome = f"{len(findings)} to look at" if findings else "nothing found"
    for each in findings:
        context.ui.warn(f"{each.path}: {each.cause}" + (f" (left by {each.place})" if each.place else ""))
    return findings


def refuse_secrets(work: Build, exported: Path) -> None:
    """Raise `AuditError` where the finished file holds a secret of its layers, reused ones among them."""
    context, manifest = work.context, work.plan.manifest
    values = layersecrets.at_hand(manifest.layers, context.environ)
    lines = leaks.in_image(exported, values, work.workspace.path, context.host_env())
    if lines:
        raise AuditError(
            f"the finished image of {manifest.name} holds a secret of its layers; nothing was published",
            "don't write it to a file that stays, in no form: docs/clean.md, 'Secrets'",
            lines,
        )


def run_smoke(work: Build, exported: Path, runtime: Runtime) -> tuple[SmokeResult, ...]:
    """Test the exported file as a user would start it, beside the namespace in which it was made."""
    tests, context = work.plan.manifest.smoke, work.context
    if not tests:
        context.ui.warn(f"{work.plan.manifest.name} has no smoke hooks: nothing says that it works")
        return ()
    with work.step("unpack for smoke", "smoke"):
        runtime.create(exported, TESTED)
    results = smoke.run_all(runtime, TESTED, tests, context.hooks, work.logs, context.ui)
    work.seconds["smoke"] += round(sum(result.seconds for result in results), 2)
    results = tuple(replace(result, hardware=work.invocation.hardware) for result in results)
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
    contents: Contents,
    measured: Measured,
    results: tuple[SmokeResult, ...],
    findings: tuple[Finding, ...],
    seconds: float,
) -> Record:
    """The record, but for what `publish` decides: the version and the file's name."""
    manifest, base, came = work.plan.manifest, work.plan.base, work.invocation
    tools = came.tools(title(work.assembly.runtime))
    return Record(
        name=manifest.name,
        version="",
        file="",
        digest=measured.digest,
        size=measured.size,
        base=base.base.text,
        base_digest=base.digest,
        platform_digest=base.platform_digest,
        built=invocation.now(),
        description=manifest.description,
        maintainer=manifest.maintainer,
        seconds=round(seconds, 1),
        runtime=tools.runtime,
        kiln=tools.kiln,
        architecture=work.context.architecture,
        key=work.plan.key.digest,
        env=dict(manifest.env),
        layers=layers,
        steps=dict(work.seconds),
        smoke=results,
        manifest=invocation.digest(manifest.text),
        lock=invocation.digest(came.lock),
        epoch=base.epoch,
        squashfs_tools=tools.squashfs_tools,
        environment=dict(contents.environment),
        system=contents.system,
        started=came.started,
        build=work.workspace.id,
        host=came.host,
        job=came.job,
        commit=came.commit,
        clean=came.clean,
        inputs=came.inputs,
        packages=tuple(replace(package, requires=()) for package in contents.inventory.packages),
        findings=findings,
        pieces=measured.pieces,
    )


def measure(work: Build, exported: Path) -> Measured:
    size = exported.stat().st_size
    with work.step("sha256", "sha256") as step:
        return pieces.measure(exported, lambda done: step.progress(done, size))


def publish_image(work: Build, exported: Path, record: Record, sign: Sign | None) -> tuple[Record, str]:
    with work.context.ui.step("put aside" if work.context.target else "publish") as step:
        published, channel = publish.publish(
            work.context.store, exported, record, work.plan.base.label, step.note, sign
        )
        if work.context.target is None:
            with publish.told_as_done(f"{published.file} was published"):
                page.write(work.context.store, work.context.site, published.name, step.note)
        step.outcome = f"{published.file}, channel {channel}"
    return published, channel
