"""Kiln brought to a point of its own work, and killed, held or robbed of its disk just there.

Python tells a program of its own acts (sys.addaudithook), each before it happens: files and folders made,
moved and removed, programs started, locks taken. Such an act is a point.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_HOOK = r"""
import os, re, runpy, signal, sys, time

ACTS = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree",
        "subprocess.Popen", "fcntl.flock", "fcntl.lockf", "os.utime", "os.chmod"}
what, place, begin, pattern, left = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
begun = not begin

def fill():
    size = 1 << 20
    with open(place, "wb", 0) as stream:
        while size:
            try:
                stream.write(bytes(size))
            except OSError:
                size //= 2

def see(act, arguments):
    global left, begun
    if left < 1 or act not in ACTS and (begun or act != "open"):
        return
    said = act + " " + " ".join(map(str, arguments))
    begun = begun or re.search(begin, said) is not None
    if not begun or act == "open" or not re.search(pattern, said):
        return
    if what == "list":
        open(place, "a").write(said + "\n")
        return
    left -= 1
    if left == 0:
        if what != "fill":
            open(place, "w").write(said)
        fill() if what == "fill" else os.kill(os.getpid(), getattr(signal, what))

sys.addaudithook(see)
sys.argv = sys.argv[6:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# What differs from one run to the next (process ids, times, the ends that mkstemp gives), and the files that
# lie beside an image and its record, which are as good as each other.
_CHANCE = re.compile(
    r"\d+|(?<=[a-z0-9]\.)[a-z0-9_]{8}\b|(?<=\.)(cdx\.json|provenance\.json|sha256|json\.sig)\b"
)
_CLOCK = r"""
import runpy, sys, time
shift, real = float(sys.argv[1]), time.time
time.time = lambda: real() + shift
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def killed(place: Path, count: int, pattern: str = "", begin: str = "") -> list[str]:
    """Killed at the `count`th act that matches `pattern`, counted from one that matches `begin` on.

    What it was about to do is written to the file `place`: without that it has come to its end.
    """
    return [sys.executable, "-c", _HOOK, "SIGKILL", str(place), begin, pattern, str(count)]


def listed(place: Path, pattern: str) -> list[str]:
    """Not stopped at all: each act that matches is a line of the file `place`."""
    return [sys.executable, "-c", _HOOK, "list", str(place), "", pattern, "1"]


def one_of_each(place: Path) -> list[int]:
    """Which of the acts in that file to stop at: the first of each kind, whatever the numbers in names."""
    found: dict[str, int] = {}
    for count, said in enumerate(place.read_text().splitlines(), 1):
        found.setdefault(_CHANCE.sub("*", said), count)
    return list(found.values())


def held(place: Path, pattern: str) -> list[str]:
    """Stopped at the first act that matches: see `await_held`."""
    return [sys.executable, "-c", _HOOK, "SIGSTOP", str(place), "", pattern, "1"]


def await_held(pid: int) -> None:
    found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert found and found.si_code == os.CLD_STOPPED, "it ended before it came to the point"


def full(filler: Path, count: int, pattern: str, begin: str = "") -> list[str]:
    """With the disk of `filler` full from that act on, by this file."""
    return [sys.executable, "-c", _HOOK, "fill", str(filler), begin, pattern, str(count)]


def later(seconds: float) -> list[str]:
    """With a clock that is ahead by so many seconds."""
    return [sys.executable, "-c", _CLOCK, str(seconds)]
