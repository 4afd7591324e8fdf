"""Changing enroot's image format: what a manifest declares, over what its base brought.

Owns the edits of the text of /etc/environment and /etc/rc; what these files are is `kiln.imageformat`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from kiln import imageformat
from kiln.errors import ManifestError

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand(variables: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    """A manifest's variables with `${NAME}` replaced by what the image, or an earlier one of them, sets.

    enroot would replace what is left by variables of the user's host, so an unknown name is an error.
    Raises `ManifestError`.
    """
    known, made = dict(image), {}
    for name, value in variables.items():

        def look_up(match: re.Match[str], name: str = name) -> str:
            if match[1] not in known:
                raise ManifestError(
                    f"env: {name} refers to ${{{match[1]}}}, which neither the base nor an earlier line sets",
                    "write its value out, or set it above",
                )
            return known[match[1]]

        made[name] = known[name] = REFERENCE.sub(look_up, value)
    return made


def with_variables(text: str, variables: Mapping[str, str]) -> str:
    """/etc/environment with `variables` in place of lines for the same names, new ones at its end."""
    kept = [line for line in text.splitlines() if line.split("=", 1)[0].strip() not in variables]
    return "".join(f"{line}\n" for line in (*kept, *(f"{name}={value}" for name, value in variables.items())))


def with_start(
    text: str, workdir: str | None, entrypoint: Sequence[str] | None, command: Sequence[str] | None
) -> str | None:
    """/etc/rc with other values for those that aren't None; None where the file isn't as enroot writes it.

    As with Docker, another entrypoint takes the old command away.
    """
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    if workdir is not None and entrypoint is not None and command is not None:
        return f"{head}\n{_body(workdir, entrypoint, command)}"
    found = _parse(text[len(head) :].lstrip("\n")) if text.strip() else ("/", (), ())
    if found is None:
        return None
    old_command = found[2] if entrypoint is None else ()
    return f"{head}\n" + _body(
        found[0] if workdir is None else workdir,
        found[1] if entrypoint is None else entrypoint,
        old_command if command is None else command,
    )


def _body(workdir: str, entrypoint: Sequence[str], command: Sequence[str]) -> str:
    config = {"WorkingDir": workdir, "Entrypoint": list(entrypoint), "Cmd": list(command)}
    return imageformat.rc({"config": config}, "").partition("\n\n")[2]


def _parse(body: str) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """Workdir, entrypoint and command of a body that `_body` would write again to the letter."""
    place = re.search(r'^cd "(.+)" && unset OLDPWD', body, re.MULTILINE)
    calls = re.findall(r"^    exec (.*)$", body, re.MULTILINE)
    if place is None or len(calls) != 2:
        return None
    try:
        entrypoint, whole = shlex.split(calls[0])[:-1], shlex.split(calls[1])
    except ValueError:
        return None
    found = (place[1], tuple(entrypoint), tuple(whole[len(entrypoint) :]))
    return found if _body(*found) == body else None
