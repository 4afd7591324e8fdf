"""Which files that a build changed hold certain bytes: by find and grep, with nothing in an argument.

What may be looked for is a secret, so it reaches grep through a file in memory. In a build's namespace the
caller is root and reads every file, whatever its mode. Owns those command lines.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln import files
from kiln.errors import RuntimeFailure
from kiln.run import run
from kiln.runtime.namespace import HOST, Space

SEARCH_SECONDS = 3600.0
# What holds settings is small text; the rest is most of a tree's bytes.
SETTINGS = ("-size", "-2049k")
COMPILED = ("*.so", "*.so.*", "*.pyc", "*.a", "*.o", "*.whl", "*.gz", "*.xz", "*.deb", "*.mo", "*.png")


@dataclass(frozen=True)
class Changed:
    """Where to look: `folders` with all in them, or what has changed in them since `after` was written."""

    folders: Sequence[Path]
    after: Path | None = None
    space: Space = HOST

    def holding(self, needles: Collection[bytes], env: Mapping[str, str], *, settings: bool) -> list[Path]:
        """The files that hold one of `needles` (none has a line break); with `settings`, of small ones only.

        Raises `RuntimeFailure` where not all could be looked at.
        """
        folders = [str(folder) for folder in self.folders if folder.is_dir()]
        if not needles or not folders:
            return []
        tests = ["-type", "f"]
        if self.after:
            tests += ["-cnewer", str(self.after)]
        if settings:
            tests += [*SETTINGS, *(part for name in COMPILED for part in ("!", "-name", name))]
        found: list[Path] = []
        strange: list[str] = []
        with _in_memory(b"".join(needle + b"\n" for needle in sorted(needles))) as descriptor:
            # The exit code only says that some file held nothing; a failure tells itself by its lines.
            grep = ["grep", "-lF", f"--file=/proc/self/fd/{descriptor}", "--"]
            argv = ["find", *folders, *tests, "-exec", *grep, "{}", "+"]

            def hear(line: str) -> None:
                inside = line.startswith(tuple(f"{folder}/" for folder in folders))
                if inside:
                    found.append(Path(line))
                # Without a namespace the caller's own rights count; the audit tells of what nobody may read.
                elif not (settings and line.endswith("Permission denied")):
                    strange.append(line)

            run(
                self.space.enter(argv),
                what="search the layers' files",
                env={**env, "LC_ALL": "C"},
                timeout=SEARCH_SECONDS,
                check=False,
                on_line=hear,
                pass_fds=[descriptor],
            )
        if strange:
            raise RuntimeFailure(
                f"not all files of the layers could be searched: {strange[0]}",
                "run: invoke doctor",
                strange[:15],
            )
        return sorted(found)


def which(path: Path, needles: Mapping[bytes, str]) -> str:
    """What of `needles` a file holds, by its name; '' where the caller can't read it."""
    try:
        with path.open("rb") as stream:
            data = stream.read(64 * files.CHUNK)
    except OSError:
        return ""
    return next((name for needle, name in needles.items() if needle in data), "")


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("needles")
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)
