"""What a build would do, and why: a value that can be printed and tested.

Pure: everything it is made from is handed in. Owns the estimate of space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.bases import Found
from kiln.manifest import Layer, Manifest
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
PACKED_PER_UNPACKED = 0.45


@dataclass(frozen=True)
class PlannedLayer:
    """One layer and why it is run. `number` counts from 1."""

    number: int
    layer: Layer
    reason: str

    @property
    def title(self) -> str:
        return self.layer.title


@dataclass(frozen=True)
class Need:
    """Bytes that a build wants free at a path, and what for."""

    path: Path
    size: int
    purpose: str


@dataclass(frozen=True)
class Plan:
    manifest: Manifest
    base: Found
    layers: tuple[PlannedLayer, ...]
    version: str
    target: Path
    runtime: str
    needs: tuple[Need, ...]

    def to_data(self) -> dict[str, Any]:
        """The plan as plain data, for `--json`."""
        return {
            "name": self.manifest.name,
            "version": self.version,
            "target": str(self.target),
            "runtime": self.runtime,
            "base": {"text": self.base.base.text, "digest": self.base.digest, "download": self.base.download},
            "layers": [
                {"number": item.number, "kind": item.layer.kind, "title": item.title, "reason": item.reason}
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


def make(
    manifest: Manifest,
    base: Found,
    versions: Sequence[str],
    folder: Path,
    work: Path,
    blobs: Path,
    runtime: str,
) -> Plan:
    """The plan for one image. `versions` are those already published, `folder` the image's in the store."""
    version = next_version(list(versions), base.label)
    layers = tuple(
        PlannedLayer(i, layer, "every build runs it") for i, layer in enumerate(manifest.layers, 1)
    )
    return Plan(
        manifest,
        base,
        layers,
        version,
        folder / f"{manifest.name}-{version}.sqsh",
        runtime,
        _needs(manifest, base, folder, work, blobs),
    )


def _needs(manifest: Manifest, base: Found, folder: Path, work: Path, blobs: Path) -> tuple[Need, ...]:
    tree = base.unpacked + sum(_growth(layer) for layer in manifest.layers)
    packed = int(tree * PACKED_PER_UNPACKED)
    # The finished file is unpacked once more to be tested, when the first tree is gone.
    needs = [
        Need(work, tree + packed, "the tree and the finished file"),
        Need(folder, packed, "the published file"),
    ]
    if base.download:
        needs.append(Need(blobs, base.download, "the base's layers as downloaded"))
    return tuple(needs)


def _growth(layer: Layer) -> int:
    packages = getattr(layer, "packages", ())
    if layer.kind in ("apt", "pip", "uv") and not getattr(layer, "requirements", ()):
        return min(LAYER_BYTES[layer.kind], SMALL_LAYER_BYTES * max(1, len(packages)))
    return LAYER_BYTES[layer.kind]
