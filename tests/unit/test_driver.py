"""Drivers and images as there are: NGC's, nvidia/cuda's, old ones, and ones that nobody can read."""

from __future__ import annotations

import re

import pytest

from kiln import driver
from kiln.driver import FITS, FORWARD, NO_CUDA, TOO_OLD, UNKNOWN, Needs
from kiln.manifest import parse_base

KNOWN = driver.table()
NGC_2504 = {
    "CUDA_VERSION": "12.9.0.036",
    "CUDA_DRIVER_VERSION": "575.51.03",
    "_CUDA_COMPAT_PATH": "/usr/local/cuda/compat",
    "NVIDIA_REQUIRE_CUDA": "cuda>=9.0",
    "NVIDIA_REQUIRE_JETPACK_HOST_MOUNTS": "",
}
NGC_2508 = {**NGC_2504, "CUDA_VERSION": "13.0.0.044"}
# docker.io/nvidia/cuda:12.8.1-base-ubuntu24.04, shortened.
CUDA_128 = {
    "CUDA_VERSION": "12.8.1",
    "NVIDIA_REQUIRE_CUDA": "cuda>=12.8 brand=unknown,driver>=470,driver<471 brand=grid,driver>=470,driver<471"
    " brand=tesla,driver>=470,driver<471 brand=tesla,driver>=535,driver<536"
    " brand=tesla,driver>=550,driver<551 brand=geforce,driver>=565,driver<566",
}


def state(environment: dict[str, str], version: str) -> str:
    return driver.judge(driver.needs(environment, {}), version, KNOWN).state


@pytest.mark.parametrize(
    ("environment", "version", "expected"),
    [
        (NGC_2504, "580.65.06", FITS),
        (NGC_2504, "575.51.03", FITS),
        (NGC_2504, "575.51.02", FORWARD),  # minor version compatibility
        (NGC_2504, "535.104.05", FORWARD),
        (NGC_2504, "525.60.13", FORWARD),
        (NGC_2504, "470.57.02", FORWARD),  # by its own libraries
        (NGC_2504, "520.61.05", TOO_OLD),
        (NGC_2504, "450.80.02", TOO_OLD),
        (NGC_2508, "580.65.06", FITS),
        (NGC_2508, "570.133.20", FORWARD),
        (NGC_2508, "550.54.15", FORWARD),
        (NGC_2508, "575.57.08", TOO_OLD),
        (NGC_2508, "560.35.05", TOO_OLD),
        ({**NGC_2508, "_CUDA_COMPAT_PATH": ""}, "570.133.20", TOO_OLD),
        (CUDA_128, "570.26", FITS),
        (CUDA_128, "550.54.15", FORWARD),
        (CUDA_128, "470.57.02", FORWARD),
        (CUDA_128, "560.35.05", TOO_OLD),  # NVIDIA's own tools would not start it
        (CUDA_128, "565.57.01", TOO_OLD),  # for other GPUs than a data centre's
        ({**CUDA_128, "NVIDIA_DISABLE_REQUIRE": "1"}, "560.35.05", FORWARD),
        ({"CUDA_VERSION": "14.1.0"}, "700.10.01", UNKNOWN),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4"}, "550.54.15", FITS),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4"}, "545.23.08", TOO_OLD),
        ({"NVIDIA_REQUIRE_CUDA": "driver!=550,arch>=8.0"}, "550.54.15", TOO_OLD),
        ({"NVIDIA_REQUIRE_CUDA": "driver=550,brand!=geforce"}, "550.54.15", FITS),
        ({"NVIDIA_REQUIRE_DRIVER": "driver>=570"}, "550.54.15", TOO_OLD),
        ({**NGC_2504, "NVIDIA_REQUIRE_DRIVER": "driver>=580"}, "575.51.03", TOO_OLD),
        ({"CUDA_VERSION": "8.0"}, "367.48", UNKNOWN),
        ({"CUDA_VERSION": "8.0"}, "384.81", FITS),
        ({"CUDA_VERSION": "10.0"}, "367.48", TOO_OLD),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4 or so"}, "550.54.15", UNKNOWN),
        ({"PATH": "/bin"}, "550.54.15", NO_CUDA),
        ({"PATH": "/bin"}, "", NO_CUDA),
        (NGC_2504, "", UNKNOWN),
    ],
)
def test_verdicts(environment: dict[str, str], version: str, expected: str) -> None:
    assert state(environment, version) == expected


def test_the_reason_has_the_numbers() -> None:
    reason = driver.judge(driver.needs(NGC_2508, {}), "560.35.05", KNOWN).reason
    assert reason == "driver 560.35.05 runs CUDA 12.6, and it has CUDA 13.0"
    reason = driver.judge(driver.needs(CUDA_128, {}), "560.35.05", KNOWN).reason
    assert reason == "driver 560.35.05 runs CUDA 12.6, and it wants cuda>=12.8"


def test_an_image_of_before_cuda_version_has_a_label() -> None:
    assert driver.needs({}, {"com.nvidia.cuda.version": "8.0.61"}) == Needs("8.0")
    assert driver.needs({"CUDA_VERSION": "12.9.0.036"}, {"com.nvidia.cuda.version": "9.0"}).cuda == "12.9"


@pytest.mark.parametrize(
    ("version", "newest"),
    [
        ("590.44.01", "25.12-py3"),
        ("580.65.06", "25.12-py3"),
        ("570.26", "25.07-py3"),
        ("525.60.13", "25.07-py3"),
        ("520.61.05", None),
    ],
)
def test_the_newest_tag_that_fits(version: str, newest: str | None) -> None:
    tags = driver.fitting("nvcr.io/nvidia/pytorch", version, KNOWN)
    assert (tags[0] if tags else None) == newest
    assert tags == sorted(tags, reverse=True)
    assert driver.fitting("nvcr.io/nvidia/other", version, KNOWN) == []


def test_the_table_is_whole() -> None:
    drivers = [KNOWN.drivers[cuda] for cuda in sorted(KNOWN.drivers)]
    assert drivers == sorted(drivers), "a newer CUDA came with a newer driver"
    for image, tags in KNOWN.images.items():
        base = parse_base(f"{image}:{next(iter(tags))}")
        assert f"{base.registry}/{base.repository}" == image
        for tag, cuda in tags.items():
            assert re.fullmatch(r"\d\d\.\d\d-py3", tag)
            assert driver.version(cuda) in KNOWN.drivers
