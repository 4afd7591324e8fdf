"""Records: what is written is read again, also by and of another Kiln."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kiln import record
from kiln.errors import StoreError
from kiln.record import LayerRecord, PackageChange
from tests.unit.conftest import RECORD

CHANGE = PackageChange("python", "torch", "/usr/lib", "2.7", "2.6", allowed=True)
FULL = dataclasses.replace(RECORD, layers=(LayerRecord("pip", "pip torch", 1.0, changes=(CHANGE,)),))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(FULL.to_json())
    assert record.read(tmp_path / "x.json") == FULL


def test_an_older_record_has_no_changes_and_a_later_one_may_say_more(tmp_path: Path) -> None:
    data = json.loads(FULL.to_json())
    data["layers"][0]["changes"][0]["colour"] = "red"
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert record.read(tmp_path / "x.json") == FULL
    del data["layers"][0]["changes"]
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert record.read(tmp_path / "x.json").layers[0].changes == ()


@pytest.mark.parametrize("changes", [[{}], [{"kind": "apt"}], ["torch"], 1, None])
def test_damaged_changes_make_a_damaged_record(tmp_path: Path, changes: object) -> None:
    data = json.loads(FULL.to_json())
    data["layers"][0]["changes"] = changes
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(StoreError, match="can't be read as a record"):
        record.read(tmp_path / "x.json")


ODD = {"name": 1, "size": "big", "built": None, "env": ["x"], "environment": {"A": 1}, "clean": "yes"}


@pytest.mark.parametrize("name", ODD)
def test_a_value_of_another_kind_makes_a_damaged_record(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**json.loads(FULL.to_json()), name: ODD[name]}))
    with pytest.raises(StoreError, match="can't be read as a record"):
        record.read(tmp_path / "x.json")


def test_endless_nesting_makes_a_damaged_record(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(StoreError, match="can't be read as a record"):
        record.read(tmp_path / "x.json")
