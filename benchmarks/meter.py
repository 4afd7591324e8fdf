"""What a program took, with everything that it started: time, memory, bytes written.

    python meter.py REPORT PROGRAM [ARGUMENT ...]

Runs the program to its end and writes a JSON file. Needs nothing but Python, so that it weighs little:

    code         exit code, negative for a signal
    seconds      from the start to the end of the program itself
    cpu_seconds  user and system time of all processes
    written      bytes that they handed to file systems on disks: the kernel's `write_bytes`, which a parent
                 inherits from children that it waited for; what a tmpfs takes is not in it
    peak_tree    bytes: the highest sum of the resident memory of all processes, seen every 50 ms; a page
                 that two of them share counts twice
    peak_own     bytes: the same of the processes that this very Python runs, which are Kiln's own
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

SAMPLE_SECONDS = 0.05
PR_SET_CHILD_SUBREAPER = 36
PAGE = os.sysconf("SC_PAGE_SIZE")


class Watcher(threading.Thread):
    """Looks at the memory of this process's descendants until it is told to stop. Sizes are bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.tree = self.own = 0
        self._end = threading.Event()
        self._python = os.stat(sys.executable)
        self._before: set[int] = set()

    def run(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self._look()

    def stop(self) -> None:
        self._end.set()
        self.join()

    def _look(self) -> None:
        family = descendants(os.getpid())
        resident = {pid: _resident(pid) for pid in family}
        self.tree = max(self.tree, sum(resident.values()))
        # A child between fork and exec looks like another Python of its parent's size.
        mine = {pid for pid in family if self._is_own(pid)}
        self.own = max(self.own, sum(resident[pid] for pid in mine & self._before))
        self._before = mine

    def _is_own(self, pid: int) -> bool:
        try:
            # By inode: a container's Python may have the same path.
            return os.path.samestat(os.stat(f"/proc/{pid}/exe"), self._python)
        except OSError:
            return False


def descendants(root: int) -> list[int]:
    """The processes below `root`, in no order."""
    children = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                # The name, in parentheses, may hold anything; the parent is the second field after it.
                parent = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[1]
                children[int(parent)].append(int(entry))
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def bytes_written() -> int:
    """By this process and all those below it that have ended."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def wait(pid: int) -> int:
    """Wait for `pid`, and for orphans on the way, so that what they took is counted; its exit code."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def end_rest() -> None:
    """Kill what the program left running, and count it."""
    while left := descendants(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.wait()


def main(report: str, argv: list[str]) -> int:
    # Orphans come to this process, not to init, where their bytes would be lost.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    watcher = Watcher()
    watcher.start()
    started = time.monotonic()
    program = subprocess.Popen(argv)
    # Whoever ends this ends the whole group: the program tidies up, and this waits for it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    code = wait(program.pid)
    seconds = time.monotonic() - started
    watcher.stop()
    end_rest()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "code": code,
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "written": bytes_written(),
        "peak_tree": watcher.tree,
        "peak_own": watcher.own,
    }
    Path(report).write_text(json.dumps(result))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
