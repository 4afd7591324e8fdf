"""How long `outdated` takes for a whole site, and how its memory grows: `python -m benchmarks.outdated`.

Every image has a repository of its own on a local registry, with six tags; of each the base's tag moved.
Images are records without a build: nothing else of them is looked at.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks import registry
from benchmarks.registry import Registry
from kiln.record import Record

SIZES = (50, 200)
TAGS = [f"24.{month:02}-py3" for month in range(1, 7)]
LIMIT_SECONDS = 120


def main() -> None:
    for count in SIZES:
        with tempfile.TemporaryDirectory(prefix="kiln-outdated-") as folder:
            root = Path(folder)
            with registry.serve(root / "registry") as running:
                prepare(root, running, count)
                seconds, memory, due = measure(root)
        print(f"{count} images: {seconds:.1f} s, {memory / 1e6:.0f} MB, {due} due")


def prepare(root: Path, running: Registry, count: int) -> None:
    """A checkout with `count` manifests, a store with as many records, and what they are built on."""
    layer = root / "layer.tar.gz"
    with tarfile.open(layer, "w:gz") as archive:
        archive.add(__file__, "file")
    for name in ("manifests", "sites", "hooks"):
        (root / name).mkdir()
    (root / "sites/local.yaml").write_text("format: 1\nname: local\nimages: ./images\ncache: ./cache\n")
    for number in range(count):
        name = f"image{number:03}"
        for tag in TAGS:
            if tag == TAGS[0]:
                running.push(name, tag, [layer])
            else:
                running.point(name, tag, TAGS[0])
        base = f"{running.host}/{name}:{TAGS[-2]}"
        (root / f"manifests/{name}.yaml").write_text(f"format: 1\nname: {name}\nbase: {base}\n")
        publish(root / "images" / name, name, base)


def publish(folder: Path, name: str, base: str) -> None:
    """A version whose base has moved since."""
    folder.mkdir(parents=True)
    version, digest = f"{TAGS[-2]}-r1", f"sha256:{'0' * 64}"
    file = f"{name}-{version}.sqsh"
    record = Record(name, version, file, digest, 4, base, digest, digest, "2026-01-01T00:00:00Z")
    (folder / file).write_bytes(b"hsqs")
    (folder / f"{name}-{version}.json").write_text(record.to_json())
    (folder / "current.sqsh").symlink_to(file)


def measure(root: Path) -> tuple[float, int, int]:
    """Seconds, bytes of memory at the highest, and images that are due."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kiln", "outdated", "--json"],
        env={**os.environ, "KILN_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - started
    [result] = [line for line in map(json.loads, done.stdout.splitlines()) if line["event"] == "result"]
    due = sum(each["due"] for each in result["images"])
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, due


if __name__ == "__main__":
    main()
