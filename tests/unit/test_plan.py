"""Plans: pure values, for every manifest that ships; and the check of space that stands on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kiln import manifest, plan, preflight, smoke
from kiln.bases import Found
from kiln.errors import SpaceError
from kiln.plan import Need, Plan, Setting

ROOT = Path(__file__).resolve().parents[2]
GIGABYTE = 10**9


def planned(
    name: str, download: int = 9 * GIGABYTE, versions: tuple[str, ...] = (), unpacker: str = "kiln"
) -> Plan:
    """The plan for a shipped manifest, on a base of NGC's size that need not be asked for."""
    loaded = manifest.load(ROOT / f"manifests/{name}.yaml", hooks=smoke.hooks(ROOT / "hooks"))
    base = loaded.base
    found = Found(base, base.label, "sha256:1", "sha256:2", 1_700_000_000, download, int(2.4 * download))
    setting = Setting(
        manifests=ROOT / "manifests",
        hooks=ROOT / "hooks",
        folder=Path("/images") / name,
        work=Path("/scratch/work"),
        blobs=Path("/cache/blobs"),
        runtime="enroot",
        architecture="amd64",
        packing=(),
        unpacker=unpacker,
        versions=versions,
        uncached="of a test",
    )
    return plan.make(loaded, found, setting)


@pytest.mark.parametrize("name", manifest.names(ROOT / "manifests"))
def test_every_shipped_manifest_is_planned(name: str) -> None:
    made = planned(name)
    assert made.target == Path(f"/images/{name}/{name}-{made.base.label}-r1.sqsh")
    assert [item.number for item in made.layers] == list(range(1, len(made.manifest.layers) + 1))
    assert made.manifest.smoke, "an image that ships is tested"
    assert made.to_data()["name"] == name


def test_the_workshops_images_are_what_the_workshop_made() -> None:
    wanted = {
        "workshop": ("nvcr.io/nvidia/pytorch:24.12-py3", ["apt", "pip"]),
        "pytorch-llm": ("nvcr.io/nvidia/pytorch:25.04-py3", ["pip"]),
        "sglang": ("nvcr.io/nvidia/pytorch:25.04-py3", ["pip", "uv"]),
    }
    for name, (base, kinds) in wanted.items():
        made = planned(name)
        assert (made.base.base.text, [item.layer.kind for item in made.layers]) == (base, kinds)
    assert planned("pytorch-fsdp").base.base.text == "nvcr.io/nvidia/pytorch:25.04-py3"


def test_the_version_goes_on_from_what_is_published() -> None:
    assert planned("pytorch-llm", versions=("25.04-py3-r7", "24.12-py3-r9")).version == "25.04-py3-r8"


def test_space_is_wanted_for_downloads_tree_and_file() -> None:
    needs = {need.path: need.size for need in planned("pytorch-llm").needs}
    assert needs[Path("/cache/blobs")] == 9 * GIGABYTE
    assert needs[Path("/scratch/work")] > 21 * GIGABYTE
    assert needs[Path("/images/pytorch-llm")] > 5 * GIGABYTE
    needs = {need.path: need.size for need in planned("pytorch-llm", unpacker="enroot").needs}
    assert needs[Path("/cache/blobs")] == 18 * GIGABYTE, "enroot's own cache is beside it"


def test_too_little_space_is_told_per_path(tmp_path: Path) -> None:
    made = dataclasses.replace(
        planned("hello"), needs=(Need(tmp_path / "a", 10**18, "the tree"), Need(tmp_path, 1, "the file"))
    )
    with pytest.raises(SpaceError, match="not enough space to build hello") as caught:
        preflight._check_space(made)
    assert caught.value.details[0] == f"1000000.0 TB for the tree at {tmp_path}/a"
    assert caught.value.details[-1].startswith("together 1000000.0 TB, but ")
