"""The processes of a run, held by descriptors: whether they have ended is waited for, not guessed."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path

END_MILLISECONDS = 30_000


def command_lines() -> list[str]:
    """The arguments of every process that the caller may see."""
    found = []
    for entry in _entries():
        with contextlib.suppress(OSError):
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def _entries() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _parents() -> dict[int, int]:
    found = {}
    for entry in _entries():
        with contextlib.suppress(OSError):
            found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def await_end(pid: int, descriptor: int) -> None:
    waiter = select.poll()
    waiter.register(descriptor, select.POLLIN)
    ended = bool(waiter.poll(END_MILLISECONDS))
    os.close(descriptor)
    assert ended, f"process {pid} lives on: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}"


class Family:
    """A process and all of its descendants at one moment."""

    def __init__(self, pid: int) -> None:
        parents = _parents()
        members = {pid}
        while more := {child for child, parent in parents.items() if parent in members} - members:
            members |= more
        self.held: dict[int, int] = {}
        for member in sorted(members):
            with contextlib.suppress(ProcessLookupError):
                self.held[member] = os.pidfd_open(member)

    def assert_ended(self) -> None:
        for pid, descriptor in self.held.items():
            await_end(pid, descriptor)


def traces(folder: Path) -> list[str]:
    """Processes that belong to a build whose files lie in `folder`, and mounts there."""
    wanted = str(folder).encode()
    builds = [path.name.encode() for path in folder.glob("cache/v1/logs/*")]
    found = []
    for entry in _entries():
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            text, env = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            if wanted in text or any(b"KILN_BUILD=" + build in env.split(b"\0") for build in builds):
                found.append(f"{entry.name}: {text!r}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [line for line in mounts if str(folder) in line]
