"""A store as a site has it after a year, made without building anything: for the tests of its pages.

python -m tests.showcase FOLDER [IMAGES VERSIONS]     to look at it in a browser
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from kiln import history, page, publish, site, testruns
from kiln.hardware import Hardware
from kiln.history import Change
from kiln.inventory import APT, PYTHON, Package
from kiln.record import Finding, LayerRecord, Record, SmokeResult
from kiln.site import Site
from kiln.store import Store, next_version

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 11, 20, 9, 30, tzinfo=timezone.utc)
H100 = Hardware(("NVIDIA H100 80GB HBM3",) * 2, "550.54.15", "5.15.0-1063-nvidia")
NO_GPU = Hardware((), "", "6.8.0-45-generic")
PLACE = "/usr/local/lib/python3.12/dist-packages"
PYTHONS = (
    ("torch", "2.7.0"),
    ("numpy", "1.26.4"),
    ("transformers", "4.51.3"),
    ("accelerate", "1.6.0"),
    ("pandas", "2.2.3"),
)
NAMES = (
    "pytorch-llm",
    "pytorch-fsdp",
    "sglang",
    "workshop",
    "vllm",
    "geo-notebooks",
    "nemo-speech-recognition-and-translation-multilingual",
    "jax",
    "alphafold",
    "hello",
    "r-bioconductor",
    "tensorrt-llm",
)
ABOUT = (
    "PyTorch with transformers and accelerate, for inference of large language models",
    "The FSDP2 example of pytorch/examples",
    "SGLang for serving, in a virtual environment of its own",
    "Geospatial analysis on top of NVIDIA's PyTorch, as taught in the workshop",
)


def site_of(images: Path, name: str = "aspire2a-plus") -> Site:
    return site.load(name, ROOT, {"HOME": "/home/u", "USER": "u", "KILN_IMAGES": str(images)})


@functools.cache
def packages(seed: int, step: int, count: int) -> tuple[Package, ...]:
    """Packages of one version; of those of the version before (`step` less by one) a few differ."""
    many = [Package(APT, f"lib{word}{seed % 7}", f"{seed % 5 + 1}.{at % 9}-{1 + step // 3}", "amd64")
            for at, word in enumerate(f"example{number}" for number in range(count))]  # fmt: skip
    pythons = [Package(PYTHON, name, version, PLACE) for name, version in PYTHONS]
    pythons += [
        Package(PYTHON, f"module-{at}", f"{1 + (step + at) // 40}.{at % 10}", PLACE) for at in range(90)
    ]
    if step % 2:
        pythons.append(Package(PYTHON, "flash-attn", f"2.7.{step}", PLACE))
    return tuple(sorted((*many, *pythons)))


def smoke(state: str) -> tuple[SmokeResult, ...]:
    on = NO_GPU if state == "skipped" else H100
    why = "no GPU on this node" if state == "skipped" else "matrix product on each of 2 GPUs"
    return (
        SmokeResult(
            "python-imports", ("transformers", "accelerate"), "passed", True, 3.2, "modules imported: 2", on
        ),
        SmokeResult("torch-cuda", (), state, True, 6.1, why, on),
        SmokeResult("nccl-init", (), state, False, 4.0, "all-reduce over 2 ranks, 181 GB/s", on),
    )


def label(step: int) -> str:
    """A base's tag: a new one after every second version."""
    return f"25.{1 + step // 2:02}-py3"


def record(
    name: str, number: int, step: int, state: str = "passed", base: str = "", count: int = 260
) -> Record:
    built = NOW - timedelta(days=11 * number % 300, hours=3 * number) + timedelta(days=step)
    return Record(
        name=name,
        version="",
        file="",
        digest=f"sha256:{hashlib.sha256(f'{name} {step}'.encode()).hexdigest()}",
        size=(6 + number % 5) * 10**9 + step * 37_000_000,
        base=base or f"nvcr.io/nvidia/pytorch:{label(step)}",
        base_digest=f"sha256:{step // 2:064x}",
        platform_digest="",
        built=built.strftime("%Y-%m-%dT%H:%M:%SZ"),
        description=ABOUT[number % len(ABOUT)],
        maintainer="HPC images <images@example.org>",
        kiln="0.1.0",
        runtime="enroot 4.1.2",
        env={"HF_HOME": "/workspace/hf", "TOKENIZERS_PARALLELISM": "false"},
        layers=(LayerRecord("pip", "pip transformers==4.51.3 accelerate", 41.0),),
        smoke=smoke(state),
        companions={"cdx.json": "sha256:0"},
        packages=packages(number % 35, step, count),
    )  # fmt: skip


def put(
    store: Store, made: Record, label: str, changes: Sequence[Change] = (), channel: str = "current"
) -> str:
    """Have a version in the store, as a publish leaves it, but for the bytes of its image."""
    folder = store.folder(made.name)
    folder.mkdir(parents=True, exist_ok=True)
    version = next_version(store.versions(made.name), label)
    image = store.image(made.name, version)
    store.record(made.name, version).write_text(replace(made, version=version, file=image.name).to_json())
    image.touch()
    before = store.channels(made.name).get(channel, "")
    published = Change(history.PUBLISH, version, channel, before, who="curator@login1", time=made.built)
    with history.path(store, made.name).open("a") as lines:
        for change in (published, *changes):
            lines.write(json.dumps(replace(change, version=version).to_data()) + "\n")
    store.channel(made.name, channel).unlink(missing_ok=True)
    store.channel(made.name, channel).symlink_to(image.name)
    return version


def make(root: Path, images: int = len(NAMES), versions: int = 5, count: int = 260) -> Store:
    """Images with `count` apt packages: deprecated, revoked, candidate and doubtful ones among them."""
    store = Store(root)
    names = [*NAMES, *(f"image-{number:03}" for number in range(len(NAMES), images))][:images]
    for number, name in enumerate(names):
        for step in range(versions):
            put(store, record(name, number, step, count=count), label(step))
    vary(store)
    return store


def vary(store: Store) -> None:
    """What has happened to the first twelve in a year."""
    said = {"who": "curator@login1", "time": "2026-11-18T10:00:00Z"}
    put(store, record("sglang", 2, 9, "skipped"), "25.04-py3", channel="candidate")
    because = "its cuDNN gives wrong gradients in bf16 (see the driver's release notes)"
    revoked = put(store, record("jax", 7, 9), "25.06", [Change(history.REVOKE, "", because=because, **said)])
    child = record("alphafold", 8, 9, base=f"image:jax:{revoked}")
    put(store, replace(child, base_digest=record("jax", 7, 9).digest), "jax")
    old = Change(history.DEPRECATE, "", until="2027-01-31", use="pytorch-llm", because="CUDA 12.4", **said)
    put(store, record("workshop", 3, 9), "24.12-py3", [old])
    put(store, record("tensorrt-llm", 11, 9, "failed"), "25.06-py3", channel="nightly")
    store.record("geo-notebooks", put(store, record("geo-notebooks", 5, 9), "25.06")).write_text(
        '{"format": 1, "na'
    )
    found = (Finding("warning", "/root/.netrc", "may hold a password"),)
    put(store, replace(record("r-bioconductor", 10, 9, count=2400), findings=found), "debootstrap-bookworm")
    put(store, replace(record("hello", 9, 9), smoke=(), packages=(), companions={}, env={}), "bookworm")
    again = testruns.Run("2026-11-19T08:00:00Z", "tester@gpu7", smoke("passed"))
    testruns.add(store.tests("sglang", store.channels("sglang")["current"]), again)


def main(folder: Path, images: int, versions: int) -> None:
    store = make(folder, images, versions)
    publish.refresh_catalog(store, print)
    page.write(store, site_of(folder), "", print)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *(int(word) for word in sys.argv[2:] or ("12", "5")))
