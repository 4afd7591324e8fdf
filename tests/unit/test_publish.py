"""Publishing: numbers, channels, rights, and what a reader sees of a publish that is killed half way."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from kiln import companions, files, publish
from kiln.errors import EnvironmentMissing, ExportError, SpaceError, StoreError
from kiln.record import Record
from kiln.store import Store
from tests.unit.conftest import Publisher


def test_a_first_publish_makes_everything(store: Store, put: Publisher) -> None:
    record, channel = put("demo")
    assert (record.version, channel) == ("1.0-r1", "current")
    folder = store.folder("demo")
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "current.sqsh",
        "demo-1.0-r1.sqsh",
        "demo-1.0-r1.json",
        "demo-1.0-r1.cdx.json",
        "demo-1.0-r1.provenance.json",
        "demo-1.0-r1.sha256",
        "history.jsonl",
    }
    assert os.readlink(folder / "current.sqsh") == "demo-1.0-r1.sqsh"
    assert stat.S_IMODE((folder / "demo-1.0-r1.sqsh").stat().st_mode) == 0o444
    catalog = json.loads(store.catalog.read_text())
    assert catalog["images"]["demo"]["versions"][0]["digest"] == record.digest


def test_the_checksum_file_is_what_coreutils_read(store: Store, put: Publisher) -> None:
    put("demo")
    digest, name = (store.folder("demo") / "demo-1.0-r1.sha256").read_text().split()
    assert files.sha256_file(store.folder("demo") / name) == digest


def test_the_record_has_the_digests_of_what_lies_beside(store: Store, put: Publisher) -> None:
    record, _ = put("demo")
    found = {suffix: store.beside("demo", "1.0-r1", suffix) for suffix in record.companions}
    assert {suffix: f"sha256:{files.sha256_file(path)}" for suffix, path in found.items()} == dict(
        record.companions
    )
    assert set(found) == {"cdx.json", "provenance.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found.values()} == {0o444}
    entry = store.entry("demo", "1.0-r1")
    read = companions.read(store, entry)
    assert read["provenance"]["subject"][0]["name"] == "demo-1.0-r1.sqsh"
    assert read["sbom"]["bomFormat"] == "CycloneDX"
    found["cdx.json"].chmod(0o644)
    found["cdx.json"].write_text("{}")
    assert companions.read(store, entry)["sbom"] is None, "it isn't the one of this record"


def test_the_signature_is_of_the_record_as_it_lies_there(store: Store, image: Path, put: Publisher) -> None:
    record, _ = put("demo")
    # What a publish with a signature left, which was killed before its .sqsh was there.
    store.beside("demo", "1.0-r2", "json.sig").write_text("of another record")
    assert put("demo")[0].version == "1.0-r2"
    assert not store.beside("demo", "1.0-r2", "json.sig").exists()
    signed: list[bytes] = []

    def sign(data: bytes) -> bytes:
        signed.append(data)
        return b"a signature"

    publish.publish(store, store.image("demo", "1.0-r1"), record, "1.0", lambda text: None, sign)
    assert [store.record("demo", "1.0-r3").read_bytes()] == signed
    assert store.beside("demo", "1.0-r3", "json.sig").read_bytes() == b"a signature"


def test_a_key_that_fails_publishes_nothing(store: Store, put: Publisher) -> None:
    record, _ = put("demo")

    def refused(data: bytes) -> bytes:
        raise EnvironmentMissing("cannot sign")

    with pytest.raises(EnvironmentMissing):
        publish.publish(store, store.image("demo", "1.0-r1"), record, "1.0", lambda text: None, refused)
    assert store.versions("demo") == ["1.0-r1"]
    assert not store.record("demo", "1.0-r2").exists()


def test_numbers_go_on_per_base_label(put: Publisher) -> None:
    versions = [put("demo")[0].version, put("demo")[0].version, put("demo", label="2.0")[0].version]
    assert versions == ["1.0-r1", "1.0-r2", "2.0-r1"]


def test_a_skipped_required_hook_makes_a_candidate_and_leaves_current(store: Store, put: Publisher) -> None:
    put("demo")
    _, channel = put("demo", smoke=("passed", "skipped"))
    assert channel == "candidate"
    assert store.channels("demo") == {"current": "1.0-r1", "candidate": "1.0-r2"}


def _publish(store: Store, finished: Path, record: Record) -> None:
    publish.publish(store, finished, record, "1.0", lambda text: None)


def test_two_at_once_get_different_numbers(store: Store, put: Publisher, tmp_path: Path) -> None:
    record, _ = put("demo")
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_publish, args=(store, tmp_path / "demo.sqsh", record)) for _ in range(4)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0] * 4
    assert store.versions("demo") == [f"1.0-r{number}" for number in range(1, 6)]


STEPS = ("link", "mkdir", "replace", "symlink", "unlink", "rmdir", "chmod", "fsync")


def _publish_and_die(store: Store, finished: Path, record: Record, fatal: int) -> None:
    """Publish, and die by SIGKILL at the `fatal`th system call that changes anything."""
    count = 0

    def wrap(name: str) -> None:
        original = getattr(os, name)

        def counted(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(os, name, counted)

    for name in STEPS:
        wrap(name)
    publish.publish(store, finished, record, "1.0", lambda text: None)


def _assert_readable(store: Store) -> None:
    """What a reader relies on: every version is whole and has its record, every channel leads to one."""
    for entry in store.entries():
        assert entry.record is not None, entry.problem
        assert files.sha256_file(entry.path) == entry.record.digest.removeprefix("sha256:")
    for name in store.names():
        for version in store.channels(name).values():
            assert version in store.versions(name)
    json.loads(store.catalog.read_text())


def test_killed_at_every_step_a_reader_sees_only_whole_images(
    store: Store, put: Publisher, tmp_path: Path
) -> None:
    record, _ = put("demo")
    context = multiprocessing.get_context("fork")
    fatal = 0
    while True:
        fatal += 1
        process = context.Process(
            target=_publish_and_die, args=(store, tmp_path / "demo.sqsh", record, fatal)
        )
        process.start()
        process.join()
        _assert_readable(store)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert fatal > 15
    last, _ = put("demo")
    assert store.channels("demo")["current"] == last.version
    left = {path.name for path in store.folder("demo").iterdir()} - {".lock", "current.sqsh", "history.jsonl"}
    stems = {f"demo-{version}" for version in store.versions("demo")}
    ends = ("sqsh", "json", "cdx.json", "provenance.json", "sha256")
    assert {name for name in left if not name.startswith(".")} == {
        f"{s}.{end}" for s in stems for end in ends
    }
    assert not (store.folder("demo") / publish.STAGING).exists()


def test_a_full_disk_publishes_nothing(store: Store, put: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    put("demo")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(SpaceError, match="no space left while writing"):
        put("demo")
    monkeypatch.undo()
    assert store.versions("demo") == ["1.0-r1"]
    assert not (store.folder("demo") / publish.STAGING).exists()


def test_another_file_system_is_copied_to_and_checked(
    store: Store, put: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.link

    def across(source: Path, target: Path) -> None:
        if publish.STAGING in str(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        original(source, target)

    monkeypatch.setattr(os, "link", across)
    put("demo")
    _assert_readable(store)
    monkeypatch.setattr(files, "sha256_file", lambda path: "f" * 64)
    with pytest.raises(ExportError, match="differs from what was tested"):
        publish._bring(store.image("demo", "1.0-r1"), store.root / publish.STAGING, "sha256:0")


def test_a_file_system_without_hard_links(
    store: Store, put: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    put("demo")
    put("demo")
    _assert_readable(store)
    assert store.versions("demo") == ["1.0-r1", "1.0-r2"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_told_before_any_work(store: Store, put: Publisher) -> None:
    put("demo")
    store.folder("demo").chmod(0o555)
    with pytest.raises(StoreError, match=r"you may not write to .*/demo \(owner: \w+, group: \w+\)"):
        publish.check_writable(store, "demo")


def test_a_store_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("")
    (tmp_path / "images").chmod(0o755)
    with pytest.raises(StoreError, match="is not a folder"):
        publish.check_writable(Store(tmp_path / "images"), "demo")


def test_a_damaged_record_makes_one_image_doubtful_not_the_catalogue(store: Store, put: Publisher) -> None:
    put("demo")
    put("other")
    path = store.record("demo", "1.0-r1")
    path.chmod(0o644)
    path.write_text("{")
    publish.refresh_catalog(store, lambda text: None)
    images = json.loads(store.catalog.read_text())["images"]
    assert "can't be read" in images["demo"]["versions"][0]["problem"]
    assert images["other"]["versions"][0]["version"] == "1.0-r1"
