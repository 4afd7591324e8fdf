"""Running the layers of a manifest in a container, with a log for each.

Owns what a layer sees of the build (variables, mounts), the story told when it fails, and where logs
go. What a layer is, as a command, is `kiln.layercommand`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kiln import (
    debootstrap,
    files,
    imageedit,
    imageformat,
    inventory,
    layercommand,
    layersecrets,
    lockedcommand,
    lockedfiles,
    masking,
    origin,
    packagecache,
    search,
    workspace,
)
from kiln import guard as guards
from kiln.constraints import Handed
from kiln.context import Context
from kiln.errors import AuditError, KilnError, LayerError, RuntimeFailure, SpaceError
from kiln.guard import Guard
from kiln.inventory import Inventory
from kiln.layercommand import INSIDE, LAYER, STATE, TEMPORARY, LayerCommand
from kiln.layersecrets import Lent
from kiln.manifest import Mount, RunLayer
from kiln.plan import Plan, PlannedLayer
from kiln.record import PackageChange
from kiln.run import Result, TimeLimit, host_environment
from kiln.runtime.contract import Command, Output, Runtime
from kiln.runtime.environment import DEFAULT_PATH
from kiln.runtime.namespace import HOST, Space
from kiln.search import Changed
from kiln.ui import Step
from kiln.watch import Watch
from kiln.workspace import Workspace

CA_INSIDE = f"{INSIDE}/ca.crt"
# As in scripts/layer.sh, which has the reason.
IDENTITY = (
    *(f"etc/{name}{backup}" for name in ("passwd", "group", "shadow", "gshadow") for backup in ("", "-")),
    "etc/localtime",
)
KEPT_LOGS = 40
TAIL_LINES = 15


@dataclass(frozen=True)
class Runner:
    """Runs the layers of one build, one after the other, in `container`.

    `bottom` is the base's tree, and `stocks` what there was of packages after each layer that ran, by number.
    """

    context: Context
    plan: Plan
    workspace: Workspace
    runtime: Runtime
    container: str
    logs: Path
    keep: bool
    bottom: Path
    space: Space = HOST
    stocks: dict[int, Inventory] = field(default_factory=dict)

    @cached_property
    def guard(self) -> Guard:
        """Made before the first layer runs: `bottom` may be the tree that it changes."""
        return guards.of_base(self.bottom, self.plan.manifest.guard)

    def run(self, item: PlannedLayer, step: Step) -> tuple[PackageChange, ...]:
        """Run a layer; returns what it changed of the packages.

        Raises `LayerError`, `GuardError`, `RuntimeFailure` or `SpaceError` when it can't be made.
        """
        made = self._made(item)
        log_path = self.log(item)
        for mark in ("started", "finished"):
            (self.workspace.state / mark).unlink(missing_ok=True)
        watched = self._watch(item)
        handed = watched.hand(self._variables(made), self.workspace.scripts)
        with (
            files.Log(log_path) as log,
            self._sources(),
            layersecrets.lent(item.layer, self.context.environ, self.workspace) as lent,
        ):
            redact = self.context.redact.and_of(lent.values.values())
            try:
                result = self.runtime.start(
                    self.container,
                    self._command(item, made, handed, lent),
                    Output(log, step.line, redact),
                )
            except TimeLimit as error:
                result = error.result
        try:
            if result.returncode != 0 or result.timed_out:
                raise watched.refusal(handed, result, log_path) or self._failure(item, made, result, log_path)
            self._refuse_secrets(item, lent.values)
            self.stocks[item.number] = inventory.take(watched.tree)
            changes = watched.changes(self.stocks[item.number], log_path)
        except KilnError:
            if self.keep:
                keep(self.context.site.work, self.workspace, self.plan.manifest.name, item.number)
            raise
        for each in changes:
            if each.allowed:
                step.note(
                    f"{each.name} {each.before or 'none'} -> {each.after or 'none'}, which guard allows"
                )
        return changes

    def _watch(self, item: PlannedLayer) -> Watch:
        tree = self.runtime.rootfs(self.container)
        before = self.guard.base if item.number == 1 else self.stocks.get(item.number - 1)
        return Watch(self.guard, self.plan.manifest, item, tree, before or inventory.take(tree))

    def _refuse_secrets(self, item: PlannedLayer, values: Mapping[str, str]) -> None:
        """Raise `AuditError` where the layer left one of its secrets: before anything else has its files."""
        upper = self.workspace.upper
        changed = (
            Changed((upper,), None, self.space)
            if upper.is_dir()
            else Changed((self.runtime.rootfs(self.container),), self.workspace.state / "started", self.space)
        )
        names = {form: name for name, value in values.items() for form in masking.traces(value)}
        found = changed.holding(names.keys(), host_environment(self.context.environ), settings=False)
        if not found:
            return
        place = origin.layer(
            self.context.manifests / f"{self.plan.manifest.name}.yaml", item.number, item.title
        )
        inside = [(f"/{path.relative_to(changed.folders[0])}", search.which(path, names)) for path in found]
        raise AuditError(
            f"{place}, leaves a secret in the image; nothing of this layer was kept",
            "don't write it to a file that stays: while the layer runs, it is in /run/kiln/secrets",
            [
                f"error    {path}: holds {f'the secret {name}' if name else 'a secret'}"
                for path, name in inside
            ],
        )

    def _made(self, item: PlannedLayer) -> LayerCommand:
        if item.locked is None or self.plan.lock is None:
            return layercommand.command(item.layer, self.context.manifests, self.context.uv)
        place = self.workspace.path / "locked" / str(item.number)
        files.remove_tree(place)
        found = lockedfiles.opened(self.plan.lock, self.context.site, self.context.transport)
        lockedcommand.lay_out(found, item.layer.kind, item.locked, place)
        return lockedcommand.command(item.layer, place, self.context.uv)

    def _sources(self) -> contextlib.AbstractContextManager[None]:
        suite = self.plan.base.suite
        tree = self.runtime.rootfs(self.container)
        return debootstrap.site_sources(suite, tree) if suite else contextlib.nullcontext()

    def log(self, item: PlannedLayer) -> Path:
        return self.logs / f"{item.number:02}-{item.layer.kind}.log"

    def _variables(self, made: LayerCommand) -> dict[str, str]:
        """All that the layer sees, but for what holds it to the base's packages."""
        tree = self.runtime.rootfs(self.container)
        return variables(self.context, self.plan, self.workspace, tree, made)

    def _command(self, item: PlannedLayer, made: LayerCommand, handed: Handed, lent: Lent) -> Command:
        return Command(
            argv=("/bin/sh", f"{INSIDE}/scripts/layer.sh", *made.argv),
            what=f"run layer {item.number}",
            env={
                **build_environment(
                    self.context, self.plan, self.workspace, self.runtime.rootfs(self.container)
                ),
                **made.env,
                **handed.env,
                **lent.env,
            },
            mounts=(
                *build_mounts(self.context, self.plan, self.workspace),
                *made.mounts,
                *handed.mounts,
                *lent.mounts,
                *self._package_cache(item),
                *self._script(item),
            ),
            timeout=float(item.layer.timeout),
        )

    def _package_cache(self, item: PlannedLayer) -> tuple[Mount, ...]:
        """The cache of the layer's kind, where it has one."""
        if item.layer.kind not in packagecache.KINDS or item.locked is not None:
            return ()
        found = self._package_caches.get(item.layer.kind)
        return (found,) if found else ()

    @cached_property
    def _package_caches(self) -> Mapping[str, Mount]:
        """By kind; asked once a build, so that a cache that can't be used is told once."""
        packages = self.context.site.packages
        try:
            return {kind: packagecache.mount(packages, kind) for kind in packagecache.KINDS}
        except OSError as error:
            place = error.filename or packages
            self.context.ui.warn(f"packages are downloaded without a cache: {place}: {error.strerror}")
            return {}

    def _script(self, item: PlannedLayer) -> tuple[Mount, ...]:
        """The text of a run layer, as a file: it never passes through a shell's command line."""
        if not isinstance(item.layer, RunLayer) or item.layer.script is None:
            return ()
        path = self.workspace.scripts / str(item.number)
        path.write_text(item.layer.script)
        return (Mount(source=path, target=f"{LAYER}/script"),)

    def _failure(self, item: PlannedLayer, made: LayerCommand, result: Result, log: Path) -> KilnError:
        name = self.plan.manifest.name
        details = [
            f"command: {shlex.join(made.argv)}",
            *(f"| {line}" for line in result.tail(TAIL_LINES)),
            f"the whole log: {log}",
        ]
        title = f"layer {item.number} ({item.title}) of {name}"
        way_back = (
            f"invoke shell {name}" if self.keep else f"invoke build {name} --keep, then: invoke shell {name}"
        )
        if result.disk_full:
            return SpaceError(
                f"{title} filled the disk",
                f"free space at {self.workspace.path.parent} or {self.context.site.cache}",
                details,
            )
        if not (self.workspace.state / "started").exists():
            return RuntimeFailure(
                f"{self.runtime.name} could not start {title}: {result.outcome()}",
                "run: invoke doctor",
                details,
            )
        return LayerError(f"{title} failed: {result.outcome()}", f"to look inside: {way_back}", details)


def build_environment(context: Context, plan: Plan, private: Workspace, rootfs: Path) -> dict[str, str]:
    """What a layer sees beside the image's own variables: the manifest's, then the build's."""
    site = context.site
    text = (files.read_inside(rootfs, "/etc/environment") or b"").decode("utf-8", "surrogateescape")
    return {
        **imageedit.expand(plan.manifest.env, imageformat.parse_environment(text)),
        **site.proxy_environment(),
        **site.index_environment(),
        **(site.ca_environment(CA_INSIDE) if site.ca_bundle else {}),
        "TMPDIR": TEMPORARY,
        # Python then writes .pyc files that don't depend on a time, which export may change.
        "SOURCE_DATE_EPOCH": str(plan.base.epoch),
        workspace.MARK: private.id,
    }


def variables(
    context: Context, plan: Plan, private: Workspace, tree: Path, made: LayerCommand
) -> dict[str, str]:
    """All that a layer's command sees, but for what holds it to the base's packages."""
    text = (files.read_inside(tree, "/etc/environment") or b"").decode("utf-8", "surrogateescape")
    own = build_environment(context, plan, private, tree)
    return {"PATH": DEFAULT_PATH, **imageformat.parse_environment(text), **own, **made.env}


def build_mounts(context: Context, plan: Plan, private: Workspace) -> tuple[Mount, ...]:
    """What every layer has mounted: Kiln's own folders, then the site's and the manifest's."""
    temporary = private.scratch / "kiln"
    temporary.mkdir(exist_ok=True)
    mounts = [
        layercommand.scripts_mount(),
        Mount(source=private.state, target=STATE, read_only=False),
        Mount(source=temporary, target=TEMPORARY, read_only=False),
    ]
    if context.site.ca_bundle:
        mounts.append(Mount(source=context.site.ca_bundle, target=CA_INSIDE))
    return (*mounts, *context.site.mounts, *plan.manifest.mounts)


def save_identity(rootfs: Path, state: Path) -> None:
    """Set aside the files that a runtime rewrites at each start: layer.sh puts them back."""
    files.remove_tree(state / "identity")
    for name in IDENTITY:
        source = files.inside(rootfs, name)
        target = state / "identity" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif (data := files.read_inside(rootfs, name, limit=64 << 20)) is not None:
            target.write_bytes(data)
            target.chmod(stat.S_IMODE(source.stat().st_mode))


def log_folder(logs: Path, build: str) -> Path:
    """A new folder for the logs of one build; the oldest of many are removed."""
    with files.translated(logs):
        folder = logs / build
        folder.mkdir(parents=True)
        old = sorted(
            (path for path in logs.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
        )
    for path in old[:-KEPT_LOGS]:
        files.remove_tree(path)
    return folder


def keep(work: Path, private: Workspace, image: str, layer: int) -> None:
    """Keep this workspace for a person, in place of an older one kept for the same image."""
    for other in workspace.kept(work):
        if (other.kept_for() or ("", 0))[0] == image:
            workspace.remove(other)
    private.keep(image, layer)
