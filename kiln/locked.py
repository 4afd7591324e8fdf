"""What a manifest resolved to, as values: base and packages, and whether they are still the manifest's.

Owns what a lock is made from, and the words for what of it changed. Must not read, resolve or fetch anything.
Logins in addresses never get here. Run layers are never run to lock: of their scripts it has the digests, as
it has of copied files.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiln import files
from kiln.errors import LockError
from kiln.layers import key as keys
from kiln.manifest import Layer, Manifest, RunLayer
from kiln.problems import shown

APT, PYTHON = ("apt",), ("pip", "uv")
KINDS = (*APT, *PYTHON)
"""The kinds of layers whose packages are locked."""
WHEEL, SOURCE, BUILD, TOOL = "wheel", "source", "build", "tool"
"""What a Python package is for: a source is built with those that are `build`; a tool is pip itself."""

_LOGIN = re.compile(r"//[^/?#\s]*@")


@dataclass(frozen=True, order=True)
class Locked:
    """One package file. `place` is Debian's architecture, or what a Python package is for; `size` is bytes.

    `url` has no login. `line` is where it stands in the lock, 0 for one that is new.
    """

    name: str
    version: str
    place: str
    size: int
    sha256: str
    url: str
    line: int = field(default=0, compare=False)

    @property
    def text(self) -> str:
        return f"{self.name} {self.version} {self.place} {self.size} sha256:{self.sha256} {self.url}"

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def identity(self) -> str:
        return f"{self.version} sha256:{self.sha256}"


@dataclass(frozen=True)
class LockedBase:
    """The base: its digests, its own time (Unix seconds), and for a mirror its sources and packages.

    `label` is what the image's versions begin with. `sources` are lines of sources.list with public mirrors.
    """

    text: str
    label: str
    digest: str
    platform_digest: str
    epoch: int
    sources: tuple[str, ...] = ()
    locked: tuple[Locked, ...] = ()

    def to_data(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "text": self.text,
            "label": self.label,
            "digest": self.digest,
            "platform_digest": self.platform_digest,
            "epoch": self.epoch,
        }
        made = {"sources": list(self.sources), "locked": [each.text for each in self.locked]}
        return {**data, **made} if self.sources else data


@dataclass(frozen=True)
class LockedLayer:
    """A layer: what the manifest says of it, and the packages that it installs, sorted."""

    number: int
    kind: str
    inputs: Mapping[str, Any]
    locked: tuple[Locked, ...] = ()

    def to_data(self) -> dict[str, Any]:
        data = {"number": self.number, "kind": self.kind, "inputs": dict(self.inputs)}
        return {**data, "locked": [each.text for each in self.locked]} if self.kind in KINDS else data


@dataclass(frozen=True)
class Lock:
    """The lock of one image; `path` is its file."""

    path: Path
    name: str
    architecture: str
    env: Mapping[str, str]
    guard: Mapping[str, Any]
    base: LockedBase
    layers: tuple[LockedLayer, ...]

    @property
    def inputs(self) -> dict[str, Any]:
        """What it was made from, as `inputs` has it of a manifest."""
        layers = [{"kind": each.kind, **each.inputs} for each in self.layers]
        return _inputs(self.base.text, self.architecture, self.env, self.guard, layers)

    @property
    def made_from(self) -> str:
        return checksum(self.inputs)

    @property
    def checksum(self) -> str:
        blocks = [checksum(self.base.to_data()), *(checksum(each.to_data()) for each in self.layers)]
        return checksum([self.name, self.architecture, self.made_from, blocks])

    @property
    def packages(self) -> list[Locked]:
        """Everything that is fetched, each file once: of the base, then layer by layer."""
        found = [*self.base.locked, *(each for layer in self.layers for each in layer.locked)]
        return list({each.sha256: each for each in reversed(found)}.values())[::-1]

    def to_data(self, changed: Sequence[str] | None) -> dict[str, Any]:
        """For `--json`; `changed` is what differs from the lock before, None where nothing was resolved."""
        base = {
            "text": self.base.text,
            "digest": self.base.digest,
            "platform_digest": self.base.platform_digest,
        }
        found = {
            "name": self.name,
            "path": str(self.path),
            "made_from": self.made_from,
            "base": base,
            "packages": len(self.packages),
            "bytes": sum(each.size for each in self.packages),
        }
        return found if changed is None else {**found, "changes": list(changed)}

    def of(self, number: int) -> tuple[Locked, ...] | None:
        """The packages of a layer, counted from 1; None where its kind has none to lock."""
        layer = self.layers[number - 1]
        return layer.locked if layer.kind in KINDS else None

    def inputs_of(self, number: int) -> dict[str, str] | None:
        """What of a layer's packages decides what it will be: where they come from doesn't."""
        found = self.of(number)
        return (
            None
            if found is None
            else {f"{each.title} {each.place}": f"sha256:{each.sha256}" for each in found}
        )

    def place(self, package: Locked) -> str:
        return f"{shown(self.path)}:{package.line}" if package.line else shown(self.path)


def checksum(data: object) -> str:
    text = files.canonical_json(data)
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


def without_login(text: str) -> str:
    """A text whose addresses have no login."""
    return _LOGIN.sub("//", text)


# --- what a lock is made from ------------------------------------------------------------------


def inputs(manifest: Manifest, architecture: str) -> dict[str, Any]:
    """What of a manifest a lock is made from. Raises `ManifestError` for a file that is gone."""
    layers = [{"kind": each.kind, **layer_inputs(each, manifest.folder)} for each in manifest.layers]
    return _inputs(manifest.base.text, architecture, environment(manifest), guarded(manifest), layers)


def environment(manifest: Manifest) -> dict[str, str]:
    return {name: without_login(value) for name, value in manifest.env.items()}


def guarded(manifest: Manifest) -> dict[str, Any]:
    """Which packages of the base pip and uv must leave as they are: that decides of versions."""
    return manifest.guard.inputs()


def _inputs(
    base: str, architecture: str, env: Mapping[str, str], guard: Mapping[str, Any], layers: list[Any]
) -> dict[str, Any]:
    pairs = [list(item) for item in env.items()]
    data = {"base": base, "architecture": architecture, "env": pairs, "guard": dict(guard)}
    return {**data, "layers": layers}


def layer_inputs(layer: Layer, folder: Path) -> dict[str, Any]:
    """What a manifest says of a layer; `folder` is the manifest's."""
    # A key that has its default isn't there: a Kiln with more keys reads the same lock.
    data: dict[str, Any] = layer.model_dump(mode="json", exclude={"timeout"}, exclude_defaults=True)
    if isinstance(layer, RunLayer) and layer.script is not None:
        data["script"] = checksum(layer.script)
    found = keys.digests(layer, folder)
    return {**data, **({"files": found} if found else {})}


def changes(lock: Lock, manifest: Manifest, architecture: str) -> list[str]:
    """What of a manifest is no longer as it was when it was locked, in words; none where it fits."""
    before, now = lock.inputs, inputs(manifest, architecture)
    said = []
    for name in ("base", "architecture"):
        if before[name] != now[name]:
            said.append(f"{name} {before[name]} is now {now[name]}")
    for name in ("env", "guard"):
        if changed := keys.changes({name: before[name]}, {name: now[name]}):
            said.append(changed)
    return [*said, *_layer_changes(before["layers"], now["layers"])]


def _layer_changes(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    old, new = ([files.canonical_json(layer) for layer in layers] for layers in (before, now))
    for what, start, end, first, last in difflib.SequenceMatcher(
        None, old, new, autojunk=False
    ).get_opcodes():
        if what == "equal":
            continue
        pairs = min(end - start, last - first)
        for number in range(pairs):
            yield _layer_change(first + number + 1, before[start + number], now[first + number])
        for number in range(start + pairs, end):
            yield f"layer {number + 1} of the lock ({before[number]['kind']}) is gone"
        for number in range(first + pairs, last):
            yield f"layer {number + 1} ({now[number]['kind']}) is new"


def _layer_change(number: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before["kind"] != now["kind"]:
        return f"layer {number} ({before['kind']}) is now {now['kind']}"
    # What a manifest doesn't say isn't there: nothing of it, for a list of packages.
    both = {name: value for each in (now, before) for name, value in each.items()}
    empty = {name: type(value)() for name, value in both.items() if isinstance(value, list | dict)}
    return f"layer {number} ({now['kind']}): {keys.changes({**empty, **before}, {**empty, **now})}"


def require(lock: Lock, manifest: Manifest, architecture: str) -> None:
    """Raise `LockError` where a lock isn't that of the manifest as it is now, with what changed."""
    changed = changes(lock, manifest, architecture)
    if changed:
        raise LockError(
            f"{shown(lock.path)} no longer matches {manifest.name}.yaml: {changed[0]}",
            f"run: invoke lock {manifest.name}",
            changed[1:],
        )
