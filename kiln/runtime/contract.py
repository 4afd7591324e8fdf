"""The contract that both runtimes keep: containers by name, made from images, started, exported.

The words are enroot's: an image is a `.sqsh` file, a container is a named root file system. Owns
no behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from kiln.manifest import Mount
from kiln.registry.oci import Resolved
from kiln.run import Result

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
Fetch = Callable[[Resolved, Progress], Sequence[Path]]
"""Brings an image's layers to this machine; returns their paths, lowest first."""


@dataclass(frozen=True)
class Command:
    """What to run in a container, and what it may see.

    `root`: as root in a writable tree; otherwise as an ordinary user in a read-only one.
    `entrypoint`: through the image's own `/etc/rc`, as a user's `enroot start` does.
    `env` is added to what the image sets. `timeout` is in seconds.
    """

    argv: tuple[str, ...]
    what: str
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    root: bool = True
    entrypoint: bool = False
    gpu: bool = False
    timeout: float = 3600.0


@dataclass(frozen=True)
class Output:
    """Where a command's output goes while it runs."""

    log: IO[str] | None = None
    on_line: Callable[[str], None] | None = None
    redact: Callable[[str], str] = str

    def say(self, text: str) -> None:
        """Pass on a line of the runtime's own."""
        line = self.redact(text)
        if self.log:
            self.log.write(line + "\n")
            self.log.flush()
        if self.on_line:
            self.on_line(line)


class Runtime(Protocol):
    """Containers by name. Every method raises `RuntimeFailure` where the runtime itself fails."""

    name: str

    def version(self) -> str:
        """The runtime's own version, for the record."""
        ...

    def rootfs(self, container: str) -> Path:
        """Where the tree of a container is, or will be."""
        ...

    def create(self, image: Path, container: str) -> None:
        """Make a container from a `.sqsh` file."""
        ...

    def start(self, container: str, command: Command, output: Output) -> Result:
        """Run a command to its end; the result has its exit code, also when that isn't 0."""
        ...

    def attach(self, container: str, command: Command) -> int:
        """Run a command on the caller's terminal; returns its exit code."""
        ...

    def export(self, container: str, target: Path, epoch: int) -> None:
        """Write a container to the new file `target`, no time in it later than `epoch` (Unix seconds)."""
        ...

    def remove(self, container: str) -> None:
        """Remove a container; one that isn't there is fine."""
        ...

    def list(self) -> list[str]:
        """The names of the containers."""
        ...
