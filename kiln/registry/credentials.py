"""Logins from enroot's own credentials file, `$ENROOT_CONFIG_PATH/.credentials`.

One entry a line: `machine HOST login USER password PASSWORD`. Owns reading and guarding the file.
A password leaves here only as a `Secret`, which prints as `***`. Runs nothing: enroot hands a
password that begins with `$` to a shell; of that, only a variable's name is understood here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kiln.errors import BaseError

# NGC's registry sends logins to either host, and both take the same key.
NGC_HOSTS = ("nvcr.io", "authn.nvidia.com")

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


class Secret:
    """A text that doesn't show itself."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True)
class Login:
    """One entry; `place` is the file and line, for messages."""

    user: str
    password: Secret
    place: str


@dataclass(frozen=True)
class Credentials:
    """The entries of one file by host."""

    path: Path
    logins: Mapping[str, Login] = field(default_factory=dict)

    def find(self, *hosts: str) -> Login | None:
        """The entry of the first of `hosts` that has one, with its port or without."""
        names = [name for host in hosts for name in (host, _without_port(host))]
        if any(name in NGC_HOSTS for name in names):
            names.extend(NGC_HOSTS)
        return next((self.logins[name] for name in names if name in self.logins), None)


def load(path: Path, environ: Mapping[str, str]) -> Credentials:
    """Read the file; a missing one has no entries. `environ` gives the variables that passwords name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Credentials(path)
    except OSError as error:
        raise BaseError(f"cannot read {path}: {error.strerror}", f"look at: ls -l {path}") from error
    with os.fdopen(descriptor, "r", encoding="utf-8", errors="surrogateescape") as stream:
        _guard(path, os.fstat(stream.fileno()))
        lines = stream.read().splitlines()
    logins: dict[str, Login] = {}
    for number, line in enumerate(lines, 1):
        entry = _entry(line, f"{path}:{number}", environ)
        if entry:
            # The first entry of a host counts, as in enroot.
            logins.setdefault(*entry)
    return Credentials(path, logins)


def _guard(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BaseError(
            f"{path} is not a regular file", f"move it away; then: install -m 600 /dev/null {path}"
        )
    if status.st_uid != os.geteuid():
        raise BaseError(
            f"{path} belongs to uid {status.st_uid}, not to you",
            f"make it your own: cp {path} {path}.mine && chmod 600 {path}.mine && mv -f {path}.mine {path}",
        )
    if status.st_mode & 0o177:
        mode = f"{status.st_mode & 0o777:04o}"
        raise BaseError(f"{path} is open to others (mode {mode})", f"type: chmod 600 {path}")


def _entry(line: str, place: str, environ: Mapping[str, str]) -> tuple[str, Login] | None:
    words = [_unquoted(match) for match in _TOKEN.finditer(line)]
    if not words or words[0].startswith("#") or words[0] == "default":
        return None
    if len(words) < 6 or (words[0], words[2], words[4]) != ("machine", "login", "password"):
        hint = "write, on one line: machine HOST login USER password PASSWORD"
        raise BaseError(f"{place}: not an entry", hint)
    return words[1], Login(words[3], Secret(_password(words[5:], place, environ)), place)


def _unquoted(match: re.Match[str]) -> str:
    quoted, bare = match.groups()
    return bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)


def _password(words: list[str], place: str, environ: Mapping[str, str]) -> str:
    if not words[0].startswith("$"):
        return words[0]
    match = _VARIABLE.fullmatch(words[0])
    if not match or len(words) > 1:
        raise BaseError(
            f"{place}: the password begins with $ and is no mere variable's name: Kiln runs no shell on it",
            "write the password itself, or $NAME and set that variable (enroot reads that, too)",
        )
    name = match[1] or match[2]
    if not environ.get(name):
        raise BaseError(f"{place}: the password is ${name}, which is not set", f"type: export {name}=…")
    return environ[name]


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
