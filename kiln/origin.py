"""Which layer left something at a path, and where that layer stands in its manifest.

Reads the layers' trees and the manifest's lines; changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln.baseline import Baseline
from kiln.manifest import layer_place


@dataclass(frozen=True)
class Origins:
    """The trees of the base and of each layer, lowest first; none where all layers ran in one tree."""

    manifest: Path
    titles: Sequence[str]
    trees: Sequence[Baseline]

    def of(self, path: str) -> str:
        """The layer that had the last word at `path`, with its place; '' where that isn't known."""
        for number in reversed(range(len(self.trees))):
            if self.trees[number](path) is not None:
                return layer(self.manifest, number, self.titles[number - 1]) if number else "the base"
        return ""


def layer(manifest: Path, number: int, title: str) -> str:
    """A layer by its number, counted from 1, with its line of the manifest."""
    return f"layer {number} ({title}), {layer_place(manifest, number)}"
