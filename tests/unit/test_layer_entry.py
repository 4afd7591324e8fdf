"""One entry: its text, and the fingerprint by which a changed tree is noticed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln import files
from kiln.errors import StoreError
from kiln.layers import entry as entries
from kiln.layers.entry import Entry, fingerprint
from kiln.runtime import namespace
from tests.unit import layertiers
from tests.unit.layertiers import ENV

# --- the text ----------------------------------------------------------------------------------


def test_an_entry_is_read_as_it_was_written() -> None:
    made = dataclasses.replace(layertiers.entry(), fingerprint="f", digest="sha256:1", size=3)
    assert entries.parse(made.to_json()) == made
    # A later Kiln of the same format may know more, this one knows enough without what has a default.
    data = {**json.loads(made.to_json()), "colour": "red"}
    assert entries.parse(json.dumps(data)) == made
    del data["size"]
    assert entries.parse(json.dumps(data)).size == 0


def test_the_changes_of_packages_are_kept() -> None:
    made = dataclasses.replace(layertiers.entry(), changes=[{"kind": "apt", "name": "vim", "after": "9"}])
    assert entries.parse(made.to_json()) == made
    text = json.loads(made.to_json())
    for wrong in ([{"kind": "apt"}], ["kind, name"], [None]):
        with pytest.raises(StoreError, match="changes that name no package"):
            entries.parse(json.dumps({**text, "changes": wrong}))


def test_an_entry_of_a_newer_kiln_is_refused() -> None:
    text = json.dumps({**json.loads(layertiers.entry().to_json()), "format": 2, "made": "a new way"})
    with pytest.raises(StoreError, match="made by a newer Kiln") as caught:
        entries.parse(text)
    assert caught.value.hint == "update this one"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "1", '"x"', b"\xff\xfe", '{"format": 1}'])
def test_what_is_no_entry_is_refused(text: str | bytes) -> None:
    with pytest.raises(StoreError, match=r"its entry\.json can't be read"):
        entries.parse(text)


VALUES = st.none() | st.integers() | st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text())


@given(st.sampled_from([field.name for field in dataclasses.fields(Entry)]), VALUES)
def test_a_field_of_another_kind_is_refused(name: str, value: object) -> None:
    good = layertiers.entry()
    text = json.dumps({**json.loads(good.to_json()), name: value})
    try:
        read = entries.parse(text)
    except StoreError:
        return
    now, before = getattr(read, name), getattr(good, name)
    assert now == value
    assert isinstance(now, int | float if isinstance(before, float) else type(before))


def test_every_damage_of_a_text_is_refused_or_harmless() -> None:
    text = layertiers.entry().to_json()
    for length in range(len(text) - 2):
        with pytest.raises(StoreError):
            entries.parse(text[:length])


# --- the fingerprint ---------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = layertiers.tree(tmp_path / "tree")
    (made / "folder/sub").mkdir(parents=True)
    (made / "folder/file").write_text("12345\n")
    os.link(made / "folder/file", made / "folder/other-name")
    return made


def _same_size_and_time(tree: Path) -> None:
    status = (tree / "etc/motd").stat()
    (tree / "etc/motd").write_text("HELLO\n")
    os.utime(tree / "etc/motd", ns=(status.st_atime_ns, status.st_mtime_ns))


def _link_to_elsewhere(tree: Path) -> None:
    (tree / "motd").unlink()
    (tree / "motd").symlink_to("etc/mold")


def _replaced_by_its_copy(tree: Path) -> None:
    shutil.copy2(tree / "etc/motd", tree / "copy")
    (tree / "copy").replace(tree / "etc/motd")


CHANGES: dict[str, Callable[[Path], object]] = {
    "other bytes": lambda tree: (tree / "etc/motd").write_text("HELLO\n"),
    "other bytes, the time put back": _same_size_and_time,
    "a time": lambda tree: os.utime(tree / "etc/motd", (0, 0)),
    "the mode of a file": lambda tree: (tree / "etc/motd").chmod(0o600),
    "the mode of a folder": lambda tree: (tree / "folder/sub").chmod(0o700),
    "the mode of the tree": lambda tree: tree.chmod(0o700),
    "a file missing": lambda tree: (tree / "etc/motd").unlink(),
    "a file more": lambda tree: (tree / "etc/new").touch(),
    "a file more, beside the others": lambda tree: (tree / "new").touch(),
    "another name": lambda tree: (tree / "etc/motd").rename(tree / "etc/mold"),
    "another folder": lambda tree: (tree / "etc/motd").rename(tree / "folder/motd"),
    "a link's new target": _link_to_elsewhere,
    "another hard link": lambda tree: os.link(tree / "etc/motd", tree / "third"),
    "a hard link less": lambda tree: (tree / "folder/other-name").unlink(),
    "a copy in its place": _replaced_by_its_copy,
    "a folder missing": lambda tree: (tree / "folder/sub").rmdir(),
    "a folder emptied": lambda tree: files.remove_tree(tree / "folder"),
    "a mark on a folder": lambda tree: os.setxattr(tree / "folder", "user.overlay.opaque", b"y"),
    "a whiteout": lambda tree: layertiers.whiteout(tree / "gone"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_change_is_noticed(tree: Path, name: str) -> None:
    before, _ = fingerprint(tree)
    CHANGES[name](tree)
    assert fingerprint(tree)[0] != before


def test_reading_and_moving_the_tree_changes_nothing(tree: Path, tmp_path: Path) -> None:
    before = fingerprint(tree)
    files.sha256_path(tree)
    os.utime(tree)
    (tmp_path / "entry").mkdir()
    tree.rename(tmp_path / "entry/tree")
    assert fingerprint(tmp_path / "entry/tree") == before


def test_lying_below_an_overlay_changes_nothing(tree: Path, tmp_path: Path, overlays: None) -> None:
    before = fingerprint(tree)
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/0").symlink_to(tree)
    with namespace.opened(ENV) as space:
        space.mount(tmp_path / "lower", tmp_path / "upper", tmp_path / "work", tmp_path / "merged")
        merged = space.view(tmp_path / "merged")
        (merged / "etc/motd").write_text("changed above")
        (merged / "folder/file").unlink()
        (merged / "etc/motd").chmod(0o600)
        files.remove_tree(merged / "folder")
        space.unmount(tmp_path / "merged")
    assert fingerprint(tree) == before
    assert (tree / "etc/motd").read_text() == "hello\n"


def test_hard_links_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    files.write_atomic(tmp_path / "tree/one", b"x" * 1_000_000)
    _, alone = fingerprint(tmp_path / "tree")
    assert alone >= 1_000_000
    for number in range(5):
        os.link(tmp_path / "tree/one", tmp_path / f"tree/{number}")
    assert fingerprint(tmp_path / "tree")[1] == alone


def test_names_that_are_no_text(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    seen = set()
    for name in (b"\xff\xfe", b"\xfe\xff", b"a\nb", b"a\n", b" ", b"-"):
        with open(os.path.join(root, name), "wb"):
            seen.add(fingerprint(tmp_path)[0])
    assert len(seen) == 6


@pytest.mark.parametrize("name", ["folder", "folder/sub"])
def test_a_folder_that_its_owner_may_not_read(tree: Path, name: str) -> None:
    with layertiers.unreadable(tree / name):
        before = fingerprint(tree)
        assert fingerprint(tree) == before
    assert fingerprint(tree) != before


def test_a_tree_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none")
