"""Which tag comes after which, and which Debian version."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest

from kiln import debversion, series

NGC = ("24.12-py3", "25.01-py3", "25.04-py3", "25.04-py3-igpu", "25.05-py3-igpu", "25.06-trtllm-python-py3")


def test_the_newest_of_a_series_comes_first() -> None:
    assert series.newer("24.12-py3", NGC) == ["25.04-py3", "25.01-py3"]
    assert series.newer("25.04-py3-igpu", NGC) == ["25.05-py3-igpu"]
    assert series.newer("25.04-py3", NGC) == []


@pytest.mark.parametrize(
    ("tag", "other", "is_newer"),
    [
        ("12.4.1-cudnn-devel-ubuntu22.04", "12.6.0-cudnn-devel-ubuntu22.04", True),
        ("12.4.1-cudnn-devel-ubuntu22.04", "12.6.0-cudnn-devel-ubuntu24.04", False),
        ("9.0", "10.0", True),
        ("3.12", "3.12.1", False),
        ("v1.9.0", "v1.10.0", True),
        ("v1.9.0", "1.10.0", False),
        ("v1.9.0", "v1.10.0-rc1", False),
        ("bookworm-20240101", "bookworm-20250101", True),
        ("latest", "1.0", False),
        ("sha-1a2b3c4", "sha-9a2b3c4", False),
    ],
)
def test_what_is_of_a_series(tag: str, other: str, is_newer: bool) -> None:
    assert bool(series.newer(tag, [other])) is is_newer


VERSIONS = [
    "1.0~rc1", "1.0~rc1-1", "1.0", "1.0-1", "1.0-1+deb12u1", "1.0-1.1", "1.0-2", "1.0a", "1.0+b", "1.1",
    "1.10", "2.36-9+deb12u8", "2.36-9+deb12u10", "1:0.5", "1:0.5-1~bpo12+1", "1:0.5-1",
]  # fmt: skip


def test_debian_versions_are_in_dpkgs_order() -> None:
    assert sorted(reversed(VERSIONS), key=debversion.key) == VERSIONS


@pytest.mark.skipif(not shutil.which("dpkg"), reason="no dpkg here")
def test_dpkg_says_the_same() -> None:
    for before, after in itertools.pairwise(VERSIONS):
        subprocess.run(["dpkg", "--compare-versions", before, "lt", after], check=True)
