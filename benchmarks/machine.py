"""What the figures were measured on, as lines of text."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from kiln import __version__
from kiln.run import host_environment, run, which

QUICK_SECONDS = 30.0
TOOLS = (("enroot", "version"), ("buildah", "--version"), ("mksquashfs", "-version"))


def describe(folder: Path, environ: Mapping[str, str]) -> list[str]:
    """Processors, memory, kernel, the file system of `folder`, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        f"{cores} cores, {memory:.0f} GB, kernel {platform.release()}, {_file_system(folder)}, load {load}",
        f"Kiln {__version__}, Python {platform.python_version()}",
    ]
    env = host_environment(environ)
    for tool, option in TOOLS:
        if which(tool, env):
            said = run([tool, option], what=f"ask {tool}", env=env, timeout=QUICK_SECONDS, check=False)
            version = said.output.splitlines()[0] if said.output else "?"
            lines[1] += f", {version if tool in version else f'{tool} {version}'}"
    return lines


def _file_system(folder: Path) -> str:
    """The type of file system that `folder` is on."""
    found = ("", "?")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if folder.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]
