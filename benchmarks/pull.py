"""How fast `kiln pull` copies and verifies an image from a folder, beside `cp`, which only copies.

    .venv/bin/python -m benchmarks.pull [RUNS [FOLDER]]

A file of 2 GB from one folder in FOLDER (default: /var/tmp) to another; both take turns, first with the file
on the disk alone (cold), then with it in memory (warm). Prints medians, the ratio of the speeds, and the most
memory that a pull's process had.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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


def publish(store: Store) -> Path:
    """An image of 2 GB that no compression makes smaller."""
    store.folder(RECORD.name).mkdir(parents=True)
    image, digest = store.image(RECORD.name, RECORD.version), hashlib.sha256()
    with image.open("wb") as stream:
        for _ in range(SIZE // PIECE):
            piece = os.urandom(PIECE)
            digest.update(piece)
            stream.write(piece)
    record = dataclasses.replace(RECORD, digest=f"sha256:{digest.hexdigest()}")
    store.record(RECORD.name, RECORD.version).write_text(record.to_json())
    return image


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


def copy(image: Path, folder: Path, store: Store) -> Taken:
    taken, _ = program("cp", str(image), str(folder / "copy"), images=store.root)
    (folder / "copy").unlink()
    return taken


def cool(image: Path) -> None:
    """Have the system forget what it keeps of the file in memory."""
    with image.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(image: Path) -> None:
    with image.open("rb") as stream:
        while stream.read(PIECE):
            pass


def compare(store: Store, image: Path, folder: Path, runs: int, prepare: Callable[[Path], None]) -> None:
    taken: dict[str, list[Taken]] = {"cp": [], "pull": []}
    for _ in range(runs):
        prepare(image)
        taken["cp"].append(copy(image, folder, store))
        prepare(image)
        taken["pull"].append(pull(store, folder))
    for what, each in taken.items():
        seconds = statistics.median(run.seconds for run in each)
        copying = statistics.median(run.copying for run in each)
        speed, memory = SIZE / copying / 1e6, max(run.memory for run in each) / 1e6
        print(f"{what:<5} {seconds:5.2f} s, copying {copying:5.2f} s: {speed:5.0f} MB/s; {memory:3.0f} MB")
    cp, kiln = (statistics.median(run.copying for run in taken[what]) for what in ("cp", "pull"))
    print(f"{prepare.__name__}: pull copies at {cp / kiln:.2f} of cp's speed; load {os.getloadavg()[0]:.1f}")


def main(runs: int, place: str) -> None:
    with tempfile.TemporaryDirectory(dir=place) as name:
        store, folder = Store(Path(name) / "images"), Path(name) / "to"
        folder.mkdir()
        image = publish(store)
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for prepare in (cool, warm):
            compare(store, image, folder, runs, prepare)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else "/var/tmp")
