"""What enroot says, and what that means for a person.

Owns the reading of enroot's output: versions, whose failure it was, and the errors made from it. Runs
nothing. The forms of the messages are those of enroot 4.1.2.
"""

from __future__ import annotations

import re
from pathlib import Path

from kiln.errors import BaseError, EnvironmentMissing, KilnError, SpaceError
from kiln.run import Result

FULL = "No space left on device"
OWN = re.compile(r"\[ERROR\] |enroot-[a-z0-9]+: |Usage: enroot ")
SHOWN = 12
NOISE = ("[INFO] ", "Parallel ", "Creating ")


def version(text: str) -> tuple[int, ...]:
    """The numbers at the start of `text`; () where there are none."""
    match = re.match(r"\s*(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def own(output: str) -> list[str]:
    """The lines that are in enroot's own form."""
    return [line for line in output.splitlines() if OWN.match(line)]


def words(result: Result) -> str:
    """The one line that says most: enroot's last error, else the last line."""
    mine = own(result.output)
    if mine and mine[0].startswith("Usage: "):
        return "it does not understand the command line; its version may be unknown to Kiln"
    said = [line for line in result.output.splitlines() if line.strip() and not line.startswith(NOISE)]
    last = (mine or said or [result.outcome()])[-1]
    return re.sub(r"^\[(ERROR|WARN)\] ", "", last)


def failure(what: str, result: Result, kind: type[KilnError]) -> KilnError:
    """An error of `kind`, or a nearer one, for a call of enroot that failed."""
    details = [f"| {line}" for line in result.tail(SHOWN)]
    if FULL in result.output:
        return SpaceError(f"{what}: the disk is full", "free some and run again", details)
    if missing := re.search(r"Command not found: (.+)", result.output):
        return EnvironmentMissing(f"{what}: enroot needs {missing[1]}", "run: invoke doctor", details)
    return kind(f"{what}: {words(result)}", "run: invoke doctor", details)


def refused_user(output: str) -> str:
    """The user whose login a registry refused; "" when that wasn't it, or there was no login."""
    asked = re.search(r"\[INFO\] Authenticating with user: (.+)", output)
    if not asked or asked[1] == "<anonymous>" or "[INFO] Downloading" in output:
        return ""
    denied = re.search(r"returned error code: 40[13]|returned error: 40[13]", output)
    return asked[1] if denied or "[INFO] Authentication succeeded" not in output else ""


def passing(output: str) -> bool:
    """Whether trying again may help: a token that ran out while layers came, a line that was cut."""
    if "[INFO] Downloading" in output and re.search(r"returned error: 401", output):
        return True
    return bool(re.search(r"returned error(?: code)?: (?:429|5\d\d)|curl: \((?:18|28|52|55|56|92)\)", output))


def check_architecture(uri: str, result: Result) -> None:
    """Raise `BaseError` where enroot only warned."""
    if match := re.search(r"Image architecture doesn't match the requested one: (.+)", result.output):
        raise BaseError(f"{uri} is for another machine: {match[1]}", "name an image for this one")


def pull_failure(uri: str, result: Result, credentials: Path) -> KilnError:
    """What to tell about an import that stays failed."""
    output, host = result.output, re.sub(r"^docker://|#.*$", "", uri)
    if FULL in output or "Command not found" in output:
        return failure(f"enroot could not import {uri}", result, BaseError)
    kind: type[KilnError] = BaseError
    if "error code: 404" in output:
        message = (
            f"{host} has no {uri}, or only in OCI's own form, for which enroot's first request doesn't ask"
        )
        hint = "look at the base's name; for an OCI-only image set 'unpack: kiln' in the site profile"
    elif "Cannot hard link to" in output:
        message = f"{uri} has hard links to files of lower layers, and enroot unpacks each layer by itself"
        hint = "set 'unpack: kiln' in the site profile"
    elif wrong := re.search(r"Checksum mismatch: (\w+)", output):
        message = f"{host} sent other bytes than sha256:{wrong[1]} stands for"
        hint = "run again; if it stays so, the registry or a proxy damages what it passes on"
    elif tool := re.search(r"(\S+): failed to set capabilities", output):
        kind, message, hint = (
            EnvironmentMissing,
            f"{tool[1]} lacks its file capabilities",
            "run: invoke doctor",
        )
    elif code := re.search(r"curl: \((?:6|7|28|35|60)\) (.+)", output):
        message, hint = f"cannot reach {host}: {code[1]}", "look at the site's proxies and ca_bundle"
    elif re.search(r"error(?: code)?: 40[13]", output) or _silent_after_login(output):
        message = f"{host} wants a login for {uri}, or refuses the one it got"
        name = re.sub(r":\d+$", "", host)
        hint = f"add a line to {credentials}: machine {name} login USER password KEY"
    else:
        return failure(f"enroot could not import {uri}", result, BaseError)
    return kind(message, hint, [f"| {line}" for line in result.tail(SHOWN)])


def _silent_after_login(output: str) -> bool:
    lines = output.splitlines()
    return bool(lines) and lines[-1].startswith(("[INFO] Authenticating", "[INFO] Using credentials"))
