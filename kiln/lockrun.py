"""The base's tree while a lock is made: fixed scripts run in it that say what would be installed.

Owns what such a script sees, and reading what it says. Layers that later ones are resolved on are made in
this tree, which is thrown away; nothing of it gets into the layer store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import packaging

from kiln import debootstrap, files, layercommand, layerrun, layersecrets, packagecache
from kiln import guard as guards
from kiln.assembly import CONTAINER
from kiln.constraints import Handed
from kiln.context import Context
from kiln.errors import LockError
from kiln.guard import Guard
from kiln.layercommand import INSIDE, LAYER, LayerCommand
from kiln.layersecrets import Lent
from kiln.manifest import Layer, Mount
from kiln.plan import Plan
from kiln.run import Result, TimeLimit
from kiln.runtime.contract import Command, Output, Runtime
from kiln.ui import Step
from kiln.workspace import Workspace

PACKAGING = Mount(source=Path(packaging.__file__).parent, target=f"{INSIDE}/python/packaging")
PINS = f"{LAYER}/pins.txt"
LARGEST = 256 << 20
"""Bytes of what a script says; pip's report has the whole metadata of each package."""
TAIL_LINES = 15
PROTECTED = "its base protects {}: ask for versions that go with these, or allow others (docs/guard.md)"
HINT = "a lock is resolved on the base with its apt and copy layers; what run layers do is not known to it"


class Failed(LockError):
    """A script ended with something other than 0."""


@dataclass(frozen=True)
class Tree:
    """The container of a lock that is being made."""

    context: Context
    plan: Plan
    workspace: Workspace
    runtime: Runtime
    logs: Path
    guard: Guard

    def ask(  # noqa: PLR0913 # a script has this many sides
        self,
        title: str,
        made: LayerCommand,
        step: Step,
        *,
        timeout: float,
        layer: Layer | None = None,
        guarded: bool = True,
        pins: Sequence[str] = (),
        cache: str = "",
        hint: str = HINT,
    ) -> None:
        """Run a script; `pins` are lines that it finds in `PINS`. Raises `Failed` with the end of its log.

        With a `layer` its secrets are there, and where `guarded` pip and uv are held to what its base
        protects, as when it is made.
        """
        handed = self._hand(layer, made) if layer and guarded else Handed()
        mounts = [*made.mounts, *handed.mounts, PACKAGING]
        if pins:
            path = self.workspace.scripts / "pins.txt"
            path.write_text("".join(f"{line}\n" for line in pins))
            mounts.append(Mount(source=path, target=PINS))
        if cache:
            with contextlib.suppress(OSError):
                mounts.append(packagecache.mount(self.context.site.packages, cache))
        log_path = self.logs / "lock.log"
        with files.Log(log_path) as log, self._sources(), self._lent(layer) as lent:
            try:
                output = Output(log, step.line, self.context.redact.and_of(lent.values.values()))
                env, mounts = {**made.env, **handed.env, **lent.env}, [*mounts, *lent.mounts]
                command = self._command(title, made.argv, env, mounts, timeout)
                result = self.runtime.start(CONTAINER, command, output)
            except TimeLimit as error:
                result = error.result
        if result.returncode != 0 or result.timed_out:
            held = guards.refused(handed.pins, result.output)
            names = ", ".join(f"{pin.name} {pin.version}" for pin in held)
            raise _failed(title, result, log_path, PROTECTED.format(names) if held else hint)

    def _command(
        self,
        title: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        mounts: Sequence[Mount],
        timeout: float,
    ) -> Command:
        rootfs = self.runtime.rootfs(CONTAINER)
        build = layerrun.build_environment(self.context, self.plan, self.workspace, rootfs)
        return Command(
            argv=("/bin/sh", f"{INSIDE}/scripts/layer.sh", *argv),
            what=f"lock {title}",
            env={**build, **env},
            mounts=(*layerrun.build_mounts(self.context, self.plan, self.workspace), *mounts),
            timeout=timeout,
        )

    def _lent(self, layer: Layer | None) -> contextlib.AbstractContextManager[Lent]:
        if layer is None:
            return contextlib.nullcontext(Lent())
        return layersecrets.lent(layer, self.context.environ, self.workspace)

    def _hand(self, layer: Layer, made: LayerCommand) -> Handed:
        tree, manifest = self.runtime.rootfs(CONTAINER), self.plan.manifest
        seen = layerrun.variables(self.context, self.plan, self.workspace, tree, made)
        return self.guard.hand(layer, tree, seen, manifest.folder, self.workspace.scripts)

    def said(self, name: str = "found") -> bytes:
        """What the last script wrote under a name; b"" for nothing."""
        return files.read_inside(self.workspace.state, name, LARGEST) or b""

    def make(self, title: str, layer: Layer, made: LayerCommand, step: Step) -> None:
        """Make a layer in the tree, for those above it to be resolved on."""
        self.ask(title, made, step, timeout=float(layer.timeout), layer=layer, guarded=False)

    def _sources(self) -> contextlib.AbstractContextManager[None]:
        suite = self.plan.base.suite
        tree = self.runtime.rootfs(CONTAINER)
        return debootstrap.site_sources(suite, tree) if suite else contextlib.nullcontext()


def script(
    name: str, *arguments: str, mounts: Sequence[Mount] = (), env: Mapping[str, str] | None = None
) -> LayerCommand:
    return LayerCommand(layercommand.script(name, *arguments), tuple(mounts), env or {})


def _failed(title: str, result: Result, log: Path, hint: str) -> Failed:
    return Failed(
        f"{title} can't be locked: {result.outcome()}",
        hint,
        [*(f"| {line}" for line in result.tail(TAIL_LINES)), f"the whole log: {log}"],
    )
