"""How long the main job takes: `hello` from nothing, downloads included, step by step.

    .venv/bin/python -m benchmarks.hello [RUNS]

Every run has an empty cache and an empty images folder. Prints the median of each step in seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path) -> dict[str, float]:
    """One build of hello; returns the seconds of each step, and of the whole process's record."""
    env = {**os.environ, "KILN_CACHE": str(folder / "cache"), "KILN_IMAGES": str(folder / "images")}
    argv = [sys.executable, "-m", "invoke", "build", "hello", "--json"]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout.splitlines()[-1])["record"]
    return {**record["steps"], "in all": record["seconds"]}


def main(runs: int) -> None:
    results = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            results.append(build(Path(folder)))
    for step in results[0]:
        print(f"{step:<10} {statistics.median(result[step] for result in results):6.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
