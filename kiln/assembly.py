"""How the tree of an image comes together: layer upon layer in the store, or all in one tree.

`Stacked` makes each layer once: it is mounted as an overlay over what lies below, its changes are kept by its
key, and a later build with the same key takes them. `Flat` is for machines and file systems where an overlay
is refused: every build makes the base and runs every layer. Owns the mounts of one build.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kiln import baseline, finish, layerrun, workspace
from kiln.baseline import Baseline
from kiln.context import Context
from kiln.errors import RuntimeFailure, UsageError
from kiln.files import remove_tree, write_atomic
from kiln.layers.entry import Entry
from kiln.layers.store import LayerStore, Made, Make, Wanted, age
from kiln.plan import Plan, PlannedLayer
from kiln.runtime import namespace
from kiln.runtime.contract import Runtime
from kiln.runtime.namespace import Namespace, Space
from kiln.search import Changed
from kiln.ui import Step
from kiln.workspace import Workspace

CONTAINER, BASE = "build", "base"

Run = Callable[[], Sequence[Mapping[str, Any]]]
"""Runs a layer; returns what it changed of the packages, as an entry has it."""


class Assembly(Protocol):
    """A tree in the making: the container `CONTAINER` of `runtime`."""

    runtime: Runtime
    space: Space

    @property
    def changed(self) -> Changed:
        """Where to find what all layers, and `complete`, have changed."""
        ...

    @property
    def baseline(self) -> Baseline:
        """What the base had, once it is there."""
        ...

    @property
    def trees(self) -> Sequence[Baseline]:
        """What the base and each layer have of their own, lowest first; none where they share one tree."""
        ...

    def base(self, wanted: Wanted, make: Callable[[str], None], step: Step) -> None:
        """Have the base there; `make` makes it as the container that it is given."""
        ...

    @property
    def bottom(self) -> Path:
        """The base's tree; where layers aren't kept it is that only until the first one runs."""
        ...

    def layer(self, item: PlannedLayer, run: Run, log: Path, step: Step) -> Entry | None:
        """Have a layer on top; `run` runs it in the container. The entry, where it was made before."""
        ...

    def complete(self) -> None:
        """All layers are there: the container may be changed once more, and exported."""
        ...

    def release(self) -> None:
        """The container isn't needed any more; its space may be."""
        ...


class Flat:
    """One tree, in which every layer runs."""

    def __init__(self, runtime: Runtime, private: Workspace) -> None:
        self.runtime, self._workspace = runtime, private
        self.baseline: Baseline = baseline.nothing
        self.trees: Sequence[Baseline] = ()
        self.space: Space = namespace.HOST

    @property
    def changed(self) -> Changed:
        return Changed((self.runtime.rootfs(CONTAINER),), self._base_made)

    @property
    def _base_made(self) -> Path:
        return self._workspace.stack / "base-made"

    def base(self, wanted: Wanted, make: Callable[[str], None], step: Step) -> None:
        make(CONTAINER)
        self.baseline = baseline.snapshot(self.runtime.rootfs(CONTAINER))
        self._base_made.touch()
        layerrun.save_identity(self.runtime.rootfs(CONTAINER), self._workspace.state)

    @property
    def bottom(self) -> Path:
        return self.runtime.rootfs(CONTAINER)

    def layer(self, item: PlannedLayer, run: Run, log: Path, step: Step) -> Entry | None:
        run()
        return None

    def complete(self) -> None: ...

    def release(self) -> None:
        self.runtime.remove(CONTAINER)


class Stacked:
    """Overlays on the layer store. `inside` works in the namespace of the mounts, `outside` beside it."""

    def __init__(
        self,
        store: LayerStore,
        space: Namespace,
        private: Workspace,
        inside: Runtime,
        outside: Runtime,
        leases: contextlib.ExitStack,
    ) -> None:
        self.runtime, self._outside = inside, outside
        self._store, self._workspace, self._leases = store, private, leases
        self.space: Space = space
        self._space = space
        self.entries: list[Entry] = []
        self._bound = 0  # How many of them are bound in the namespace.

    @property
    def changed(self) -> Changed:
        trees = [self._store.local.tree(entry) for entry in self.entries[1:]]
        return Changed((*trees, self._workspace.upper), None, self.space)

    @property
    def baseline(self) -> Baseline:
        return self.trees[0]

    @property
    def trees(self) -> Sequence[Baseline]:
        return [baseline.of_tree(self._store.local.tree(entry)) for entry in self.entries]

    def base(self, wanted: Wanted, make: Callable[[str], None], step: Step) -> None:
        def made() -> Made:
            make(BASE)
            return Made(self._outside.rootfs(BASE))

        self.take(wanted, made, step)

    @property
    def bottom(self) -> Path:
        return self._store.local.tree(self.entries[0])

    def layer(self, item: PlannedLayer, run: Run, log: Path, step: Step) -> Entry | None:
        def made() -> Made:
            self.mount()
            rootfs, state = self.runtime.rootfs(CONTAINER), self._workspace.state
            layerrun.save_identity(rootfs, state)
            changes = run()
            finish.restore_identity(rootfs, state)
            self._space.unmount(self._target)
            # All whiteouts are links of one that lies there: removed later, it would change their ctime.
            remove_tree(self._workspace.overlay_work)
            return Made(self._workspace.upper, log, changes)

        return self.take(item.wanted, made, step)

    def take(self, wanted: Wanted, make: Make, step: Step) -> Entry | None:
        """Put the next entry on top, made by `make` where there is none; the entry, where there was one."""
        parent = self.entries[-1].id if self.entries else ""
        taken = self._store.taken(wanted, parent, make, self._workspace.stack, step)
        entry, made = self._leases.enter_context(taken)
        self.entries.append(entry)
        if made:
            return None
        step.outcome = f"reused, made {age(entry.made)} ago"
        return entry

    def complete(self) -> None:
        self.mount()
        layerrun.save_identity(self.runtime.rootfs(CONTAINER), self._workspace.state)

    def release(self) -> None:
        self._space.unmount(self._target)
        remove_tree(self._workspace.upper)

    @property
    def _target(self) -> Path:
        return self._workspace.containers / CONTAINER

    def mount(self, *, anew: bool = True) -> None:
        """Mount what is taken so far, with an empty folder for changes above it, or the one that is there."""
        private = self._workspace
        for folder in (private.overlay_work, *((private.upper,) if anew else ())):
            remove_tree(folder)
        for folder in (private.overlay_work, private.upper, self._target):
            folder.mkdir(exist_ok=True)
        # The top folder of an overlay is that of its upper directory.
        private.upper.chmod(stat.S_IMODE(self._store.local.tree(self.entries[-1]).stat().st_mode))
        self._bind()
        stack = [[entry.kind, entry.key, entry.id] for entry in self.entries]
        write_atomic(private.stack / "entries.json", json.dumps(stack).encode())
        self._space.mount(private.lower, private.upper, private.overlay_work, self._target)

    def _bind(self) -> None:
        """Have what was taken since the last time in the namespace, whatever takes its place later."""
        lower, store = self._workspace.lower, self._store.local
        if self._bound == 0:
            remove_tree(lower)
        new = [(store.tree(entry), lower / str(number)) for number, entry in enumerate(self.entries)]
        for _, place in new[self._bound :]:
            place.mkdir(parents=True)
        self._space.bind(new[self._bound :])
        if not all(store.has(entry) for entry in self.entries[self._bound :]):
            raise RuntimeFailure("another build has just made a layer below anew", "run it again")
        self._bound = len(self.entries)

    def take_again(self) -> None:
        """Have the entries again on which this workspace was kept. Raises `UsageError` where one is gone."""
        for kind, key, identity in json.loads((self._workspace.stack / "entries.json").read_text()):
            entry = self._store.local.look(kind, key)
            if entry is None or entry.id != identity:
                raise UsageError(
                    "a layer below the one that was kept is no longer in the layer store",
                    "build it again with --keep",
                )
            self._leases.enter_context(self._store.local.leased(entry))
            self.entries.append(entry)


@contextlib.contextmanager
def opened(context: Context, plan: Plan, private: Workspace, wanted: str) -> Iterator[Assembly]:
    """What the build of `plan` assembles its tree with; nothing stays mounted after the block."""
    outside = context.runtime(private, wanted)
    if plan.uncached:
        yield Flat(outside, private)
        return
    with stacked(context, private, wanted) as assembly:
        yield assembly


@contextlib.contextmanager
def stacked(context: Context, private: Workspace, wanted: str) -> Iterator[Stacked]:
    """Overlays on the layer store, for a build or a shell."""
    store = context.layer_store
    store.prepare()
    env = {**context.host_env(), workspace.MARK: private.id}
    with contextlib.ExitStack() as leases, namespace.opened(env) as space:
        inside, outside = context.runtime(private, wanted, space), context.runtime(private, wanted)
        yield Stacked(store, space, private, inside, outside, leases)


def was_stacked(private: Workspace) -> bool:
    """Whether the build of a kept workspace used overlays."""
    return (private.stack / "entries.json").exists()
