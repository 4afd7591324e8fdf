"""Kinds of values that manifests and site profiles share: paths in an image, mounts, variables, URLs, times.

Owns what is allowed in each, and the words for what isn't. Must not know which key they stand at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, WithJsonSchema

from kiln.document import Mistake, Parsed, wanted
from kiln.problems import quote
from kiln.yamltree import Plain

LONGEST_TIME = 7 * 24 * 3600  # seconds

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def one_line(text: str) -> str:
    if "\n" in text:
        raise Mistake("this text must be on one line", "write it without a line break")
    return text


def not_blank(text: str) -> str:
    if not text.strip():
        raise Mistake("this text is empty", "write something, or remove it")
    return text


def image_path(text: str) -> str:
    """A path in the image: absolute, without '..'."""
    one_line(text)
    if not text.startswith("/"):
        raise Mistake(f"{quote(text)} is not an absolute path", f"write {quote('/' + text.lstrip('./'))}?")
    if ".." in text.split("/"):
        raise Mistake(f"{quote(text)} has '..' in it", "write where it leads")
    return text


def variable_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise Mistake(f"{quote(text)} can't be the name of a variable", "use letters, digits and _")
    return text


def variable_value(text: str) -> str:
    if "\n" in text:
        raise Mistake("a variable's value can't have a line break", "/etc/environment has one line for each")
    return text


def url(text: str) -> str:
    """An address with http:// or https:// and a host."""
    parts = split_url(text)
    if parts is None or parts.scheme not in ("http", "https"):
        raise Mistake(f"{quote(text)} is not an address", "write http://HOST/… or https://HOST/…")
    return text


def public_url(text: str) -> str:
    """An address without a login in it: what stands in a manifest is read by everybody."""
    parts = split_url(url(text))
    if parts:
        refuse_login(parts)
    return text


def refuse_login(parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise Mistake(
            "this address has a login in it",
            "take it out: logins belong in the site profile or the caller's environment",
        )


def split_url(text: str) -> SplitResult | None:
    """The parts of an address; None where it has no host, or can't be one."""
    try:
        parts = urlsplit(text)
        usable = parts.hostname and (parts.port or True)
    except ValueError:
        return None
    return parts if usable and not re.search(r"[\s\"'`<>\\^{|}$]", text) else None


def seconds(value: object) -> object:
    """A time in seconds, from 90, "90s", "30m" or "2h"."""
    if isinstance(value, Plain) and value.kind == "int" and value.value is not None:
        value = value.value
    if isinstance(value, str) and (match := re.fullmatch(r"([1-9][0-9]{0,6})([smh]?)", value)):
        value = int(match[1]) * _SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int):
        if isinstance(value, Plain) and value.kind == "null":
            raise wanted("a time", value)
        text = value.raw if isinstance(value, Plain) else quote(value) if isinstance(value, str) else "this"
        raise Mistake(f"{text} is not a time", "write seconds, or 90s, 30m, 2h")
    if not 1 <= value <= LONGEST_TIME:
        raise Mistake(f"the time must be from 1 to {LONGEST_TIME} seconds")
    return value


def age(text: str, _: ValidationInfo) -> int:
    """A time in seconds, from text in hours or days: `12h`, `30d`."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", text)
    if not match:
        raise Mistake(f"{quote(text)} is not an age", "write hours or days: 12h, 30d")
    return int(match[1]) * {"h": 3600, "d": 86_400}[match[2]]


def size(text: str, _: ValidationInfo) -> int:
    """Bytes, from text in powers of ten: `500MB`, `100GB`, `2TB`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5}) ?([MGT]B)", text)
    if not match:
        raise Mistake(f"{quote(text)} is not a size", "write one as 500MB, 100GB or 2TB")
    return int(match[1]) * {"MB": 10**6, "GB": 10**9, "TB": 10**12}[match[2]]


def refuse_newer(data: object, newest: int) -> object:
    """The data of a file; Mistake when its `format` is above `newest`.

    To be asked before anything else: a newer format's keys would only look like mistakes.
    """
    found = data.get("format") if isinstance(data, dict) else None
    if isinstance(found, Plain) and found.kind == "int" and found.value != newest:
        raise Mistake(
            f"format {found.raw} is for a newer Kiln; this one reads {newest}", "update Kiln", found
        )
    return data


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host that a container sees at `target`."""

    source: Path
    target: str
    read_only: bool = True


def parse_mount(text: str, _info: ValidationInfo | None = None) -> Mount:
    """A Mount from SRC:DST or SRC:DST:ro or SRC:DST:rw; raises Mistake."""
    parts = one_line(text).split(":")
    mode = parts[2] if len(parts) == 3 else "ro"
    if len(parts) not in (2, 3) or mode not in ("ro", "rw") or not parts[0]:
        raise Mistake(
            f"{quote(text)} is not a mount", "write SOURCE:TARGET, SOURCE:TARGET:ro or SOURCE:TARGET:rw"
        )
    if not parts[0].startswith("/"):
        raise Mistake(
            f"{quote(parts[0])} is not an absolute path", "name the host's file or folder from / on"
        )
    return Mount(Path(parts[0]), image_path(parts[1]), mode == "ro")


_TIME_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": LONGEST_TIME},
        {"type": "string", "pattern": "^[1-9][0-9]*[smh]?$"},
    ]
}

Line = Annotated[str, AfterValidator(one_line)]
ImagePath = Annotated[str, AfterValidator(image_path)]
VariableName = Annotated[str, AfterValidator(variable_name)]
VariableValue = Annotated[str, AfterValidator(variable_value)]
PublicUrl = Annotated[str, AfterValidator(public_url)]
Seconds = Annotated[int, BeforeValidator(seconds), WithJsonSchema(_TIME_SCHEMA)]
Age = Annotated[int, Parsed(age, int, {"pattern": "^[1-9][0-9]{0,4}[hd]$"})]
Size = Annotated[int, Parsed(size, int, {"pattern": "^[1-9][0-9]{0,5} ?[MGT]B$"})]
HostMount = Annotated[Mount, Parsed(parse_mount, Mount, {"pattern": "^[^:]+:/[^:]*(:r[ow])?$"})]
