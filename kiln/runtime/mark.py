"""Whether a command in a container began: the difference between its failure and the runtime's.

A runtime has the container's shell write a random word on stderr just before it becomes the command.
Owns that word, its way out of what people see, and the script that says it. Without the word the
command never ran, whatever the exit code; so it is for any command, in any image that has a shell.
"""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

from kiln.run import Result
from kiln.runtime.contract import Output

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "rc"


class Listener:
    """Passes a command's lines on to `output`, save the word, which it waits for."""

    def __init__(self, output: Output) -> None:
        self._output, self.word = output, f"kiln-{secrets.token_hex(8)}"
        self.heard = False

    def __call__(self, line: str) -> None:
        if line == self.word:
            self.heard = True
            return
        self._output.say(line)

    def without(self, result: Result) -> Result:
        """The result less the word, and with the exit code that a shell would give."""
        lines = [line for line in result.output.splitlines() if line != self.word]
        # Where Kiln itself sent the signal, its name is kept.
        ended = result.returncode >= 0 or result.timed_out
        code = result.returncode if ended else 128 - result.returncode
        return dataclasses.replace(result, returncode=code, output="\n".join(lines))


def script(word: str, variables: bytes = b"") -> bytes:
    """The text of a POSIX shell that says `word`, sets `variables`, and becomes its arguments."""
    said = f"echo {word} >&2\n".encode() if word else b""
    return said + variables + SCRIPT.read_bytes()
