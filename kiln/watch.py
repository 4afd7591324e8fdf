"""One layer under guard: the stock before and after it, what pip and uv get, the words for a breach.

Owns the messages. What is protected, and what breaks that, is `kiln.guard`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln import guard as guards
from kiln import manifest
from kiln.constraints import Handed
from kiln.errors import GuardError
from kiln.guard import Broken, Guard
from kiln.inventory import Inventory
from kiln.manifest import Manifest
from kiln.plan import PlannedLayer
from kiln.problems import shown
from kiln.record import PackageChange
from kiln.run import Result

TAIL_LINES = 15


@dataclass(frozen=True)
class Watch:
    """A layer that is about to run in `tree`."""

    guard: Guard
    manifest: Manifest
    item: PlannedLayer
    tree: Path
    before: Inventory

    def hand(self, environ: Mapping[str, str], folder: Path) -> Handed:
        """What the layer gets to leave the base's packages alone; see `Guard.hand`."""
        return self.guard.hand(self.item.layer, self.tree, environ, self.manifest.folder, folder)

    def changes(self, after: Inventory, log: Path) -> tuple[PackageChange, ...]:
        """What the layer changed, by the stock after it. Raises `GuardError` where it may not."""
        broken = self.guard.broken(self.item.layer, self.tree, self.before, after, self.manifest.folder)
        if broken:
            steps = ", ".join(dict.fromkeys(each.step for each in broken))
            does = "changes" if any(each.after != each.before for each in broken) else "doesn't go with"
            raise self._error(f"{does} what its base protects: {steps}", broken, list(map(str, broken)), log)
        return self.guard.changes(self.before, after)

    def refusal(self, handed: Handed, result: Result, log: Path) -> GuardError | None:
        """That pip or uv found no versions that go with the base's; None where it failed otherwise."""
        pins = guards.refused(handed.pins, result.output)
        if not pins:
            return None
        broken = [Broken("python", pin.name, pin.version, "", "") for pin in pins]
        with_ = ", ".join(f"{pin.name} {pin.version}" for pin in pins)
        lines = [f"| {line}" for line in result.tail(TAIL_LINES)]
        return self._error(f"can't be made with what its base protects: {with_}", broken, lines, log)

    def _error(self, what: str, broken: Sequence[Broken], details: Sequence[str], log: Path) -> GuardError:
        path = self.manifest.folder / f"{self.manifest.name}.yaml"
        said = self.manifest.guard
        protect = f"protect: [{', '.join(map(_quoted, said.protect))}], " if said.protect else ""
        allow = ", ".join(dict.fromkeys((*said.allow, *(each.name for each in broken))))
        return GuardError(
            f"layer {self.item.number} ({self.item.title}) of {self.manifest.name} {what}",
            f"at {manifest.layer_place(path, self.item.number)} ask for versions that go with the base's; or,"
            f" to have others all the same, write in {shown(path)}: guard: {{{protect}allow: [{allow}]}}",
            [*details, f"the whole log: {log}"],
        )


def _quoted(pattern: str) -> str:
    """As YAML wants it: a '*' at the beginning would be an alias."""
    return f'"{pattern}"' if "*" in pattern else pattern
