"""The record of one published image: the JSON file beside it.

Owns its fields and their text. A reader takes a record of any version up to its own; fields that it
doesn't know are kept out, ones that a record lacks have defaults.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from kiln.errors import StoreError
from kiln.hardware import Hardware
from kiln.inventory import Package

FORMAT = 1
# Where the packages begin in a record's text; nothing comes after them.
PACKAGES = b',\n  "packages": ['
ERROR, WARNING = "error", "warning"


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
    """How one smoke hook ended: `state` is passed, skipped or failed; `reason` its last line.

    It holds for the `hardware` that it ran on; None in records of before that was written down.
    """

    hook: str
    args: tuple[str, ...]
    state: str
    required: bool
    seconds: float
    reason: str = ""
    hardware: Hardware | None = None

    @property
    def title(self) -> str:
        return " ".join((self.hook, *self.args))


@dataclass(frozen=True)
class Finding:
    """Something that the audit found in an image: `severity` is error or warning.

    `remedy` says what to change, `place` which layer left it, with its line of the manifest, where known.
    """

    severity: str
    path: str
    cause: str
    remedy: str = ""
    place: str = ""


@dataclass(frozen=True)
class Record:
    """What is known of one image. Times are ISO 8601 in UTC, sizes bytes, digests `sha256:<hex>`.

    `key` is the digest of all that it was made from: a build with the same one has nothing to do.
    `manifest` and `lock` are digests of these files as they were used, '' for none; `epoch` Unix seconds;
    `environment` all variables that a start sets, `system` the distribution as `debian-12`. `started` and
    `built` are the build's beginning and end, `build` is its id, `job` the scheduler's. `commit` is that of
    the checkout, '' without git, and `clean` whether nothing in it differed. `companions` are the digests
    of the other files beside the image, by what their names have after the version. `inputs` are the digests
    of what the manifest says (`manifest`), of the files beside it, and of the smoke hooks: `hooks/NAME`.
    `pieces` are the digests of the file's pieces of 64 MiB; records of older Kilns have none.
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
    manifest: str = ""
    lock: str = ""
    epoch: int = 0
    squashfs_tools: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    system: str = ""
    started: str = ""
    build: str = ""
    host: str = ""
    job: str = ""
    commit: str = ""
    clean: bool | None = None
    companions: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    pieces: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        """The file's text: packages, of which there may be a thousand, at its end, each in a line."""
        data = asdict(self)
        del data["packages"]
        head = json.dumps(data, indent=2, ensure_ascii=False).removesuffix("\n}")
        return f"{head}{PACKAGES.decode()}{rows(self.packages)}]\n}}\n"

    @property
    def smoke_state(self) -> str:
        """failed, incomplete (a required hook was skipped), passed, or none."""
        required = [result.state for result in self.smoke if result.required]
        if "failed" in required:
            return "failed"
        if "skipped" in required:
            return "incomplete"
        return "passed" if required else "none"


def moment(time: str) -> float:
    """Unix seconds of a record's time; 0 where it says none."""
    try:
        return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def rows(packages: Sequence[Package]) -> str:
    """Packages as the items of a JSON list, a line each, without what is empty and their own requirements."""
    lines = [
        json.dumps(
            {name: value for name, value in asdict(package).items() if value and name != "requires"},
            ensure_ascii=False,
        )
        for package in packages
    ]
    return "\n    " + ",\n    ".join(lines) + "\n  " if lines else ""


def read(path: Path, *, packages: bool = True) -> Record:
    """The record in a file, without its packages if they aren't wanted: they are most of it.

    Raises `StoreError` for one that is missing, damaged or of a newer Kiln.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be read as a record: {error}", f"look at it: less {path}") from error
    head, found, _ = data.partition(PACKAGES)
    return parse(head + b"\n}" if found and not packages else data, str(path))


def parse(text: bytes, place: str) -> Record:
    """The record in a text; `place` is where it comes from, for messages. Raises `StoreError`."""
    try:
        data = json.loads(text)
        if data["format"] > FORMAT:
            raise StoreError(
                f"{place} was written by a newer Kiln (format {data['format']})", "update this Kiln"
            )
        values = _known(Record, data)
        values["layers"] = tuple(
            LayerRecord(**{**_known(LayerRecord, item), "changes": package_changes(item.get("changes", ()))})
            for item in data.get("layers", ())
        )
        values["smoke"] = smoke_results(data.get("smoke", ()))
        values["packages"] = tuple(Package(**_known(Package, item)) for item in data.get("packages", ()))
        values["pieces"] = _texts(data.get("pieces", ()))
        values["findings"] = tuple(Finding(**_known(Finding, item)) for item in data.get("findings", ()))
        return Record(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        look = f"look at it: less {place}"
        raise StoreError(f"{place} can't be read as a record: {error}", look) from error


def _texts(data: Sequence[object]) -> tuple[str, ...]:
    if not isinstance(data, list | tuple) or not all(isinstance(each, str) for each in data):
        raise TypeError(f"'pieces' is {data!r:.40}")
    return tuple(map(str, data))


def smoke_results(data: Iterable[Mapping[str, Any]]) -> tuple[SmokeResult, ...]:
    return tuple(
        SmokeResult(
            **{
                **_known(SmokeResult, item),
                "args": tuple(item["args"]),
                "hardware": _hardware(item.get("hardware")),
            }
        )
        for item in data
    )


def package_changes(data: Iterable[Mapping[str, Any]]) -> tuple[PackageChange, ...]:
    return tuple(PackageChange(**_known(PackageChange, each)) for each in data)


def _hardware(data: Mapping[str, Any] | None) -> Hardware | None:
    return Hardware(**{**_known(Hardware, data), "gpus": tuple(data.get("gpus", ()))}) if data else None


def _known(model: Callable[..., Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `model` in `data`. Raises TypeError for a text where a number belongs, and the like."""
    kinds = _kinds(model)
    found = {name: value for name, value in data.items() if name in kinds}
    for name, value in found.items():
        texts = value.values() if kinds[name] == (dict,) and isinstance(value, dict) else ()
        if not isinstance(value, kinds[name]) or any(not isinstance(text, str) for text in texts):
            raise TypeError(f"{name!r} is {value!r:.40}")
    return found


@cache
def _kinds(model: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """The fields, and what each may be; those that hold models are looked at when these are made."""
    plain: dict[Any, tuple[type, ...]] = {
        str: (str,),
        int: (int,),
        float: (int, float),
        bool: (bool,),
        bool | None: (bool, type(None)),
        Mapping[str, str]: (dict,),
    }
    return {name: plain.get(hint, (object,)) for name, hint in get_type_hints(model).items()}
