"""How many builds a machine carries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiln import capacity

GIB = 1 << 30


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """64 cores, 100 GiB, and a job's control group."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {100 * GIB >> 10} kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/7\n")
    (tmp_path / "sys/fs/cgroup/jobs/7").mkdir(parents=True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    return tmp_path


def limit(folder: Path, most: str, used: int = 0) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_memory_and_cores_decide(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert capacity.builds_at_once(host) == 12
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(14)))
    assert capacity.builds_at_once(host) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert capacity.builds_at_once(host) == 1


def test_a_job_has_the_limits_of_its_groups(host: Path) -> None:
    group = host / "sys/fs/cgroup/jobs/7"
    limit(group, "max")
    assert capacity.builds_at_once(host) == 12
    limit(group, str(40 * GIB), 8 * GIB)
    assert capacity.builds_at_once(host) == 4
    limit(group.parent, str(20 * GIB))
    assert capacity.builds_at_once(host) == 2
    limit(group.parent, str(20 * GIB), 30 * GIB)
    assert capacity.builds_at_once(host) == 1
