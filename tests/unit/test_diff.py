"""Differences of two records, and how they are shown."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

from rich.console import Console

from kiln import diff, diffview
from kiln.diff import Change, Difference
from kiln.inventory import Package
from kiln.record import Record
from tests.unit.conftest import RECORD

SYSTEM, VENV = "/usr/lib/python3/dist-packages", "/opt/venv/lib/python3.11/site-packages"
OLD = dataclasses.replace(
    RECORD,
    version="1-r1",
    size=85_500_000,
    base="nvcr.io/nvidia/pytorch:25.04-py3",
    environment={"PATH": "/bin", "CUDA_VERSION": "12.9.0", "GONE": "1"},
    companions={"cdx.json": "sha256:1"},
    packages=(
        Package("apt", "bash", "5.1", "amd64"),
        Package("apt", "libc6", "2.36", "amd64"),
        Package("apt", "libc6", "2.36", "i386"),
        Package("python", "numpy", "1.26", VENV),
        Package("python", "pip", "23", SYSTEM),
        Package("python", "torch", "2.7", SYSTEM),
    ),
)
NEW = dataclasses.replace(
    OLD,
    version="1-r2",
    digest="sha256:" + "9" * 64,
    size=90_000_000,
    base="nvcr.io/nvidia/pytorch:25.05-py3",
    base_digest="sha256:" + "8" * 64,
    environment={"PATH": "/bin", "CUDA_VERSION": "12.9.1", "NEW": "x"},
    packages=(
        Package("apt", "bash", "5.2", "amd64"),
        Package("apt", "libc6", "2.36", "amd64"),
        Package("python", "a|b `c` <d>", "1", SYSTEM),
        Package("python", "numpy", "1.26", VENV.replace("3.11", "3.12")),
        Package("python", "pip", "23", SYSTEM),
        Package("python", "torch", "2.8", SYSTEM),
        Package("python", "torch", "2.7", VENV.replace("3.11", "3.12")),
    ),
)


def shown(found: Difference, view: Any = diffview.tables) -> str:
    text = io.StringIO()
    view(Console(file=text, width=200), found)
    return text.getvalue()


def test_packages_by_kind_and_what_became_of_them() -> None:
    found = diff.compare(OLD, NEW)
    place = VENV.replace("3.11", "3")
    assert found.of("apt", "changed") == [Change("bash", "amd64", "5.1", "5.2")]
    assert found.of("apt", "removed") == [Change("libc6", "i386", "2.36", "")]
    assert found.of("apt", "added") == []
    assert found.of("python", "changed") == [Change("torch", SYSTEM, "2.7", "2.8")]
    assert [change.name for change in found.of("python", "added")] == ["a|b `c` <d>", "torch"]
    assert found.of("python", "added")[1] == Change("torch", place, "", "2.7")
    assert found.of("python", "removed") == [], "another Python's folder is no removal"


def test_base_variables_and_size() -> None:
    found = diff.compare(OLD, NEW)
    assert [change.name for change in found.base] == ["base", "digest"]
    assert {change.name: change.state for change in found.environment} == {
        "CUDA_VERSION": "changed", "GONE": "removed", "NEW": "added"
    }  # fmt: skip
    assert found.growth == 4_500_000


def test_the_way_back_is_the_opposite() -> None:
    there, back = diff.compare(OLD, NEW), diff.compare(NEW, OLD)
    for kind in diff.KINDS:
        flipped = [Change(each.name, each.place, each.after, each.before) for each in back.packages[kind]]
        assert sorted(flipped) == sorted(there.packages[kind])


def test_an_image_and_itself() -> None:
    found = diff.compare(OLD, OLD)
    assert found.same and not found.base and not found.environment
    assert "are the same bytes" in shown(found) and "no change" in shown(found)


def test_metadata_of_two_versions_in_one_place() -> None:
    twice = dataclasses.replace(OLD, packages=(*OLD.packages, Package("python", "pip", "24", SYSTEM)))
    assert diff.compare(OLD, twice).of("python", "changed") == [Change("pip", SYSTEM, "23", "23, 24")]


def test_a_record_of_before_packages_is_said_and_no_removal() -> None:
    early: Record = dataclasses.replace(OLD, packages=(), companions={}, environment={}, env={"A": "1"})
    found = diff.compare(early, NEW)
    assert found.packages == {"apt": (), "python": ()}
    assert found.missing == ("demo 1-r1 was published before packages were put on record",)
    assert "not compared: demo 1-r1" in shown(found) and "not known" in shown(found)


def test_as_a_table() -> None:
    text = shown(diff.compare(OLD, NEW))
    for part in (
        "demo 1-r1 -> demo 1-r2",
        "85.5 MB -> 90.0 MB (+4.5 MB)",
        "apt packages: 1 changed, 1 removed",
    ):
        assert part in text
    assert "libc6 (i386)" in text and "a|b `c` <d>" in text


def test_as_markdown() -> None:
    lines = shown(diff.compare(OLD, NEW), diffview.markdown).splitlines()
    assert lines[0] == "## demo 1-r1 -> demo 1-r2"
    assert "### Python packages: 1 changed, 2 added" in lines
    assert "| torch | changed | 2.7 | 2.8 |" in lines
    assert "| a\\|b \\`c\\` \\<d> | added |  | 1 |" in lines


def test_as_data() -> None:
    data = diff.compare(OLD, NEW).to_data()
    assert data["packages"]["apt"]["changed"] == [
        {"name": "bash", "place": "amd64", "before": "5.1", "after": "5.2"}
    ]
    assert data["size"]["growth"] == 4_500_000 and data["same"] is False
