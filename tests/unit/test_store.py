"""Finding versions by name, and their order."""

from __future__ import annotations

import json

import pytest

from kiln.errors import StoreError
from kiln.store import Store, next_version
from tests.unit.conftest import Publisher


def test_versions_sort_as_people_count() -> None:
    versions = ["24.12-py3-r2", "25.04-py3-r10", "25.04-py3-r9", "9.1-r1"]
    assert next_version(versions, "25.04-py3") == "25.04-py3-r11"
    assert next_version(versions, "25.05-py3") == "25.05-py3-r1"


def test_a_name_alone_is_current_then_candidate_then_newest(store: Store, put: Publisher) -> None:
    put("demo", smoke=("skipped",))
    put("demo", smoke=("skipped",))
    assert store.find("demo").version == "1.0-r2"
    put("demo")
    put("demo", smoke=("skipped",))
    assert store.find("demo").version == "1.0-r3"
    assert store.find("demo:candidate").version == "1.0-r4"
    assert store.find("demo:1.0-r1").version == "1.0-r1"


def test_unknown_things_are_named_with_what_there_is(store: Store, put: Publisher) -> None:
    put("demo")
    with pytest.raises(StoreError, match="no image 'dmeo'") as caught:
        store.find("dmeo")
    assert "did you mean 'demo'" in caught.value.hint
    with pytest.raises(StoreError, match="no version '7' of demo") as caught:
        store.find("demo:7")
    assert caught.value.hint == "there are: 1.0-r1"


def test_a_missing_store_is_told_with_the_way_out(store: Store) -> None:
    with pytest.raises(StoreError, match=r"cannot read the images folder .*No such file") as caught:
        store.names()
    assert "KILN_IMAGES" in caught.value.hint


@pytest.mark.parametrize("name", ["../demo", "", "demo/..", "a\0b"])
def test_a_hostile_reference_reads_nothing_outside(store: Store, put: Publisher, name: str) -> None:
    put("demo")
    with pytest.raises(StoreError):
        store.find(name)


def test_records_of_other_times(store: Store, put: Publisher) -> None:
    put("demo")
    path = store.record("demo", "1.0-r1")
    path.chmod(0o644)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "a_later_field": 1}))
    assert store.find("demo").record is not None
    path.write_text(json.dumps({**data, "format": 99}))
    assert "newer Kiln" in store.find("demo").problem
