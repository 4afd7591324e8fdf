"""How long the commands take that people wait for at a prompt, with many manifests and images about.

`plan` and `list` with 200 manifests and 2,000 published versions, and `invoke --version`, which is what
starting Python and reading the tasks takes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks import measure
from benchmarks.contestants import Call, Kiln
from benchmarks.results import LIST_SECONDS, PLAN_SECONDS, Check
from benchmarks.stack import Work
from kiln.record import LayerRecord, Record, SmokeResult
from kiln.store import Store

MANIFESTS, VERSIONS_EACH, TIMES = 200, 10, 5


def start_seconds(root: Path, environ: Mapping[str, str], report: Path) -> float:
    """The median seconds of `invoke --version`."""
    program = str(Path(sys.executable).parent / "invoke")
    return _median(Call([program, "--version"], environ, root), report)


def checks(kiln: Kiln, work: Work, report: Path) -> list[Check]:
    """Time `plan` and `list` in a project made for it in the contestant's folder."""
    kiln.forget()
    names = [f"image-{number:03}" for number in range(MANIFESTS)]
    for name in names:
        kiln.manifest(work, name)
        for version in range(1, VERSIONS_EACH + 1):
            _publish(kiln.folder / "images", name, f"latest-r{version}")
    about = f"with {MANIFESTS} manifests and {MANIFESTS * VERSIONS_EACH:,} versions"
    plan = _median(kiln.call("plan", names[0], "--runtime", kiln.runtime), report)
    listed = _median(kiln.call("list"), report)
    return [
        Check(f"plan, {about}", plan, PLAN_SECONDS, "s"),
        Check(f"list, {about}", listed, LIST_SECONDS, "s"),
    ]


def _median(call: Call, report: Path) -> float:
    return statistics.median(measure.call(call, " ".join(call.argv), report).seconds for _ in range(TIMES))


def _publish(images: Path, name: str, version: str) -> None:
    """A version as `publish` leaves it; its image is empty, since neither command opens one."""
    store = Store(images)
    store.folder(name).mkdir(parents=True, exist_ok=True)
    image = store.image(name, version)
    image.touch()
    record = Record(
        name=name,
        version=version,
        file=image.name,
        digest=f"sha256:{'0' * 64}",
        size=833_826_816,
        base="docker://127.0.0.1/bench/base:latest",
        base_digest=f"sha256:{'1' * 64}",
        platform_digest=f"sha256:{'1' * 64}",
        built="2026-01-01T00:00:00Z",
        description="One of many",
        layers=(LayerRecord("apt", "git jq less", 12.3), LayerRecord("pip", "transformers accelerate", 23.4)),
        smoke=(SmokeResult("gpu-visible", (), "passed", True, 1.0),),
    )
    store.record(name, version).write_text(record.to_json())
    store.checksum(name, version).write_text(f"{'0' * 64}  {image.name}\n")
    channel = store.channel(name, "current")
    channel.unlink(missing_ok=True)
    channel.symlink_to(image.name)
