"""How fast `kiln pull` copies and verifies an image from a folder, beside `cp`, which only copies.

    .venv/bin/python -m benchmarks.pull [ROUNDS [FOLDER]]

A file of 2 GB from one folder in FOLDER (default: /var/tmp) to another, first with the file on the disk alone
(cold), then with it in memory (warm); in a round each has two turns. Prints medians, the ratio of the speeds,
and the most memory that a pull's process had.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kiln import pieces
from kiln.record import Record
from kiln.store import Store

ROOT = Path(__file__).resolve().parents[1]
SIZE, PIECE = 2_000_000_000, 4_000_000
DIGEST = "sha256:" + "0" * 64
RECORD = Record(
    "bench", "1-r1", "bench-1-r1.sqsh", DIGEST, SIZE, "sqsh:none", DIGEST, DIGEST, "2026-01-02T03:04:05Z"
)


@dataclasses.dataclass(frozen=True)
class Taken:
    """One run: seconds of the program, seconds of its copying alone, and its peak memory in bytes."""

    seconds: float
    copying: float
    memory: int


def publish(store: Store) -> None:
    """An image of 2 GB that no compression makes smaller."""
    store.folder(RECORD.name).mkdir(parents=True)
    image = store.image(RECORD.name, RECORD.version)
    with image.open("wb") as stream:
        for _ in range(SIZE // PIECE):
            stream.write(os.urandom(PIECE))
    found = pieces.measure(image, lambda _: None)
    record = dataclasses.replace(RECORD, digest=found.digest, pieces=found.pieces)
    store.record(RECORD.name, RECORD.version).write_text(record.to_json())


def program(*argv: str, images: Path) -> tuple[Taken, str]:
    """Run a program to its end, with nothing of before left to be written."""
    os.sync()
    env = {**os.environ, "KILN_IMAGES": str(images)}
    begun = time.monotonic()
    with subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv[0]} ended with {process.returncode}: {said}")
    seconds = time.monotonic() - begun
    return Taken(seconds, seconds, usage.ru_maxrss * 1024), said


def pull(store: Store, folder: Path) -> Taken:
    argv = (sys.executable, "-m", "invoke", "pull", RECORD.name, "--to", str(folder), "--json")
    taken, said = program(*argv, images=store.root)
    events = [json.loads(line) for line in said.splitlines()]
    [step] = [event for event in events if event["event"] == "step-ended"]
    (folder / RECORD.file).unlink()
    return dataclasses.replace(taken, copying=step["seconds"])


def copy(store: Store, folder: Path) -> Taken:
    image = store.image(RECORD.name, RECORD.version)
    taken, _ = program("cp", str(image), str(folder / "copy"), images=store.root)
    (folder / "copy").unlink()
    return taken


def cold(image: Path) -> None:
    """Have the system forget what it keeps of the file in memory."""
    with image.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(image: Path) -> None:
    with image.open("rb") as stream:
        while stream.read(PIECE):
            pass


def compare(store: Store, folder: Path, rounds: int, prepare: Callable[[Path], None]) -> None:
    image = store.image(RECORD.name, RECORD.version)
    taken: dict[str, list[Taken]] = {"cp": [], "pull": []}
    # In both orders: what one left in memory, the next one has to make room for.
    for what in ("cp", "pull", "pull", "cp") * rounds:
        prepare(image)
        taken[what].append((copy if what == "cp" else pull)(store, folder))
    for what, each in taken.items():
        seconds = statistics.median(run.seconds for run in each)
        copying = statistics.median(run.copying for run in each)
        speed, memory = SIZE / copying / 1e6, max(run.memory for run in each) / 1e6
        print(f"{what:<5} {seconds:5.2f} s, copying {copying:5.2f} s: {speed:5.0f} MB/s; {memory:3.0f} MB")
    cp, kiln = (statistics.median(run.copying for run in taken[what]) for what in ("cp", "pull"))
    print(f"{prepare.__name__}: pull copies at {cp / kiln:.2f} of cp's speed; load {os.getloadavg()[0]:.1f}")


def main(rounds: int, place: str) -> None:
    with tempfile.TemporaryDirectory(dir=place) as name:
        store, folder = Store(Path(name) / "images"), Path(name) / "to"
        folder.mkdir()
        publish(store)
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for prepare in (cold, warm):
            compare(store, folder, rounds, prepare)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2] if len(sys.argv) > 2 else "/var/tmp")
