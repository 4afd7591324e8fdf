"""A shell in a container: where a kept build stopped, at any layer, or in a copy of a published image."""

from __future__ import annotations

import contextlib

from kiln import assembly, layerrun, workspace
from kiln import build as building
from kiln.assembly import CONTAINER, Stacked
from kiln.build import TESTED
from kiln.context import Context
from kiln.errors import UsageError
from kiln.layers.store import Made, Make, Wanted
from kiln.order import Options
from kiln.plan import Plan
from kiln.runtime.contract import Command, Runtime
from kiln.workspace import Workspace

SHELL = ("/bin/sh", "-c", "command -v bash > /dev/null && exec bash -i || exec sh -i")


def open_shell(context: Context, reference: str, runtime: str, *, as_root: bool) -> int:
    """Open a shell for `reference`; returns its exit code.

    A kept build of that image comes first: there the shell sees what its layers see, and what it
    changes stays until `gc`. Raises `StoreError` where there is neither.
    """
    for private in reversed(workspace.kept(context.site.work)):
        image, layer = private.kept_for() or ("", 0)
        if image == reference:
            return _in_kept(context, private, image, layer, runtime, as_root)
    entry = context.store.find(reference)
    with workspace.opened(context.site.work, f"shell-{entry.name}", context.environ) as private:
        running = context.runtime(private, runtime)
        with context.ui.step(f"unpack {entry.path.name}"):
            running.create(entry.path, "shell")
        command = Command(SHELL, f"open a shell in {entry.name}", root=as_root, gpu=True, timeout=0)
        return running.attach("shell", command)


def open_at(context: Context, image: str, layer: int, runtime: str, *, as_root: bool) -> int:
    """Open a shell on layer number `layer` of an image (0: its base); nothing done there stays.

    Raises `UsageError` where that layer isn't in the store, or layers aren't kept on this machine.
    """
    plan = building.plan(context, image, Options(runtime))
    if not 0 <= layer <= len(plan.layers):
        raise UsageError(f"{image} has no layer {layer}", f"it has {len(plan.layers)}; 0 is its base")
    if plan.uncached:
        raise UsageError(
            f"there is no layer {layer} to open: layers aren't kept here", f"because {plan.uncached}"
        )
    with contextlib.ExitStack() as ending:
        private = ending.enter_context(workspace.opened(context.site.work, f"shell-{image}", context.environ))
        tree = ending.enter_context(assembly.stacked(context, private, runtime))
        with context.ui.step(f"layer {layer} of {image}") as step:
            for wanted in (plan.base_wanted, *(item.wanted for item in plan.layers[:layer])):
                tree.take(wanted, _missing(image, wanted), step)
            tree.mount()
        context.ui.warn(f"this is {image} at layer {layer}; nothing done here stays")
        return _attach(context, plan, private, tree.runtime, CONTAINER, layer, as_root)


def _missing(image: str, wanted: Wanted) -> Make:
    def make() -> Made:
        raise UsageError(
            f"'{wanted.title}' of {image} is not in the layer store as it is now",
            f"run: invoke build {image}",
        )

    return make


def _in_kept(
    context: Context, private: Workspace, image: str, layer: int, runtime: str, as_root: bool
) -> int:
    """The container that was tested, for an ordinary user; else the one in which the layers ran."""
    plan = building.plan(context, image, Options(runtime))
    context.ui.warn(
        f"this is {image} at layer {layer}; nothing done here is published; 'invoke gc' removes it"
    )
    with contextlib.ExitStack() as ending:
        running = context.runtime(private, runtime)
        there = [name for name in (CONTAINER, TESTED) if name in running.list()]
        if not there:
            raise UsageError(f"the kept build of {image} has no container any more", "run: invoke gc")
        container = there[0] if as_root else there[-1]
        if container == CONTAINER and assembly.was_stacked(private):
            tree: Stacked = ending.enter_context(assembly.stacked(context, private, runtime))
            tree.take_again()
            tree.mount(anew=False)
            running = tree.runtime
        return _attach(context, plan, private, running, container, layer, as_root)


def _attach(
    context: Context,
    plan: Plan,
    private: Workspace,
    running: Runtime,
    container: str,
    layer: int,
    as_root: bool,
) -> int:
    command = Command(
        SHELL,
        f"open a shell at layer {layer} of {plan.manifest.name}",
        env=layerrun.build_environment(context, plan, private, running.rootfs(container)),
        mounts=layerrun.build_mounts(context, plan, private),
        root=as_root,
        gpu=True,
        timeout=0,
    )
    return running.attach(container, command)
