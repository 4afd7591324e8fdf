"""Passing a machine's GPUs: from a CDI specification, else from what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kiln.runtime import gpu


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with two GPUs and a driver, as far as the file system tells."""
    for name in (
        "dev/nvidia0",
        "dev/nvidia1",
        "dev/nvidiactl",
        "dev/nvidia-uvm",
        "dev/nvidia-caps/nvidia-cap1",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    for name in ("libcuda", "libnvidia-ml"):
        (libraries / f"{name}.so.550.54").touch()
        (libraries / f"{name}.so.1").symlink_to(f"{name}.so.550.54")
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/nvidia-smi").touch()
    return tmp_path


def specify(machine: Path, text: str, name: str = "nvidia.json") -> None:
    (machine / "etc/cdi").mkdir(parents=True, exist_ok=True)
    (machine / "etc/cdi" / name).write_text(text)


def targets(passed: gpu.Passed) -> set[str]:
    return set(passed.options[2::3])


DEVICES = {
    "/dev/nvidia0",
    "/dev/nvidia1",
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-caps/nvidia-cap1",
}


def test_no_device_node_no_gpu(tmp_path: Path) -> None:
    assert gpu.find({}, tmp_path) is gpu.NOTHING
    assert gpu.NOTHING.visible({"PATH": "/bin"}) == {"PATH": "/bin"}


def test_an_installed_driver_is_found_under_every_name_that_programs_load(machine: Path) -> None:
    passed = gpu.find({"CUDA_VISIBLE_DEVICES": "1"}, machine)
    names = {
        "lib/libcuda.so.550.54",
        "lib/libcuda.so.1",
        "lib/libnvidia-ml.so.550.54",
        "lib/libnvidia-ml.so.1",
    }
    assert targets(passed) == DEVICES | {f"{gpu.PLACE}/{name}" for name in (*names, "bin/nvidia-smi")}
    inside = passed.visible({"PATH": "/bin", "LD_LIBRARY_PATH": "/image"})
    assert inside == {
        "PATH": f"/bin:{gpu.PLACE}/bin",
        "LD_LIBRARY_PATH": f"{gpu.PLACE}/lib:/image",
        "CUDA_VISIBLE_DEVICES": "1",
    }


def test_a_specification_comes_first(machine: Path) -> None:
    other = machine / "opt/driver/libcuda.so.570.1"
    other.parent.mkdir(parents=True)
    other.touch()
    edits = {
        "mounts": [{"hostPath": "/opt/driver/libcuda.so.570.1"}, {"hostPath": "/opt/driver/missing.so.1"}],
        "env": ["NVIDIA_VISIBLE_DEVICES=void", "A=b=c"],
    }
    devices = [{"name": "0", "containerEdits": {"env": ["NO=1"]}}, {"name": "all", "containerEdits": {}}]
    specify(machine, json.dumps({"kind": "nvidia.com/gpu", "devices": devices, "containerEdits": edits}))
    passed = gpu.find({}, machine)
    assert targets(passed) == DEVICES | {f"{gpu.PLACE}/lib/libcuda.so.570.1"}
    assert dict(passed.env) == {"A": "b=c"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"kind": "nvidia.com/gpu"}', '{"kind": "vendor.com/net", "devices": []}']
)
def test_a_damaged_or_foreign_specification_is_passed_over(machine: Path, text: str) -> None:
    specify(machine, text)
    specify(machine, text, "nvidia.yaml")
    assert f"{gpu.PLACE}/lib/libcuda.so.1" in targets(gpu.find({}, machine))
