"""Both tiers as one: what is there for a key, and why not; taken up, or made once and put there.

Owns the order of looking (the local tier, then the shared one) and what makes an entry unfit. Nothing here
knows how a tree is made or mounted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kiln.errors import EnvironmentMissing, RuntimeFailure, SpaceError, StoreError
from kiln.layers import key as keys
from kiln.layers.entry import Entry
from kiln.layers.key import Key
from kiln.layers.local import Gone, Local, new_id
from kiln.layers.shared import Shared
from kiln.ui import Step

# A build goes on where the shared tier fails in one of these ways. Being interrupted is none of them.
WITHOUT_SHARED = (StoreError, EnvironmentMissing, RuntimeFailure)
AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Wanted:
    """A base or layer that a build needs: `pinned` says that time alone can't change it.

    `forced` is why it must be made anew whatever there is, '' where it need not be.
    """

    kind: str
    key: Key
    title: str
    pinned: bool = True
    forced: str = ""


@dataclass(frozen=True)
class Lookup:
    """What there is for a key: `entry` None means that it is made, for the `reason`.

    `packed` says that it is in the shared tier alone, and is unpacked into the local one when it is taken.
    """

    entry: Entry | None
    reason: str
    packed: bool = False


class Made(NamedTuple):
    """A new tree in the local tier's file system, its log if it has one, and what changed of its packages."""

    tree: Path
    log: Path | None = None
    changes: Sequence[Mapping[str, Any]] = ()


Make = Callable[[], Made]


@dataclass(frozen=True)
class LayerStore:
    """The tiers of one user on one node. `stale_after` is seconds, None for never."""

    local: Local
    shared: Shared | None
    stale_after: float | None

    def look(self, wanted: Wanted, parent: str, before: Mapping[str, Any] | None) -> Lookup:
        """What is there for `wanted` on the entry `parent` (its id); `before` are the inputs of last time."""
        if wanted.forced:
            return Lookup(None, wanted.forced)
        entry, unfit = self._local(wanted, parent)
        if entry:
            return Lookup(entry, f"made {age(entry.made)} ago")
        entry, refused = self._shared(wanted, parent)
        if entry:
            return Lookup(entry, f"made {age(entry.made)} ago, in the shared tier", packed=True)
        return Lookup(None, _reason(wanted, before, unfit or refused))

    def _local(self, wanted: Wanted, parent: str) -> tuple[Entry | None, str]:
        """The fit entry, or why the one that is there isn't fit."""
        entry = self.local.look(wanted.kind, wanted.key.digest)
        why = self._unfit(entry, wanted, parent) if entry else ""
        return (None, why) if why else (entry, "")

    def _shared(self, wanted: Wanted, parent: str) -> tuple[Entry | None, str]:
        if self.shared is None:
            return None, ""
        entry, refused = self.shared.look(wanted.kind, wanted.key.digest)
        why = self._unfit(entry, wanted, parent) if entry else refused
        return (None, why) if why else (entry, "")

    def _unfit(self, entry: Entry, wanted: Wanted, parent: str) -> str:
        if entry.parent != parent:
            return "what lies below was made anew since"
        old = time.time() - entry.made
        if self.stale_after is not None and not wanted.pinned and old > self.stale_after:
            return f"made {age(entry.made)} ago, and it doesn't name exact versions"
        return ""

    @contextlib.contextmanager
    def taken(
        self,
        wanted: Wanted,
        parent: str,
        make: Make,
        place: Path,
        step: Step,
    ) -> Iterator[tuple[Entry, bool]]:
        """Have the entry of `wanted` stay in the local tier for the block; yields it, and if it was made.

        Where there is none, it is taken up from the shared tier, or made by `make`. `place` is a private
        folder in the local tier's file system. What is damaged is dropped, said, and made anew.
        """
        with contextlib.ExitStack() as held:
            entry, made = self._leased(wanted, parent, step, held, alone=False), False
            if entry is None:
                with self.local.making(wanted.kind, wanted.key.digest, _waiting(wanted, step)):
                    # Whoever had the lock before may just have made it.
                    entry = self._leased(wanted, parent, step, held, alone=True)
                    if entry is None:
                        entry = self._take_up(wanted, parent, place, step)
                        if made := entry is None:
                            entry = self._make(wanted, parent, make, step)
                        held.enter_context(self.local.leased(entry, new=True))
            yield entry, made

    def _leased(
        self, wanted: Wanted, parent: str, step: Step, held: contextlib.ExitStack, *, alone: bool
    ) -> Entry | None:
        """The fit entry of the local tier, leased until `held` ends.

        A damaged one is dropped only where nobody else can just have put another in its place.
        """
        entry, _ = (None, "") if wanted.forced else self._local(wanted, parent)
        if entry is None:
            return None
        try:
            held.enter_context(self.local.leased(entry))
        except Gone as error:
            if alone:
                step.note(f"{error.message}; it is dropped, and made anew")
                self.local.drop(entry)
            return None
        return entry

    def _take_up(self, wanted: Wanted, parent: str, place: Path, step: Step) -> Entry | None:
        """The fit entry of the shared tier, unpacked into the local one; None where there is no sound one."""
        entry, _ = (None, "") if wanted.forced else self._shared(wanted, parent)
        if entry is None or self.shared is None:
            return None
        step.note(f"unpacking it from the shared tier, {self.shared.root}")
        tree = place / f"from-shared-{entry.id}"
        try:
            self.shared.fetch(entry, tree, step.progress)
        except WITHOUT_SHARED as error:
            step.note(f"{error.message}; it is made anew")
            return None
        return self.local.put(entry, tree, None)

    def _make(
        self,
        wanted: Wanted,
        parent: str,
        make: Make,
        step: Step,
    ) -> Entry:
        started = time.monotonic()
        made = make()
        identity = wanted.key.digest if wanted.kind == "base" else new_id()
        entry = Entry(
            wanted.kind,
            wanted.key.digest,
            identity,
            parent,
            wanted.title,
            made=time.time(),
            seconds=round(time.monotonic() - started, 2),
            inputs=wanted.key.inputs,
            changes=list(made.changes),
        )
        entry = self.local.put(entry, made.tree, made.log)
        self._share(entry, step)
        return entry

    def _share(self, entry: Entry, step: Step) -> None:
        """Put an entry into the shared tier too. That it can't be is no reason for a build to fail."""
        if not self.shared or not self.shared.writable:
            return
        try:
            self.shared.put(entry, self.local.tree(entry))
        except (*WITHOUT_SHARED, SpaceError) as error:
            step.note(f"not put into the shared tier: {error.message}")

    def remember(self, image: str, inputs: Sequence[Mapping[str, Any]]) -> None:
        self.local.remember(image, inputs)
        if self.shared and self.shared.writable:
            with contextlib.suppress(StoreError, SpaceError):
                self.shared.remember(image, inputs)

    def remembered(self, image: str) -> list[dict[str, Any]]:
        """The inputs of the image's base and layers when it was last built, lowest first."""
        return self.local.remembered(image) or (self.shared.remembered(image) if self.shared else [])

    def prepare(self) -> None:
        """Make what is missing, and see that the layouts are known. Raises `StoreError`, `SpaceError`."""
        self.local.prepare()
        if self.shared:
            self.shared.check()


def _reason(wanted: Wanted, before: Mapping[str, Any] | None, unfit: str) -> str:
    changed = keys.changes(before, wanted.key.inputs) if before is not None else ""
    if changed:
        return f"changed: {changed}"
    if unfit:
        return unfit
    return "not in the store" if before is None else "no longer in the store"


def _waiting(wanted: Wanted, step: Step) -> Callable[[str], None]:
    what = "base" if wanted.kind == "base" else "layer"
    return lambda text: step.note(f"another build makes this {what}; {text}")


def age(moment: float) -> str:
    """How long ago a moment in Unix seconds was, for people: '3 d'."""
    seconds = max(0.0, time.time() - moment)
    for length, unit in AGES:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"
