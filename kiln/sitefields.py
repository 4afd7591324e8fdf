"""What may be written at a key of a site profile: paths, addresses, mounts; `${NAME}` is the caller's.

Owns how such text is read. The profile itself is `kiln.site`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from kiln.document import Mistake, Parsed, Reading, reading
from kiln.expansion import expand
from kiln.fields import Mount, not_blank, one_line, parse_mount, url
from kiln.problems import did_you_mean, quote

_OVERRIDES = {"images": "KILN_IMAGES", "cache": "KILN_CACHE"}


@dataclass
class SiteReading(Reading):
    """What the checks of a profile need to know."""

    name: str = ""
    root: Path = Path()
    environ: Mapping[str, str] = field(default_factory=dict)


def _expanded(text: str, info: ValidationInfo) -> str:
    seen = reading(info, SiteReading)
    return expand(one_line(text), seen.environ) if seen else one_line(text)


def _path(text: str, info: ValidationInfo) -> Path:
    seen = reading(info, SiteReading)
    # What the environment says comes first: the profile's own value may need variables that aren't set.
    override = seen.environ.get(_OVERRIDES.get(info.field_name or "", "")) if seen else None
    path = Path(override or not_blank(_expanded(text, info)))
    return seen.root / path if seen else path


def _existing_file(text: str, info: ValidationInfo) -> Path:
    path = _path(text, info)
    if not is_file(path):
        raise Mistake(f"there is no file {quote(str(path))}")
    return path


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that isn't ours
        return False


def _mount(text: str, info: ValidationInfo) -> Mount:
    seen = reading(info, SiteReading)
    expanded = _expanded(text, info)
    return parse_mount(f"{seen.root}/{expanded}" if seen and not expanded.startswith("/") else expanded)


def _url(text: str, info: ValidationInfo) -> str:
    return url(_expanded(text, info))


def _own_name(text: str, info: ValidationInfo) -> str:
    seen = reading(info, SiteReading)
    if seen and text != seen.name:
        raise Mistake(
            f"the name {quote(text)} differs from the file's", f"write {seen.name}, or rename the file"
        )
    return text


def _distribution(text: str) -> str:
    if text not in ("debian", "ubuntu"):
        raise Mistake(f"{quote(text)} is not known here", did_you_mean(text, ["debian", "ubuntu"]))
    return text


def _start_mount(text: str) -> str:
    if not re.fullmatch(r"[^\s:]+:/[^\s:]*(:[^\s:]+)?", text):
        raise Mistake(f"{quote(text)} is not a mount", "write SOURCE:/TARGET")
    return text


def _start_variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(=[^\s'\"]*)?", text):
        raise Mistake(f"{quote(text)} is not a variable", "write NAME, to pass the caller's, or NAME=VALUE")
    return text


def _driver_version(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{2,3}(\.\d{1,3}){1,2}", text):
        raise Mistake(
            f"{quote(text)} is not a driver's version", "write it in quotes as nvidia-smi does: '550.54.15'"
        )
    return text


SitePath = Annotated[Path, Parsed(_path, Path)]
ExistingFile = Annotated[Path, Parsed(_existing_file, Path)]
SiteMount = Annotated[Mount, Parsed(_mount, Mount)]
SiteUrl = Annotated[str, Parsed(_url, str)]
Expanded = Annotated[str, Parsed(_expanded, str)]
OwnName = Annotated[str, AfterValidator(_own_name)]
Distribution = Annotated[str, AfterValidator(_distribution)]
StartMount = Annotated[str, AfterValidator(_start_mount)]
StartVariable = Annotated[str, AfterValidator(_start_variable)]
DriverVersion = Annotated[str, AfterValidator(_driver_version)]
