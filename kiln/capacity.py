"""How many builds this machine carries at once: by the cores and the memory that the caller may use.

Owns these numbers. A job of a scheduler has a part of its node: what of it is told by the process's affinity
and by the limits of its control groups (cgroup v2, Documentation/admin-guide/cgroup-v2.rst, 'memory.max').
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

# mksquashfs and pip use a few cores each; torch's own layers have been seen to take 6 GB to compress.
CORES_PER_BUILD, BYTES_PER_BUILD = 4, 8 << 30
AVAILABLE = re.compile(r"^MemAvailable: *(\d+) kB$", re.MULTILINE)


def builds_at_once(host: Path = Path("/")) -> int:
    """At least one."""
    return max(1, min(cores() // CORES_PER_BUILD, memory(host) // BYTES_PER_BUILD))


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory(host: Path = Path("/")) -> int:
    """Bytes that are free for programs on this machine, or as many as its control groups allow."""
    found = AVAILABLE.search((host / "proc/meminfo").read_text())
    return min([int(found[1]) << 10 if found else BYTES_PER_BUILD, *_limits(host)])


def _limits(host: Path) -> list[int]:
    """What the control group of this process, and those above it, leave."""
    limits = []
    with contextlib.suppress(OSError):
        lines = (host / "proc/self/cgroup").read_text().splitlines()
        group = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
        top = host / "sys/fs/cgroup"
        for folder in (top / group, *(top / group).parents):
            if not folder.is_relative_to(top):
                break
            with contextlib.suppress(OSError, ValueError):
                used = int((folder / "memory.current").read_text())
                limits.append(max(0, int((folder / "memory.max").read_text()) - used))
    return limits
