"""Ending what bwrap leaves behind when it is ended itself.

Its `--die-with-parent` is asked for by the inner process alone, after its start: when the outer one is
killed before that, the container runs on for ever; later it takes a while to die, and still writes.
Here such a process becomes Kiln's own child, and Kiln waits until it is gone, which the kernel says only
when nothing is left in its PID namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """No container that was started in the block runs after it."""
    _adopt()
    try:
        yield
    finally:
        for pid in list(_orphans()):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@functools.cache
def _adopt() -> None:
    """Have every descendant whose parent dies become a child of this process, and not of init."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _orphans() -> Iterator[int]:
    """Our children in another PID namespace: no child that we started ourselves is in one."""
    ours = os.readlink("/proc/self/ns/pid")
    for entry in filter(str.isdigit, os.listdir("/proc")):
        # Others' processes can't be looked into, and some end meanwhile.
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == os.getpid() and os.readlink(f"/proc/{entry}/ns/pid") != ours:
                yield int(entry)
