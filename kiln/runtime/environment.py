"""The variables that a process in a container sees: the same in both runtimes.

Owns what wins over what, and the text with which a shell takes variables over. Runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from kiln import files, imageformat
from kiln.runtime.contract import Command

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A shell that is asked to set one of its own read-only variables gives up.
SHELLS_OWN = ("BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID")


def inside(tree: Path, command: Command, environ: Mapping[str, str]) -> dict[str, str]:
    """What the image sets, over plain defaults, under what the command asks for.

    `environ` is the caller's environment, of which nothing but TERM is passed on.
    """
    text = files.read_inside(tree, "/etc/environment") or b""
    image = imageformat.parse_environment(text.decode("utf-8", "surrogateescape"))
    user = "root" if command.root else "user"
    defaults = {
        "PATH": DEFAULT_PATH,
        "HOME": "/root" if command.root else "/tmp",  # the container's own
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "TERM": environ.get("TERM", "dumb"),
    }
    return {**defaults, **image, **command.env}


def shell_text(variables: Mapping[str, str]) -> bytes:
    """Lines of a POSIX shell that set and export `variables`, whatever their values hold."""
    lines = [
        f"export {name}={shlex.quote(value)}\n"
        for name, value in variables.items()
        if NAME.fullmatch(name) and name not in SHELLS_OWN
    ]
    return "".join(lines).encode("utf-8", "surrogateescape")
