"""What may stand at the end of a command line: the quick half of shell completion.

    python -m kiln.complete TABLE PROGRAM LINE      TABLE as `kiln.completion` makes it; a candidate a line

Exits with 1 where a file's name is wanted, or nothing is known: the shell then does what it does without us.
Owns which values there are. Reads no command and no manifest: a key was pressed, and somebody waits.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kiln.checkout import find_root
from kiln.errors import KilnError
from kiln.run import host_environment, run
from kiln.store import FIRST_CHANNELS, Store

# Kinds of values.
REFERENCE, VERSION, IMAGE, MANIFEST = "reference", "version", "image", "manifest"
SITE, RUNTIME, CHANNEL, FOLDER, TEXT, FLAG = "site", "runtime", "channel", "folder", "text", "flag"
INVOKE_SECONDS = 10.0


class Line:
    """A command line up to the cursor: `words` after the program, the last of them unfinished, maybe ''."""

    def __init__(self, table: Mapping[str, Any], text: str, environ: Mapping[str, str]) -> None:
        words = shlex.split(text)[1:] + ([""] if text[-1:].isspace() else [])
        self.word = words[-1] if words else ""
        self._before, self._environ = words[:-1], environ
        self.command = self._before[0] if self._before else ""
        self._options: Mapping[str, str] = table.get(self.command, {}).get("options", {})
        self._values: Sequence[str] = table.get(self.command, {}).get("values", ())
        self._commands = sorted(table)
        self.root = find_root(environ)

    def candidates(self) -> list[str] | None:
        """All that the last word may become; None for a file."""
        if not self.command:
            return [name for name in self._commands if name.startswith(self.word)]
        option, equals, value = self.word.partition("=")
        if equals and option in self._options:
            found = self._of(self._options[option], value)
            return None if found is None else [f"{option}={each}" for each in found]
        given, taken = self._given()
        if taken:
            return self._of(self._options[taken], self.word)
        if self.word.startswith("-"):
            return [name for name in self._options if name.startswith(self.word)]
        return self._of(self._values[len(given)], self.word) if len(given) < len(self._values) else []

    def _given(self) -> tuple[list[str], str]:
        """The values before the last word, and the option that it belongs to, '' for none."""
        given, taken = [], ""
        for word in self._before[1:]:
            if taken:
                taken = ""
            elif self._options.get(word, FLAG) != FLAG:
                taken = word
            elif not word.startswith("-"):
                given.append(word)
        return given, taken

    def _option(self, name: str) -> str:
        words = [*self._before, ""]
        following = (words[at + 1] for at, word in enumerate(words[:-1]) if word == name)
        equal = (word.partition("=")[2] for word in words if word.startswith(f"{name}="))
        return next(following, "") or next(equal, "")

    def _of(self, kind: str, word: str) -> list[str] | None:
        if kind == FOLDER:
            return None
        # A comma list of manifests goes on after its last comma.
        head = word[: word.rfind(",") + 1] if kind == MANIFEST else ""
        return sorted(f"{head}{each}" for each in self._known(kind, word) if f"{head}{each}".startswith(word))

    def _known(self, kind: str, word: str) -> Iterator[str]:
        if kind in (MANIFEST, SITE):
            folder = self.root / ("manifests" if kind == MANIFEST else "sites")
            yield from (path.stem for path in folder.glob("*.yaml"))
        elif kind == RUNTIME:
            yield from ("embedded", "enroot")
        elif kind == CHANNEL:
            name = next(iter(self._given()[0]), "").partition(":")[0]
            yield from {*FIRST_CHANNELS, *self._store.channels(name)}
        elif kind in (REFERENCE, VERSION, IMAGE):
            yield from self._images(kind, word)

    def _images(self, kind: str, word: str) -> Iterator[str]:
        """Names; of the one that is meant its channels and versions as well, where they may be named."""
        name, colon, _ = word.partition(":")
        names = [name] if colon else [each for each in self._store.names() if each.startswith(name)]
        if not colon and not (kind == VERSION and len(names) == 1):
            yield from names
        if kind != IMAGE and len(names) == 1:
            known = (*self._store.channels(names[0]), *self._store.versions(names[0]))
            yield from (f"{names[0]}:{each}" for each in known)

    @cached_property
    def _store(self) -> Store:
        images = self._option("--images") or self._environ.get("KILN_IMAGES")
        if images:
            return Store(self.root / images)
        # Takes longer to read than the answer to find.
        from kiln import site

        return Store(site.load(self._option("--site") or None, self.root, self._environ).images)


def _elsewhere(program: str, text: str) -> list[str] | None:
    """What `invoke` itself says, in a folder whose tasks are not Kiln's; None where they are."""
    here = Path(os.getcwd())
    tasks = next((each for each in (here, *here.parents) if (each / "tasks.py").exists()), None)
    if program == "kiln" or tasks is None or (tasks / "kiln/tasks.py").exists():
        return None
    argv = [program, "--complete", "--", *shlex.split(text)]
    env = {**os.environ, **host_environment(os.environ)}
    said = run(argv, what="ask invoke", env=env, timeout=INVOKE_SECONDS, check=False).output
    word = "" if text[-1:].isspace() else text.rsplit(maxsplit=1)[-1]
    return [line for line in said.splitlines() if line.startswith(word)]


def main(table: str, program: str, text: str) -> int:
    """Print the candidates; the exit code, as above."""
    try:
        found = _elsewhere(program, text)
        if found is None:
            found = Line(json.loads(table), text, os.environ).candidates()
    except (KilnError, OSError, ValueError):
        # A store that isn't there, a quote that is still open: nothing to say, and nobody to tell it to.
        return 1
    sys.stdout.write("".join(f"{each}\n" for each in found or ()))
    return 1 if found is None else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
