"""Making a lock: every input of an image, resolved without building it.

Owns what of an earlier lock is kept, and the order of the questions. The base is made or taken from the layer
store as for a build; apt and copy layers are made in a throwaway tree where later layers need them to be
resolved. Run layers are not run: what they do to a later layer's resolution can't be known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.utils import canonicalize_name

from kiln import (
    assembly,
    bases,
    files,
    layercommand,
    layerrun,
    locked,
    lockedcommand,
    lockedfiles,
    lockfile,
    lockuse,
    preflight,
    workspace,
)
from kiln import build as building
from kiln import guard as guards
from kiln.bases import Found
from kiln.context import Context
from kiln.errors import LockError, UsageError
from kiln.locked import KINDS, Lock, Locked, LockedBase, LockedLayer
from kiln.lockrun import Tree
from kiln.manifest import AptLayer, CopyLayer, Layer, Manifest, PipLayer, UvLayer
from kiln.order import Options
from kiln.plan import Plan
from kiln.resolve import SYSTEM, Question, Resolver
from kiln.runtime.contract import Output
from kiln.ui import Step

BASE = "base"
# A shorter one may be part of any checksum.
SHORTEST_SECRET = 4
WORDS = (BASE, "apt", "pip")
PYTHON = ("pip", "uv")


@dataclass(frozen=True)
class Update:
    """What of a lock is to be looked for anew: `base`, `apt`, `pip` (uv too), or names of packages."""

    what: tuple[str, ...] = ()

    def of_base(self) -> bool:
        return BASE in self.what

    def of_layer(self, layer: LockedLayer) -> bool:
        kinds = {"apt": ("apt",), "pip": PYTHON}
        named = any(layer.kind in kinds.get(each, ()) for each in self.what)
        return named or any(package.name in self.what for package in layer.locked)

    def keeps(self, layer: LockedLayer) -> tuple[Locked, ...]:
        """The packages that a layer which is resolved again holds on to, if it can."""
        if layer.kind not in PYTHON or "pip" in self.what:
            return ()
        return tuple(each for each in layer.locked if each.name not in self.what)


@dataclass
class Work:
    """A lock in the making: the layers so far. `kept` are those of the lock `before` that hold, by number."""

    context: Context
    manifest: Manifest
    before: Lock | None
    update: Update
    base: LockedBase
    kept: dict[int, LockedLayer]
    layers: list[LockedLayer] = field(default_factory=list)

    @property
    def lock(self) -> Lock:
        return Lock(
            lockfile.path_of(self.context.manifests, self.manifest.name),
            self.manifest.name,
            self.context.architecture,
            locked.environment(self.manifest),
            locked.guarded(self.manifest),
            self.base,
            tuple(self.layers),
        )

    @property
    def last(self) -> int:
        """The number of the last layer that has to be asked for, 0 for none."""
        wanted = [number for number, layer in self.numbered() if layer.kind in KINDS]
        return max((number for number in wanted if number not in self.kept), default=0)

    def numbered(self) -> Iterator[tuple[int, Layer]]:
        yield from enumerate(self.manifest.layers, 1)

    def resolved(self, number: int, layer: Layer, packages: Sequence[Locked]) -> None:
        said = locked.layer_inputs(layer, self.manifest.folder)
        self.layers.append(LockedLayer(number, layer.kind, said, tuple(packages)))

    def question(self, number: int, layer: Layer) -> Question:
        mine = _environment(layer)
        pairs = zip(self.manifest.layers, self.layers, strict=False)
        same = [done for each, done in pairs if mine is not None and _environment(each) == mine]
        old = self._old(number, layer)
        return Question(
            f"layer {number} ({layer.title})",
            layer,
            tuple(package for done in same for package in done.locked),
            self.update.keeps(old) if old else (),
        )

    def _old(self, number: int, layer: Layer) -> LockedLayer | None:
        """What the earlier lock has in the place of a layer, counted among those of its kind."""
        earlier = sum(each.kind == layer.kind for each in self.manifest.layers[: number - 1])
        old = [each for each in (self.before.layers if self.before else ()) if each.kind == layer.kind]
        return old[earlier] if earlier < len(old) else None


def lock(context: Context, name: str, what: Sequence[str], runtime: str) -> tuple[Lock, list[str]]:
    """Resolve an image's inputs and write its lock; returns it, and what changed, in words.

    Raises `LockError` for what can't be resolved, and whatever a base's making raises.
    """
    manifest, before = context.load(name), _before(context, name)
    update = Update(tuple(_named(each, before) for each in what if each.strip()))
    _refuse_unknown(update, before, name)
    workspace.reap(context.site.work)
    keeps_base = before is not None and not update.of_base() and before.base.text == manifest.base.text
    keeps_base = keeps_base and before is not None and before.architecture == context.architecture
    if before and keeps_base:
        found, base = lockuse.find_base(context, manifest, before), before.base
    else:
        found = lockuse.finder(context).find(manifest.base)
        base = _base(found)
    same_base = before is not None and base.digest == before.base.digest
    base = before.base if before and same_base else base
    kept = _kept(context, manifest, before, update) if before and same_base else {}
    work = Work(context, manifest, before, update, base, kept)
    if work.last == 0 and (same_base or found.suite is None):
        for number, layer in work.numbered():
            work.resolved(number, layer, kept[number].locked if number in kept else ())
    else:
        _resolve(work, found, runtime, new_base=not same_base)
    made = work.lock
    _refuse_secrets(made, context)
    lockfile.write(made)
    return made, differences(before, made)


def _before(context: Context, name: str) -> Lock | None:
    """The lock as it is; one that was changed by hand is made anew."""
    try:
        return lockfile.load(context.manifests, name)
    except LockError as error:
        context.ui.warn(f"{error.message}: it is made anew")
        return None


def _named(text: str, before: Lock | None) -> str:
    """What `--update` means by a word: a Python package may be written in many ways."""
    word = text.strip()
    names = {package.name for layer in (before.layers if before else ()) for package in layer.locked}
    return word if word in names or word in WORDS else canonicalize_name(word)


def _refuse_unknown(update: Update, before: Lock | None, name: str) -> None:
    known = {*WORDS}
    if before:
        known |= {package.name for layer in before.layers for package in layer.locked}
    for each in update.what:
        if each not in known:
            raise UsageError(
                f"'{each}' is not in the lock of {name}",
                "write base, apt, pip or the name of a locked package",
            )


def _base(found: Found) -> LockedBase:
    sources = found.suite.public_sources if found.suite else ()
    return LockedBase(found.base.text, found.label, found.digest, found.platform_digest, found.epoch, sources)


def _kept(context: Context, manifest: Manifest, before: Lock, update: Update) -> dict[int, LockedLayer]:
    """The layers whose packages stay: all up to the first that is another, or is to be updated."""
    same = (before.env, before.guard) == (locked.environment(manifest), locked.guarded(manifest))
    if not same or before.architecture != context.architecture:
        return {}
    old = [each for each in before.layers if each.kind != "run"]
    kept: dict[int, LockedLayer] = {}
    for number, layer in enumerate(manifest.layers, 1):
        if layer.kind == "run":
            continue
        said = {"kind": layer.kind, **locked.layer_inputs(layer, manifest.folder)}
        if not old or said != {"kind": old[0].kind, **old[0].inputs} or update.of_layer(old[0]):
            break
        kept[number] = old.pop(0)
    return kept


def _environment(layer: Layer) -> str | None:
    """Where a layer's Python packages go, None for one that has none."""
    if isinstance(layer, PipLayer):
        return SYSTEM
    return (layer.venv or SYSTEM) if isinstance(layer, UvLayer) else None


def _resolve(work: Work, found: Found, runtime: str, *, new_base: bool) -> None:
    context, name = work.context, work.manifest.name
    plan = building.planned(context, work.manifest, found, Options(runtime))
    preflight.check_tools(context, plan)
    with contextlib.ExitStack() as ending:
        private = ending.enter_context(workspace.opened(context.site.work, f"lock-{name}", context.environ))
        tree = ending.enter_context(assembly.opened(context, plan, private, runtime))
        logs = layerrun.log_folder(context.site.logs, private.id)
        _make_base(work, plan, private, tree, logs)
        guard = guards.of_base(tree.bottom, work.manifest.guard)
        inside = Tree(context, plan, private, tree.runtime, logs, guard)
        if new_base and found.suite:
            with context.ui.step(f"lock {found.base.text}") as step:
                packages = _resolver(work, inside).base(step)
                work.base = replace(work.base, locked=packages)
                step.outcome = f"{len(packages)} packages"
        for number, layer in work.numbered():
            _layer(work, inside, number, layer)


def _make_base(
    work: Work, plan: Plan, private: workspace.Workspace, tree: assembly.Assembly, logs: Path
) -> None:
    context, base = work.context, plan.base
    with context.ui.step(f"base {base.base.text}") as step, files.Log(logs / "00-base.log") as log:
        env = {**context.host_env(), workspace.MARK: private.id}
        plain = context.runtime(private, plan.runtime)
        output = Output(log, step.line, context.redact)
        maker = bases.Maker(
            plain, context.client, context.site.blobs, context.site.unpack, env, output, step.progress
        )

        def make(container: str) -> None:
            if work.base.locked:
                lockuse.fetch(context, work.lock, work.base.locked, step)
                maker.make(lockuse.with_archives(context, work.lock, base, private), container)
            else:
                maker.make(base, container)

        tree.base(plan.base_wanted, make, step)
        tree.complete()


def _resolver(work: Work, inside: Tree) -> Resolver:
    found = lockedfiles.opened(work.lock, work.context.site, work.context.transport)
    return Resolver(inside, found)


def _layer(work: Work, inside: Tree, number: int, layer: Layer) -> None:
    """Resolve a layer, and make it in the tree where one above it has to be resolved on it."""
    title = f"layer {number}/{len(work.manifest.layers)} {layer.title}"
    if number in work.kept:
        work.resolved(number, layer, work.kept[number].locked)
    elif layer.kind in KINDS:
        with work.context.ui.step(f"lock {title}") as step:
            packages = _resolver(work, inside).layer(work.question(number, layer), step)
            step.outcome = f"{len(packages)} packages"
        work.resolved(number, layer, packages)
    else:
        work.resolved(number, layer, ())
    if number < work.last and isinstance(layer, AptLayer | CopyLayer):
        with work.context.ui.step(f"make {title}") as step:
            _make(work, inside, number, layer, step)


def _make(work: Work, inside: Tree, number: int, layer: AptLayer | CopyLayer, step: Step) -> None:
    context = work.context
    if isinstance(layer, CopyLayer):
        made = layercommand.command(layer, context.manifests, context.uv)
    else:
        packages = work.layers[number - 1].locked
        lockuse.fetch(context, work.lock, packages, step)
        place = inside.workspace.path / "locked" / str(number)
        found = lockedfiles.opened(work.lock, context.site, context.transport)
        lockedcommand.lay_out(found, layer.kind, packages, place)
        made = lockedcommand.command(layer, place, context.uv)
    inside.make(f"layer {number} ({layer.title})", layer, made, step)


def _refuse_secrets(made: Lock, context: Context) -> None:
    """The last line of defence: what is committed is read by everybody."""
    text = lockfile.render(made)
    for secret in (each for each in context.site.secrets() if len(each) >= SHORTEST_SECRET):
        for number, line in enumerate(text.splitlines(), 1):
            if secret in line:
                raise LockError(
                    f"line {number} of the lock would hold a password of the site: {context.redact(line)}",
                    "the index puts it into its addresses; ask who keeps it",
                )


def differences(before: Lock | None, now: Lock) -> list[str]:
    """What changed from one lock to the next, a line for each package."""
    said = []
    if before is not None and before.base.digest != now.base.digest:
        said.append(f"base {before.base.digest} -> {now.base.digest}")
    old, new = ({each.name: each for each in made.packages} if made else {} for made in (before, now))
    for name in sorted({*old, *new}):
        was, is_now = old.get(name), new.get(name)
        if was is None and is_now is not None:
            said.append(f"+ {is_now.title}")
        elif is_now is None and was is not None:
            said.append(f"- {was.title}")
        elif was and is_now and was.identity != is_now.identity:
            said.append(f"  {name} {was.version} -> {is_now.version}")
    return said
