"""Which versions may go, and why the others stay."""

from __future__ import annotations

import json

import pytest

from kiln import channels, retention
from kiln.retention import Limits
from kiln.store import Store
from tests.unit.conftest import Publisher

DAY = 86_400.0


def change(store: Store, name: str, version: str, **fields: object) -> None:
    path = store.record(name, version)
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def stays(store: Store, last: int = 1, grace: float = DAY) -> dict[str, str]:
    return {each.reference: each.stays for each in retention.verdicts(store, Limits(last, grace))}


def test_channels_the_last_and_the_young_stay(store: Store, put: Publisher) -> None:
    for _ in range(5):
        put("demo")
    channels.promote(store, "demo:1.0-r1", "lts", "", lambda text: None)
    change(store, "demo", "1.0-r2", built="2999-01-01T00:00:00Z")
    assert stays(store, last=2) == {
        "demo:1.0-r1": "lts leads to it",
        "demo:1.0-r2": "built 2999-01-01",
        "demo:1.0-r3": "",
        "demo:1.0-r4": "one of the last 2",
        "demo:1.0-r5": "current leads to it",
    }


def test_every_image_has_its_own_last(store: Store, put: Publisher) -> None:
    for name in ("a", "b"):
        put(name, smoke=("skipped",))
        put(name)
    assert [reference for reference, why in stays(store).items() if not why] == []
    put("a")
    assert [reference for reference, why in stays(store).items() if not why] == ["a:1.0-r2"]


def test_what_stays_keeps_what_it_is_built_on(store: Store, put: Publisher) -> None:
    for name in ("base", "base", "middle", "middle", "top"):
        put(name)
    for name, version, number in (
        ("base", "1.0-r1", 1),
        ("base", "1.0-r2", 2),
        ("middle", "1.0-r1", 3),
        ("middle", "1.0-r2", 4),
        ("top", "1.0-r1", 5),
    ):
        change(store, name, version, digest=f"sha256:{number:064}")
    change(store, "middle", "1.0-r1", base="image:base:1.0-r1", base_digest=f"sha256:{1:064}")
    change(store, "top", "1.0-r1", base="image:middle", base_digest=f"sha256:{3:064}")
    assert stays(store)["middle:1.0-r1"] == "top 1.0-r1 is built on it"
    assert stays(store)["base:1.0-r1"] == "middle 1.0-r1 is built on it"


@pytest.mark.parametrize("text", ["{", '{"format": 99}'])
def test_a_damaged_record_keeps_its_version(store: Store, put: Publisher, text: str) -> None:
    put("demo")
    put("demo")
    path = store.record("demo", "1.0-r1")
    path.chmod(0o644)
    path.write_text(text)
    assert "its record is damaged" in stays(store)["demo:1.0-r1"]


def test_a_time_that_can_not_be_read_is_now(store: Store, put: Publisher) -> None:
    put("demo")
    put("demo")
    change(store, "demo", "1.0-r1", built="yesterday")
    assert stays(store)["demo:1.0-r1"] == "built yesterday"
