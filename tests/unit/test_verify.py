"""Checking a published image: everything good, and each thing that can be wrong by itself."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from kiln import publish, signature, verify
from kiln.errors import VerifyError
from kiln.record import Record
from kiln.site import Signing
from kiln.store import Store
from kiln.verify import BAD, GOOD, UNKNOWN, Checker, Finding
from tests.unit.conftest import Publisher
from tests.unit.test_signature import allow, key

UNSIGNED = Signing()


def check(store: Store, reference: str = "demo", signing: Signing = UNSIGNED) -> dict[str, Finding]:
    found = Checker(store, signing, os.environ).check(store.find(reference), lambda done, total: None)
    return {item.name.removeprefix("demo-1.0-r1."): item for item in found}


def bad(found: dict[str, Finding]) -> list[str]:
    return [name for name, item in found.items() if item.state == BAD]


def changed(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_an_image_as_it_was_published(store: Store, put: Publisher) -> None:
    record, _ = put("demo")
    found = check(store)
    assert {name: item.state for name, item in found.items()} == {
        "sqsh": GOOD, "cdx.json": GOOD, "provenance.json": GOOD, "sha256": GOOD, "json.sig": UNKNOWN
    }  # fmt: skip
    assert found["sqsh"].detail == record.digest
    verify.conclude(store.find("demo"), list(found.values()))


def test_one_flipped_bit(store: Store, put: Publisher) -> None:
    record, _ = put("demo")
    path = store.image("demo", "1.0-r1")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    changed(path, bytes(data))
    found = check(store)
    assert bad(found) == ["sqsh"]
    assert found["sqsh"].detail.endswith(f"by its record {record.digest}")
    with pytest.raises(VerifyError, match=r"demo 1\.0-r1 is not what was published") as caught:
        verify.conclude(store.find("demo"), list(found.values()))
    assert caught.value.exit_code == 16
    assert caught.value.details[0].startswith("demo-1.0-r1.sqsh: its bytes are sha256:")


def test_a_file_cut_short(store: Store, put: Publisher) -> None:
    record, _ = put("demo")
    path = store.image("demo", "1.0-r1")
    changed(path, path.read_bytes()[:-1000])
    expected = f"it has {record.size - 1000:,} bytes, by its record {record.size:,}"
    assert check(store)["sqsh"].detail == expected


@pytest.mark.parametrize("suffix", ["cdx.json", "provenance.json", "sha256"])
def test_something_beside_it_was_changed_or_removed(store: Store, put: Publisher, suffix: str) -> None:
    put("demo")
    path = store.beside("demo", "1.0-r1", suffix)
    changed(path, path.read_bytes() + b" ")
    assert check(store)[suffix].detail == "not as on record"
    path.unlink()
    found = check(store)
    assert bad(found) == [suffix] and "No such file" in found[suffix].detail


def test_a_damaged_record(store: Store, put: Publisher) -> None:
    put("demo")
    changed(store.record("demo", "1.0-r1"), b"{")
    assert "can't be read as a record" in check(store)["json"].detail


def test_an_older_version_under_a_newer_name(store: Store, put: Publisher) -> None:
    put("demo")
    for suffix in ("sqsh", "json", "cdx.json", "provenance.json", "sha256"):
        shutil.copy(store.beside("demo", "1.0-r1", suffix), store.beside("demo", "1.0-r7", suffix))
    found = check(store, "demo:1.0-r7")
    assert "the record is about demo-1.0-r1.sqsh" in found["demo-1.0-r7.sqsh and its record"].detail


def test_a_signature_nobody_asked_for_and_one_that_is_missing(store: Store, put: Publisher) -> None:
    put("demo")
    assert check(store)["json.sig"] == Finding("demo-1.0-r1.json.sig", UNKNOWN, "there is no signature")
    assert bad(check(store, signing=Signing(required=True))) == ["json.sig"]
    store.beside("demo", "1.0-r1", "json.sig").write_text("x")
    assert "whose count" in check(store)["json.sig"].detail
    assert bad(check(store, signing=Signing(required=True))) == ["json.sig"]


@pytest.fixture
def signed(store: Store, put: Publisher, tmp_path: Path) -> tuple[Record, Signing]:
    """A signed demo 1.0-r1, and a site at which the signature counts."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("NO ssh-keygen HERE: no signature tested")
    mine = key(tmp_path / "mine")
    record, _ = put("other")
    record, _ = publish.publish(
        store,
        store.image("other", "1.0-r1"),
        dataclasses.replace(record, name="demo"),
        "1.0",
        lambda text: None,
        lambda data: signature.sign(data, mine, os.environ),
    )
    return record, Signing(key=mine, allowed_signers=allow(tmp_path / "allowed", mine), required=True)


def test_a_good_signature(store: Store, signed: tuple[Record, Signing]) -> None:
    found = check(store, signing=signed[1])
    assert bad(found) == []
    assert found["json.sig"].detail == "by curator@site"


def test_a_record_that_was_changed_after_it_was_signed(store: Store, signed: tuple[Record, Signing]) -> None:
    path = store.record("demo", "1.0-r1")
    changed(path, path.read_bytes().replace(b'"maintainer": ""', b'"maintainer": "me"'))
    found = check(store, signing=signed[1])
    assert bad(found) == ["json.sig"]
    assert found["json.sig"].detail.startswith("the signature by curator@site is not good")


def test_a_key_that_the_site_does_not_know(
    store: Store, signed: tuple[Record, Signing], tmp_path: Path
) -> None:
    other = allow(tmp_path / "others", key(tmp_path / "other"))
    found = check(store, signing=signed[1].model_copy(update={"allowed_signers": other}))
    assert bad(found) == ["json.sig"]
    assert "doesn't have" in found["json.sig"].detail
