"""The record of one published image: the JSON file beside it.

Owns its fields and their text. A reader takes a record of any version up to its own; fields that it
doesn't know are kept out, ones that a record lacks have defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kiln.errors import StoreError

FORMAT = 1


@dataclass(frozen=True)
class LayerRecord:
    """One layer: its key, when it was made (Unix seconds), and whether an earlier build had made it."""

    kind: str
    title: str
    seconds: float
    key: str = ""
    made: float = 0.0
    reused: bool = False


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
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be read as a record: {error}", f"look at it: less {path}") from error
    return parse(data, str(path))


def parse(text: bytes, place: str) -> Record:
    """The record in a text; `place` is where it comes from, for messages. Raises `StoreError`."""
    try:
        data = json.loads(text)
        if data["format"] > FORMAT:
            raise StoreError(
                f"{place} was written by a newer Kiln (format {data['format']})", "update this Kiln"
            )
        values = _known(Record, data)
        values["layers"] = tuple(LayerRecord(**_known(LayerRecord, item)) for item in data.get("layers", ()))
        values["smoke"] = tuple(
            SmokeResult(**{**_known(SmokeResult, item), "args": tuple(item["args"])})
            for item in data.get("smoke", ())
        )
        return Record(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{place} can't be read as a record: {error}", f"look at it: less {place}"
        ) from error


def _known(model: type[Record | LayerRecord | SmokeResult], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(model)}
    return {name: value for name, value in data.items() if name in names}
