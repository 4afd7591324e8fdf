"""compile.py MARK: the bytecode of what pip has installed since the file MARK was made, on all cores.

Run by the Python that pip belongs to, 3.6 or later. What doesn't compile is left, as pip leaves it.
"""

import compileall
import csv
import os
import site
import sys
import warnings
from collections.abc import Iterator, Sequence

FEW = 50  # files for which another process isn't worth its start


def installed(since: int) -> "Iterator[str]":
    """The sources of distributions whose RECORD is newer than `since`, in nanoseconds."""
    for folder in dict.fromkeys([*site.getsitepackages(), site.getusersitepackages(), *sys.path]):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            record = os.path.join(folder, name, "RECORD")
            if (
                name.endswith(".dist-info")
                and os.path.isfile(record)
                and os.stat(record).st_mtime_ns >= since
            ):
                with open(record, newline="", encoding="utf-8") as stream:
                    paths = [os.path.join(folder, row[0]) for row in csv.reader(stream) if row]
                yield from (path for path in paths if path.endswith(".py") and os.path.isfile(path))


def compile_each(paths: "Sequence[str]") -> None:
    warnings.simplefilter("ignore")
    for path in paths:
        # As pip calls it.
        compileall.compile_file(path, force=True, quiet=2)


def main(mark: str) -> None:
    paths = list(installed(os.stat(mark).st_mtime_ns))
    count = min(len(os.sched_getaffinity(0)), 1 + len(paths) // FEW)
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                compile_each(paths[number::count])
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(1 if any(ended) else 0)


main(sys.argv[1])
