"""A shell in a container: where a kept build stopped, or in a throwaway copy of a published image."""

from __future__ import annotations

from kiln import build as building
from kiln import layerrun, workspace
from kiln.context import Context
from kiln.errors import UsageError
from kiln.runtime.contract import Command
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


def _in_kept(
    context: Context, private: Workspace, image: str, layer: int, runtime: str, as_root: bool
) -> int:
    running = context.runtime(private, runtime)
    containers = [name for name in (building.CONTAINER, building.TESTED) if name in running.list()]
    if not containers:
        raise UsageError(f"the kept build of {image} has no container any more", "run: invoke gc")
    container = containers[0] if as_root else containers[-1]
    plan = building.plan(context, image, building.Options(runtime))
    context.ui.warn(
        f"this is {image} at layer {layer}; nothing done here is published; 'invoke gc' removes it"
    )
    command = Command(
        SHELL,
        f"open a shell at layer {layer} of {image}",
        env=layerrun.build_environment(context, plan, private, running.rootfs(container)),
        mounts=layerrun.build_mounts(context, plan, private),
        root=as_root,
        gpu=True,
        timeout=0,
    )
    return running.attach(container, command)
