from __future__ import annotations

from pathlib import Path

import pytest

from kiln import hardware

H100 = "NVIDIA H100 80GB HBM3"
VERSIONS = {
    "550.54.15": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
    "570.133.20": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n",
    "580.65.06": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build\n",
}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A machine with two H100 and an A100, as its driver describes it."""
    for number, model in enumerate((H100, H100, "NVIDIA A100-SXM4-40GB")):
        path = tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information"
        path.parent.mkdir(parents=True)
        path.write_text(
            f"Model: \t\t {model}\nIRQ:   \t\t 1\nGPU UUID: \t GPU-{number}aa\nDevice Minor: \t {number}\n"
        )
    (tmp_path / "proc/driver/nvidia/version").write_text(VERSIONS["550.54.15"])
    return tmp_path


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    found = hardware.find({}, tmp_path)
    assert (found.gpus, found.driver) == ((), "")
    assert found.kernel


@pytest.mark.parametrize("version", VERSIONS)
def test_the_driver_of_closed_and_open_modules(tmp_path: Path, version: str) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(VERSIONS[version])
    assert hardware.driver(tmp_path) == version


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (H100, H100, "NVIDIA A100-SXM4-40GB")),
        ("1", (H100,)),
        ("2,0", ("NVIDIA A100-SXM4-40GB", H100)),
        ("GPU-2", ("NVIDIA A100-SXM4-40GB",)),
        ("0,7,1", (H100,)),
        ("MIG-5c1a", ("a part of a GPU (MIG)",)),
        ("", ()),
        ("NoDevFiles", ()),
    ],
)
def test_only_the_gpus_that_the_job_has(node: Path, visible: str | None, expected: tuple[str, ...]) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert hardware.find(environ, node).gpus == expected
