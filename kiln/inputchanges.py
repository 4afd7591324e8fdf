"""What of an image's own inputs changed since it was published: manifest, lock, files beside it, hooks.

Owns the comparison. A change of words alone (a comment) is none: what counts is whether a key would be
another one. An update of Kiln, or of the site's packing, makes other keys too, and nobody is due for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln import due, invocation, locked
from kiln.bases import KILN
from kiln.due import Reason
from kiln.layers import key as keys
from kiln.locked import Lock
from kiln.manifest import Manifest
from kiln.record import Record


@dataclass(frozen=True)
class Inputs:
    """An image's inputs as they are now: `lock_text` is its lock's, `packing` the site's."""

    manifest: Manifest
    lock: Lock | None
    lock_text: str
    hooks: Path
    architecture: str
    packing: Sequence[str]

    def reasons(self, record: Record) -> list[Reason]:
        """What of them changed since `record` was written. Raises `ManifestError` for a file that is gone."""
        name, found = self.manifest.name, list(self._files(record))
        stale = locked.changes(self.lock, self.manifest, self.architecture) if self.lock else []
        if stale:
            text = f"{name}.yaml changed since it was locked: {stale[0]}"
            return [*found, Reason(due.MANIFEST, text, due.REBUILD, {"changes": stale})]
        tools = (KILN, record.runtime.partition(" ")[0])
        chains = [self._keys(record.platform_digest, tool) for tool in tools]
        if any(self._image(chain, record) == record.key for chain in chains):
            return found
        where = self._changed_layer(record, chains)
        now, lock_now = invocation.digest(self.manifest.text), invocation.digest(self.lock_text)
        said = invocation.inputs(self.manifest, self.hooks)[invocation.SAID]
        # A record of before says only what the text was.
        if record.inputs.get(invocation.SAID, said) != said or (not record.inputs and now != record.manifest):
            evidence = {"from": record.manifest, "to": now, "where": where}
            text = f"{name}.yaml changed: {where or 'what it declares, or how it is tested'}"
            found.append(Reason(due.MANIFEST, text, due.REBUILD, evidence))
        elif where and lock_now != record.lock:
            evidence = {"from": record.lock, "to": lock_now, "where": where}
            found.append(Reason(due.LOCK, f"{name}.lock changed: {where}", due.REBUILD, evidence))
        return found

    def _files(self, record: Record) -> Iterator[Reason]:
        for name, digest in invocation.inputs(self.manifest, self.hooks).items():
            if record.inputs and name != invocation.SAID and record.inputs.get(name) != digest:
                yield _input(name, record.inputs.get(name, ""), digest)

    def _keys(self, base: str, tool: str) -> list[str]:
        """The keys of base and layers on the base that is on record."""
        found = [keys.of_base(base, tool).digest]
        for number, layer in enumerate(self.manifest.layers, 1):
            packages = self.lock.inputs_of(number) if self.lock else None
            said = (self.manifest.env, self.manifest.guard, self.manifest.folder, self.architecture)
            found.append(keys.of_layer(layer, found[-1], *said, packages).digest)
        return found

    def _image(self, chain: Sequence[str], record: Record) -> str:
        return keys.of_image(chain[-1], self.manifest, record.epoch, self.packing, self.hooks).digest

    def _changed_layer(self, record: Record, chains: Sequence[Sequence[str]]) -> str:
        """The first layer whose key is another one, in words; '' where all are the same."""
        before, layers = [layer.key for layer in record.layers], self.manifest.layers
        number = max(_alike(chain[1:], before) for chain in chains)
        if number == len(before) == len(layers):
            return ""
        if number < len(layers):
            return f"layer {number + 1} ({layers[number].title})"
        return f"layer {number + 1} ({record.layers[number].title}) is gone"


def _input(name: str, before: str, now: str) -> Reason:
    kind = due.HOOK if name.startswith("hooks/") else due.FILES
    what = "smoke hook" if kind == due.HOOK else "file"
    return Reason(
        kind, f"{what} {name.removeprefix('hooks/')} changed", due.REBUILD,
        {"name": name, "from": before, "to": now},
    )  # fmt: skip


def _alike(one: Sequence[str], two: Sequence[str]) -> int:
    pairs = zip(one, two, strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))
