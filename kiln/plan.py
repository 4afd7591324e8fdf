"""What a build would do, and why: a value that can be printed and tested.

Pure but for what it asks of the layer store: everything else it is made from is handed in. Owns the
order of the questions and the estimate of space.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.bases import Found
from kiln.driver import Verdict
from kiln.layers import key as keys
from kiln.layers.key import Key
from kiln.layers.store import LayerStore, Lookup, Wanted
from kiln.locked import Lock, Locked
from kiln.manifest import Layer, Manifest
from kiln.runtime.namespace import MOST_LOWER
from kiln.store import Entry as Published
from kiln.store import next_version

# A layer's growth is not known before it runs; what pip and apt bring is guessed for the check of space.
LAYER_BYTES = {
    "apt": 300_000_000,
    "pip": 1_500_000_000,
    "uv": 1_500_000_000,
    "copy": 50_000_000,
    "run": 300_000_000,
}
SMALL_LAYER_BYTES = 60_000_000
MOST_SMALL_BYTES = 2_000_000_000
PACKED_PER_UNPACKED = 0.45
NOT_MADE = "not made yet"  # the id that no entry has


@dataclass(frozen=True)
class Anew:
    """What a person wants made again: the layers from number `start` on, and how that was asked for."""

    start: int
    option: str


@dataclass(frozen=True)
class Setting:
    """Where and with what an image would be built.

    `store` is None where layers can't be kept, for the reason `uncached`. `published` are the versions that
    the channels lead to, the best first; `gpu` says whether this node has one. `unpacker` names what makes
    the base's tree. `stale_after` is seconds, None for never. `lock` is the lock in force, which fits.
    """

    manifests: Path
    hooks: Path
    folder: Path
    work: Path
    blobs: Path
    runtime: str
    architecture: str
    packing: Sequence[str]
    unpacker: str
    versions: Sequence[str] = ()
    published: Sequence[Published] = ()
    store: LayerStore | None = None
    uncached: str = ""
    stale_after: float | None = None
    gpu: bool = False
    anew: Anew | None = None
    lock: Lock | None = None


@dataclass(frozen=True)
class PlannedLayer:
    """One layer, what there is of it, and why it is run where it must be. `number` counts from 1.

    `locked` are the packages that it installs, None where the versions of that day are.
    """

    number: int
    layer: Layer
    wanted: Wanted
    lookup: Lookup
    locked: tuple[Locked, ...] | None = None

    @property
    def title(self) -> str:
        return self.layer.title

    @property
    def reason(self) -> str:
        return self.lookup.reason


@dataclass(frozen=True)
class Need:
    """Bytes that a build wants free at a path, and what for."""

    path: Path
    size: int
    purpose: str


@dataclass(frozen=True)
class Plan:
    """What a build would do. `published` is a version that is already made from the same `key`.

    `driver` is whether the site's driver runs the base's CUDA; None where nobody has asked.
    """

    manifest: Manifest
    base: Found
    base_wanted: Wanted
    base_lookup: Lookup
    layers: tuple[PlannedLayer, ...]
    key: Key
    published: Published | None
    uncached: str
    version: str
    target: Path
    runtime: str
    needs: tuple[Need, ...]
    lock: Lock | None = None
    driver: Verdict | None = None

    @property
    def inputs(self) -> list[Mapping[str, Any]]:
        """The inputs of the base and the layers, lowest first."""
        return [self.base_wanted.key.inputs, *(item.wanted.key.inputs for item in self.layers)]

    def to_data(self) -> dict[str, Any]:
        """The plan as plain data, for `--json`."""
        return {
            "name": self.manifest.name,
            "version": self.version,
            "target": str(self.target),
            "runtime": self.runtime,
            "key": self.key.digest,
            "lock": str(self.lock.path) if self.lock else None,
            "up_to_date": self.published.version if self.published else None,
            "layer_cache": self.uncached or "on",
            "driver": vars(self.driver) if self.driver else None,
            "base": {
                "text": self.base.base.text,
                "digest": self.base.digest,
                "download": self.base.download,
                **_lookup_data(self.base_wanted, self.base_lookup),
            },
            "layers": [
                {
                    "number": item.number,
                    "kind": item.layer.kind,
                    "title": item.title,
                    **_lookup_data(item.wanted, item.lookup),
                }
                for item in self.layers
            ],
            "smoke": [
                {"hook": test.hook, "args": list(test.args), "required": test.required}
                for test in self.manifest.smoke
            ],
            "needs": [
                {"path": str(need.path), "bytes": need.size, "purpose": need.purpose} for need in self.needs
            ],
        }


def _lookup_data(wanted: Wanted, lookup: Lookup) -> dict[str, Any]:
    return {"key": wanted.key.digest, "reused": lookup.entry is not None, "reason": lookup.reason}


def make(manifest: Manifest, base: Found, setting: Setting) -> Plan:
    """The plan for one image. Raises `ManifestError` for a source file that is gone meanwhile."""
    wanted = [_base(base, setting), *_layers(manifest, base, setting)]
    lookups = list(_lookups(manifest.name, wanted, setting))
    layers = tuple(
        PlannedLayer(
            number,
            layer,
            wanted[number],
            lookups[number],
            setting.lock.of(number) if setting.lock else None,
        )
        for number, layer in enumerate(manifest.layers, 1)
    )
    version = next_version(list(setting.versions), base.label)
    key = keys.of_image(wanted[-1].key.digest, manifest, base.epoch, setting.packing, setting.hooks)
    return Plan(
        manifest,
        base,
        wanted[0],
        lookups[0],
        layers,
        key,
        _up_to_date(key, layers, setting),
        setting.uncached,
        version,
        setting.folder / f"{manifest.name}-{version}.sqsh",
        setting.runtime,
        _needs(layers, base, lookups[0], setting),
        setting.lock,
    )


def _base(base: Found, setting: Setting) -> Wanted:
    return Wanted("base", keys.of_base(base.platform_digest, setting.unpacker), base.base.text)


def _layers(manifest: Manifest, base: Found, setting: Setting) -> Iterator[Wanted]:
    parent = _base(base, setting).key.digest
    for number, layer in enumerate(manifest.layers, 1):
        locked = setting.lock.inputs_of(number) if setting.lock else None
        key = keys.of_layer(
            layer, parent, manifest.env, manifest.guard, setting.manifests, setting.architecture, locked
        )
        forced = setting.anew.option if setting.anew and number >= setting.anew.start else ""
        yield Wanted("layer", key, layer.title, locked is not None or keys.pinned(layer), forced)
        parent = key.digest


def _lookups(name: str, wanted: Sequence[Wanted], setting: Setting) -> Iterator[Lookup]:
    """What there is for the base and each layer. Nothing fits on a layer that is yet to be made."""
    if setting.store is None:
        yield from (Lookup(None, f"every build makes it: {setting.uncached}") for _ in wanted)
        return
    before = setting.store.remembered(name)
    parent, made_anew = "", 0
    for number, each in enumerate(wanted):
        same_kind = number < len(before) and before[number].get("kind") == each.key.inputs.get("kind")
        lookup = setting.store.look(each, parent, before[number] if same_kind else None)
        if made_anew and same_kind and not each.forced and not lookup.reason.startswith("changed"):
            below = "the base" if made_anew == 1 else f"layer {made_anew - 1}"
            lookup = Lookup(None, f"{below} below it is made anew")
        made_anew = made_anew or (number + 1 if lookup.entry is None else 0)
        parent = lookup.entry.id if lookup.entry else NOT_MADE
        yield lookup


def too_many(manifest: Manifest) -> str:
    """Why an image has too many layers to be stacked, '' where it hasn't."""
    count = len(manifest.layers)
    return f"it has {count} layers, more than overlays take" if count >= MOST_LOWER else ""


def _up_to_date(key: Key, layers: Sequence[PlannedLayer], setting: Setting) -> Published | None:
    """The published version that a build would only make again."""
    if setting.anew:
        return None
    for entry in setting.published:
        record = entry.record
        if record is None or record.key != key.digest or not _whole(entry):
            continue
        # A GPU that is there now can finish what was only a candidate.
        if record.smoke_state == "incomplete" and setting.gpu:
            continue
        stale_after = setting.stale_after
        made = [done.made for done, item in zip(record.layers, layers, strict=True) if not item.wanted.pinned]
        if stale_after is None or all(time.time() - moment <= stale_after for moment in made):
            return entry
    return None


def _whole(entry: Published) -> bool:
    try:
        return entry.record is not None and entry.path.stat().st_size == entry.record.size
    except OSError:
        return False


def _needs(
    layers: Sequence[PlannedLayer], base: Found, base_lookup: Lookup, setting: Setting
) -> tuple[Need, ...]:
    lookups = [base_lookup, *(item.lookup for item in layers)]
    kept = sum(each.entry.size for each in lookups if each.entry and not each.packed)
    new = sum(int(each.entry.size / PACKED_PER_UNPACKED) for each in lookups if each.entry and each.packed)
    new += _growths([item.layer for item in layers if not item.lookup.entry])
    new += 0 if base_lookup.entry else base.unpacked
    packed = int((new + kept) * PACKED_PER_UNPACKED)
    # The finished file is unpacked once more to be tested: without layers kept, when the first tree is gone.
    tested = new + kept if not setting.uncached else 0
    needs = [
        Need(setting.work, new + tested + packed, "the trees and the finished file"),
        Need(setting.folder, packed, "the published file"),
    ]
    if base.download and not base_lookup.entry:
        # enroot's own layer cache lies beside, and holds them once more.
        times = 2 if setting.unpacker == "enroot" else 1
        needs.append(Need(setting.blobs, times * base.download, "the base's layers as downloaded"))
    return tuple(needs)


def _growths(layers: Sequence[Layer]) -> int:
    """Many scripts and files bring no more together than a few: sixty of them must not ask for 50 GB."""
    small = sum(_growth(layer) for layer in layers if layer.kind in ("run", "copy"))
    return min(small, MOST_SMALL_BYTES) + sum(
        _growth(layer) for layer in layers if layer.kind not in ("run", "copy")
    )


def _growth(layer: Layer) -> int:
    packages = getattr(layer, "packages", ())
    if layer.kind in ("apt", "pip", "uv") and not getattr(layer, "requirements", ()):
        return min(LAYER_BYTES[layer.kind], SMALL_LAYER_BYTES * max(1, len(packages)))
    return LAYER_BYTES[layer.kind]
