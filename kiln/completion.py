"""The scripts that have a shell complete commands, options, image names and versions.

Owns the scripts, and which kind of value a command takes where. They carry a table of all commands, made
from the tasks when they are printed, and ask `kiln.complete` for the values, which reads no command.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from invoke.collection import Collection

from kiln import complete
from kiln.errors import UsageError

SHELLS = ("bash", "fish", "zsh")
_BY_NAME = {
    "site": complete.SITE,
    "runtime": complete.RUNTIME,
    "channel": complete.CHANNEL,
    "to": complete.FOLDER,
    "images": complete.FOLDER,
    "only": complete.FOLDER,
    "use": complete.REFERENCE,
    "before": complete.REFERENCE,
    "after": complete.REFERENCE,
}
# What NAME is to a command; to any other a reference. Their helps say it too, but Invoke takes those away.
_NAMES = {
    **dict.fromkeys(("plan", "build", "lock", "fetch", "gc"), complete.MANIFEST),
    **dict.fromkeys(("promote", "deprecate", "revoke"), complete.VERSION),
    **dict.fromkeys(("history", "rollback"), complete.IMAGE),
}


def table(commands: Collection) -> dict[str, Any]:
    """For each command the kinds of its values, in order, and of its options; a value may be given as one."""
    made = {}
    for name in commands.task_names:
        arguments = commands[name].get_arguments()
        made[name] = {
            "values": [_kind(name, each) for each in arguments if each.positional],
            "options": {f"--{_dashed(each)}": _kind(name, each) for each in arguments},
        }
    return made


def _dashed(argument: Any) -> str:
    return str(argument.name).rstrip("_").replace("_", "-")


def _kind(command_name: str, argument: Any) -> str:
    if argument.kind is bool:
        return complete.FLAG
    if argument.name == "name":
        return _NAMES.get(command_name, complete.REFERENCE)
    return _BY_NAME.get(argument.name, complete.TEXT)


def script(shell: str, program: str, commands: Collection) -> str:
    """What completes `program` (kiln, or invoke) in `shell`. Raises `UsageError` for an unknown one."""
    if shell not in SHELLS:
        raise UsageError(f"there is no completion for '{shell}'", f"one of: {', '.join(SHELLS)}")
    text = (Path(__file__).parent / "scripts" / f"completion.{shell}").read_text()
    data = json.dumps(table(commands), separators=(",", ":"))
    values = {
        "@PYTHON@": shlex.quote(sys.executable),
        "@TABLE@": shlex.quote(data),
        "@FUNCTION@": f"_kiln_complete_{program}",
        "@NAME@": program,
        "@PROGRAMS@": "invoke inv" if program == "invoke" else program,
    }
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text
