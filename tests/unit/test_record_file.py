"""Records: what is written is read again; what an earlier or a later Kiln wrote as far as this one can."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kiln import record
from kiln.errors import StoreError
from kiln.hardware import Hardware
from kiln.inventory import Package
from kiln.record import LayerRecord, SmokeResult
from tests.unit.conftest import RECORD

FULL = dataclasses.replace(
    RECORD,
    version="1-r1",
    file="demo-1-r1.sqsh",
    layers=(LayerRecord("apt", "apt git", 1.5, "key", 7.0, True),),
    smoke=(
        SmokeResult("ddp", ("-n",), "passed", True, 3.0, "2 ranks", Hardware(("H100",) * 2, "570.1", "6.8")),
        SmokeResult("commands", (), "passed", True, 0.1),
    ),
    packages=(
        Package("apt", "libc6", "2.36", "amd64", "glibc 2.36"),
        Package("python", "o'brien \"q\" \u00e9/\u4e16", "1+nv", "/usr/lib/python3/dist-packages", "", "MIT"),
    ),
    clean=False,
    companions={"cdx.json": "sha256:1"},
)  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(FULL.to_json())
    assert record.read(path) == FULL
    lines = path.read_text().splitlines()
    assert len([line for line in lines if '"kind": "python"' in line and '"licence": "MIT"' in line]) == 1
    path.write_text(RECORD.to_json())
    assert record.read(path) == RECORD


def test_a_record_of_before_packages_were_written_down(tmp_path: Path) -> None:
    data = json.loads(RECORD.to_json())
    for name in ("packages", "companions", "environment", "commit", "clean", "host", "job", "manifest"):
        del data[name]
    data["smoke"] = [{"hook": "x", "args": [], "state": "passed", "required": True, "seconds": 1}]
    (tmp_path / "x.json").write_text(json.dumps(data))
    found = record.read(tmp_path / "x.json")
    assert (found.packages, found.clean, found.smoke[0].hardware) == ((), None, None)


def test_fields_that_a_later_kiln_adds_are_passed_over(tmp_path: Path) -> None:
    data = json.loads(FULL.to_json())
    data["a_later_field"] = [{"level": "warning"}]
    data["packages"][0]["signed"] = True
    data["smoke"][0]["hardware"]["cpu"] = "EPYC"
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert record.read(tmp_path / "x.json") == FULL


@pytest.mark.parametrize("packages", ["none", [1], [{"kind": "apt"}], {"apt": []}])
def test_packages_of_a_wrong_form_make_no_traceback(tmp_path: Path, packages: object) -> None:
    data = {**json.loads(FULL.to_json()), "packages": packages}
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(StoreError, match="can't be read as a record"):
        record.read(tmp_path / "x.json")
