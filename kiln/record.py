"""The record of one published image: the JSON file beside it.

Owns its fields and their text. A reader takes a record of any version up to its own; fields that it
doesn't know are kept out, ones that a record lacks have defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kiln.errors import StoreError

FORMAT = 1


@dataclass(frozen=True)
class PackageChange:
    """A package that a layer added, removed or changed: its version `before` and `after`, '' for none.

    `kind` is apt or python, `place` dpkg's architecture or the folder of the distribution. `allowed` says
    that the base's own is protected, and that the manifest allows another. See docs/guard.md.
    """

    kind: str
    name: str
    place: str = ""
    before: str = ""
    after: str = ""
    allowed: bool = False


@dataclass(frozen=True)
class LayerRecord:
    """One layer: its key, when it was made (Unix seconds), and whether an earlier build had made it.

    `changes` are those of packages, sorted; none are known of a layer that an older Kiln made.
    """

    kind: str
    title: str
    seconds: float
    key: str = ""
    made: float = 0.0
    reused: bool = False
    changes: tuple[PackageChange, ...] = ()


@dataclass(frozen=True)
class SmokeResult:
    """How one smoke hook ended: `state` is passed, skipped or failed; `reason` its last line."""

    hook: str
    args: tuple[str, ...]
    state: str
    required: bool
    seconds: float
    reason: str = ""

    @property
    def title(self) -> str:
        return " ".join((self.hook, *self.args))


@dataclass(frozen=True)
class Record:
    """What is known of one image. Times are ISO 8601 in UTC, sizes bytes, digests `sha256:<hex>`.

    `key` is the digest of all that it was made from: a build with the same one has nothing to do.
    """

    name: str
    version: str
    file: str
    digest: str
    size: int
    base: str
    base_digest: str
    platform_digest: str
    built: str
    description: str = ""
    maintainer: str = ""
    seconds: float = 0.0
    runtime: str = ""
    kiln: str = ""
    architecture: str = ""
    key: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[LayerRecord, ...] = ()
    steps: Mapping[str, float] = field(default_factory=dict)
    smoke: tuple[SmokeResult, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @property
    def smoke_state(self) -> str:
        """failed, incomplete (a required hook was skipped), passed, or none."""
        required = [result.state for result in self.smoke if result.required]
        if "failed" in required:
            return "failed"
        if "skipped" in required:
            return "incomplete"
        return "passed" if required else "none"


def read(path: Path) -> Record:
    """The record in a file. Raises `StoreError` for one that is missing, damaged or of a newer Kiln."""
    try:
        data = json.loads(path.read_text())
        if data["format"] > FORMAT:
            raise StoreError(
                f"{path} was written by a newer Kiln (format {data['format']})", "update this Kiln"
            )
        values = _known(Record, data)
        values["layers"] = tuple(
            LayerRecord(**{**_known(LayerRecord, item), "changes": package_changes(item.get("changes", ()))})
            for item in data.get("layers", ())
        )
        values["smoke"] = tuple(
            SmokeResult(**{**_known(SmokeResult, item), "args": tuple(item["args"])})
            for item in data.get("smoke", ())
        )
        return Record(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} can't be read as a record: {error}", f"look at it: less {path}") from error


def package_changes(data: Iterable[Mapping[str, Any]]) -> tuple[PackageChange, ...]:
    return tuple(PackageChange(**_known(PackageChange, each)) for each in data)


def _known(
    model: type[Record | LayerRecord | SmokeResult | PackageChange], data: Mapping[str, Any]
) -> dict[str, Any]:
    names = {item.name for item in fields(model)}
    return {name: value for name, value in data.items() if name in names}
