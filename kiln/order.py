"""What a person asks of a build, and what they get. Does nothing itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiln.errors import UsageError
from kiln.manifest import Manifest
from kiln.plan import Anew
from kiln.record import Record


@dataclass(frozen=True)
class Options:
    """What a person asked for beside the image's name. `start` is a layer's number, 0 for none named.

    A `trial` is an image that nobody will get: no driver has to run it, no hook tests it, no key signs it.
    `locked` demands a lock. `renew` looks anew for the base and for what the packages' ranges leave open, and
    publishes only what comes out otherwise than what is published.
    """

    runtime: str = ""
    keep: bool = False
    no_cache: bool = False
    start: int = 0
    locked: bool = False
    trial: bool = False
    renew: bool = False

    def anew(self, manifest: Manifest) -> Anew | None:
        """The layers that are to be made anew. Raises `UsageError` for one that there isn't."""
        if self.start > len(manifest.layers) or self.start < 0:
            raise UsageError(
                f"{manifest.name} has no layer {self.start}",
                f"it has {len(manifest.layers)}, see: invoke plan",
            )
        if self.no_cache:
            return Anew(1, "--no-cache")
        return Anew(self.start, f"--from {self.start}") if self.start else None


@dataclass(frozen=True)
class Outcome:
    """A published image: its record, the channel that leads to it now, and where things are.

    `logs` is None where it was there already, and nothing had to be done. `unchanged` says that it was built
    and came out as what is published, which is what the rest is about.
    """

    record: Record
    channel: str
    path: Path
    logs: Path | None
    unchanged: bool = False

    def to_data(self) -> dict[str, Any]:
        return {
            "name": self.record.name,
            "version": self.record.version,
            "channel": self.channel,
            "path": str(self.path),
            "logs": str(self.logs) if self.logs else None,
            "up_to_date": self.logs is None,
            "unchanged": self.unchanged,
            "record": asdict(self.record),
        }
