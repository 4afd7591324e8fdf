"""enroot's image format: the files in /etc that make a root file system an image.

`/etc/environment`, `/etc/rc`, `/etc/rc.local` and `/etc/fstab`, made from an OCI config byte for
byte as enroot 4's import makes them, and read as enroot's start reads them. Owns nothing else of
the tree, and knows no registry.
"""

from __future__ import annotations

import json
import re
import stat
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln import files

RC_LOCAL = """\
# This file is sourced by /etc/rc when the container starts.
# It can be used to manipulate the entrypoint or the command of the container.
"""
_RC = """\
mkdir -p "{folder}" 2> /dev/null
cd "{folder}" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec {entrypoint} "$@"
else
    exec {entrypoint} {command}
fi
"""
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_QUOTED = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=[\"'](.*)[\"']\s*$")
# What bash writes for these between $' and '; other control characters are octal.
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v", "\f": "\\f", "\r": "\\r"}
_ESCAPES |= {"\x1b": "\\E", "\\": "\\\\", "'": "\\'"}


def environment(config: Mapping[str, Any]) -> str:
    """`/etc/environment`: the config's variables, one a line, unquoted."""
    return _lines(_texts(_section(config).get("Env")))


def rc(config: Mapping[str, Any], uri: str) -> str:
    """`/etc/rc`: what runs at every start. `uri` is where the image is from."""
    entrypoint, command = _words(config, "Entrypoint"), _words(config, "Cmd")
    if not entrypoint and not command:
        command = ["/bin/sh"]
    script = _RC.format(
        folder=workdir(config),
        entrypoint=" ".join(map(bash_quoted, entrypoint)),
        command=" ".join(map(bash_quoted, command)),
    )
    return f"# enroot-provenance: {uri}\n{_lines(_labels(config))}\n{script}"


def fstab(config: Mapping[str, Any]) -> str:
    """`/etc/fstab`: the config's volumes, each a writable mount of the tree's own folder."""
    volumes = _section(config).get("Volumes")
    names = sorted(map(_text, volumes)) if isinstance(volumes, Mapping) else []
    options = "none x-create=dir,bind,rw,nosuid,nodev"
    return _lines([f"${{ENROOT_ROOTFS}}{name} {name} {options}" for name in names])


def workdir(config: Mapping[str, Any]) -> str:
    """Where the image's command starts."""
    first = "".join(_texts([_section(config).get("WorkingDir")])).partition("\n")[0]
    return first.strip(" \t") or "/"


def configure(rootfs: Path, config: Mapping[str, Any], uri: str) -> None:
    """Write the four files into a tree, and make the working directory, as enroot does on import.

    The tree is a foreign one: links in it are followed inside it, and a link in place of one of the
    files is replaced.
    """
    etc = _folder(rootfs, "/etc")
    texts = {"environment": environment(config), "rc": rc(config, uri), "fstab": fstab(config)}
    for name, text in {**texts, "rc.local": RC_LOCAL}.items():
        files.write_atomic(etc / name, text.encode("utf-8", "surrogateescape"))
    _folder(rootfs, workdir(config))


def restate_origin(rootfs: Path, uri: str) -> None:
    """Name `uri` as where the image comes from: not a mirror of it, nor another tag of the same digest."""
    text = files.read_inside(rootfs, "/etc/rc") or b""
    first, newline, rest = text.partition(b"\n")
    wanted = f"# enroot-provenance: {uri}".encode()
    if first.startswith(b"# enroot-provenance: ") and first != wanted:
        path = rootfs.joinpath(*files.resolve_inside(rootfs, "/etc/rc").parts[1:])
        files.write_atomic(path, wanted + newline + rest, stat.S_IMODE(path.stat().st_mode))


def parse_environment(text: str, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a start sets from `/etc/environment`: the last value of a name counts.

    `${NAME}` is replaced from `variables` (for enroot, the environment it was started in), by
    nothing where that lacks it. Lines that are no assignments, and enroot's own settings, are left out.
    """
    found: dict[str, str] = {}
    for raw in text.split("\n"):
        line = _REFERENCE.sub(lambda match: (variables or {}).get(match[1], ""), raw).lstrip()
        if not _ASSIGNMENT.match(line) or line.startswith("ENROOT_"):
            continue
        # Twice, for enroot formats its file before and after the hooks.
        name, _, value = _QUOTED.sub(r"\1=\2", _QUOTED.sub(r"\1=\2", line)).partition("=")
        found[name] = value
    return found


def bash_quoted(text: str) -> str:
    """What bash's `${text@Q}` gives in a UTF-8 locale."""
    if text == "'":
        return "\\'"
    if not any(_unprintable(c) for c in text):
        return "'" + text.replace("'", "'\\''") + "'"
    return "$'" + "".join(_ESCAPES.get(c) or (_octal(c) if _unprintable(c) else c) for c in text) + "'"


def _unprintable(character: str) -> bool:
    """As iswprint(3) has it: controls, line separators, what Unicode has not assigned."""
    return unicodedata.category(character) in ("Cc", "Cn", "Cs", "Zl", "Zp")


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def _words(config: Mapping[str, Any], key: str) -> list[str]:
    """enroot passes these through lines of text, so a newline within a word makes it two."""
    return [line for text in _texts(_section(config).get(key)) for line in text.split("\n")]


def _labels(config: Mapping[str, Any]) -> list[str]:
    labels = _section(config).get("Labels")
    items = labels.items() if isinstance(labels, Mapping) else ()
    return [f"# {_text(key)} {_text(value).replace(chr(10), ' ')}" for key, value in items]


def _section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    section = config.get("config")
    return section if isinstance(section, Mapping) else {}


def _texts(values: object) -> list[str]:
    """A list's values as jq prints them; null and false are nothing."""
    found = values if isinstance(values, list) else []
    return [_text(value) for value in found if value is not None and value is not False]


def _text(value: object) -> str:
    """A string as it is (halves of surrogate pairs replaced, as jq does), anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")


def _lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _folder(rootfs: Path, path: str) -> Path:
    """A folder in the tree, made if missing."""
    here = rootfs.joinpath(*files.resolve_inside(rootfs, path).parts[1:])
    files.make_folder(here)
    return here
