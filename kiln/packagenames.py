"""What may stand in a list of packages: for apt a Debian package, for pip and uv a PEP 508 requirement.

Owns the refusal of everything else, with words for what to write instead: nothing from a manifest may
be read as an option of apt or pip, or as shell. Must not know layers.
"""

from __future__ import annotations

import re
from typing import Annotated

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import AfterValidator

from kiln.document import Mistake
from kiln.fields import one_line, refuse_login, split_url
from kiln.problems import quote

_DEBIAN_PACKAGE = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](:[a-z0-9]+)?(=[0-9]([A-Za-z0-9.+:~-]*[A-Za-z0-9+~])?)?"
)
_LONGEST_HINT = 60  # characters of an address that is repeated in a hint


def debian_package(text: str) -> str:
    """A package for apt: name, name:arch, name=version."""
    if _DEBIAN_PACKAGE.fullmatch(text):
        return text
    hint = "write NAME, NAME:ARCH or NAME=VERSION"
    if text.startswith("-"):
        hint = "options are not taken here; a layer's keys are packages, upgrade, recommends and timeout"
    elif text.endswith("-"):
        hint = "apt would remove a package written with a '-' behind it"
    elif _DEBIAN_PACKAGE.fullmatch(text.lower()):
        hint = f"Debian's names are in lower case: {text.lower()}"
    elif all(_DEBIAN_PACKAGE.fullmatch(word) for word in text.split()) and text.split():
        hint = f"write each package as an item of its own: [{', '.join(text.split())}]"
    elif re.search(r"==|[<>~!]=|[<>]", text):
        hint = "apt takes one exact version, with one '=': NAME=VERSION"
    raise Mistake(f"{quote(text)} is not a package name", hint)


_OPTION_HINTS = {
    "-r": "write the file under 'requirements:'",
    "--requirement": "write the file under 'requirements:'",
    "-i": "write the address under 'index_url:'",
    "--index-url": "write the address under 'index_url:'",
    "--extra-index-url": "write the address under 'extra_index_urls:'",
    "-U": "write a version: NAME>=VERSION",
    "--upgrade": "write a version: NAME>=VERSION",
}


def requirement(text: str) -> str:
    """A Python requirement (PEP 508): a name, extras, versions, markers, or NAME @ URL."""
    one_line(text)
    if text.startswith("-"):
        option = re.split(r"[\s=]", text)[0]
        raise Mistake(
            f"{quote(text)} is an option, not a package",
            _OPTION_HINTS.get(option, "options are not taken here"),
        )
    try:
        parsed = Requirement(text)
    except InvalidRequirement:
        raise Mistake(f"{quote(text)} is not a requirement", _requirement_hint(text)) from None
    if parsed.url:
        _check_direct_url(parsed.name, parsed.url)
    # pip expands ${NAME} in some places; what is installed must not depend on the caller's variables.
    if re.search(r"[$`\\]", text):
        raise Mistake(f"{quote(text)} is not a requirement", "variables and shell are not taken here")
    return text


def _requirement_hint(text: str) -> str:
    if re.match(r"(git\+)?(https?|ssh)://", text):
        return f"give it a name: NAME @ {text}" if len(text) < _LONGEST_HINT else "give it a name: NAME @ URL"
    if text.startswith(("/", ".")) or text.endswith((".whl", ".tar.gz")):
        return "a file is brought in by a copy layer, and installed by a run layer"
    if re.fullmatch(r"[\w.-]+=[\w.]+", text):
        return f"an exact version has two '=': {text.replace('=', '==')}"
    if all(re.fullmatch(r"[A-Za-z0-9][\w.-]*", word) for word in text.split()) and text.split():
        return f"write each package as an item of its own: [{', '.join(text.split())}]"
    return "write NAME, NAME[EXTRA], NAME>=VERSION or NAME @ https://…"


def _check_direct_url(name: str, address: str) -> None:
    parts = split_url(address)
    if parts is None or parts.scheme not in ("http", "https", "git+http", "git+https"):
        raise Mistake(
            f"{quote(address)} can't be fetched", f"write {name} @ https://… or {name} @ git+https://…"
        )
    refuse_login(parts)


DebianPackage = Annotated[str, AfterValidator(debian_package)]
PythonRequirement = Annotated[str, AfterValidator(requirement)]
