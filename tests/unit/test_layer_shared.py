"""The shared tier: what comes back is what was put, and only from those who are trusted."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kiln import files
from kiln.errors import SpaceError, StoreError
from kiln.layers import shared as tiers
from kiln.layers.entry import Entry
from kiln.layers.shared import Shared
from kiln.runtime import sandbox
from tests.unit import layertiers
from tests.unit.layertiers import ENV, KEY, entry

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)  # cap_net_bind_service+ep
STRANGER = os.getuid() + 1


@pytest.fixture
def tier(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "shared/v1", frozenset(), ENV)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An overlay's upper directory, with everything that there can be in one."""
    made = layertiers.tree(tmp_path / "tree")
    (made / "folder").mkdir()
    os.setxattr(made / "folder", "user.overlay.opaque", b"y")
    layertiers.whiteout(made / "folder/gone")
    layertiers.whiteout(made / "etc/gone")
    (made / "run-me").write_text("#!/bin/sh\n")
    (made / "run-me").chmod(0o4755)
    (made / "sticky").mkdir()
    (made / "sticky").chmod(0o3777)
    (made / "closed").mkdir(mode=0o700)
    (made / "closed/file").write_text("secret")
    (made / "closed/file").chmod(0o040)
    os.link(made / "run-me", made / "closed/same")
    (made / "broken").symlink_to("/nowhere")
    with open(os.fsencode(made) + b"/\xff", "wb") as stream:
        stream.write(b"no text")
    os.utime(made / "run-me", (1_000_000_000, 1_000_000_000))
    return made


@pytest.fixture
def placed(tier: Shared, tmp_path: Path) -> Entry:
    """A small entry in the shared tier, as that says of it."""
    tier.put(entry(), layertiers.tree(tmp_path / "small"))
    found, _ = tier.look("layer", KEY)
    assert found
    return found


def progress(done: int, total: int) -> None: ...


def nothing_left(tier: Shared) -> bool:
    """No half-made thing lies in the tier."""
    return not [path for path in tier.root.iterdir() if path.name.startswith(".")]


# --- there and back ----------------------------------------------------------------------------


def properties(tree: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        opaque = "user.overlay.opaque" in os.listxattr(path, follow_symlinks=False)
        named = os.readlink(path) if path.is_symlink() else ""
        data = path.read_bytes() if os.getuid() == 0 and path.is_file() else b""
        length = status.st_size if stat.S_ISREG(status.st_mode) else 0
        mtime = int(status.st_mtime)
        values = (status.st_mode, status.st_rdev, length, mtime, opaque, named, data)
        found[os.fsencode(path.relative_to(tree)).decode("latin-1")] = values
    return found


def test_everything_that_an_overlay_has_comes_back(tier: Shared, tree: Path, tmp_path: Path) -> None:
    tier.put(dataclasses.replace(entry(), fingerprint="f", size=7), tree)
    found, why = tier.look("layer", KEY)
    assert found, why
    tier.fetch(found, tmp_path / "back", progress)
    assert properties(tmp_path / "back") == properties(tree)
    assert os.path.samefile(tmp_path / "back/run-me", tmp_path / "back/closed/same")
    whiteout = (tmp_path / "back/etc/gone").lstat()
    assert stat.S_ISCHR(whiteout.st_mode) and whiteout.st_rdev == 0
    assert os.getxattr(tmp_path / "back/folder", "user.overlay.opaque") == b"y"


def test_capabilities_of_files_come_back(tier: Shared, tmp_path: Path) -> None:
    tree = layertiers.tree(tmp_path / "tree")
    script = f"import os; os.setxattr('{tree}/etc/motd', 'security.capability', {CAPABILITY!r})"
    argv = [sys.executable, "-c", script]
    done = sandbox.as_root(argv, what="set it", writable=[tree], env=ENV, timeout=30, fake_root=False)
    assert done.returncode == 0, done.output
    tier.put(entry(), tree)
    tier.fetch(entry(), tmp_path / "back", progress)
    before = os.getxattr(tree / "etc/motd", "security.capability")
    assert os.getxattr(tmp_path / "back/etc/motd", "security.capability") == before


def test_what_is_put_says_its_digest_and_can_be_read_by_all(tier: Shared, placed: Entry) -> None:
    folder = tier.folder("layer", KEY)
    assert placed.digest == f"sha256:{files.sha256_file(folder / 'tree.sqsh')}"
    assert placed.size == (folder / "tree.sqsh").stat().st_size
    assert dataclasses.replace(placed, digest="", size=0) == entry()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, *sorted(folder.iterdir()))] == [
        0o755,
        0o444,
        0o444,
    ]
    assert nothing_left(tier)


def test_progress_is_told_in_bytes_of_all(tier: Shared, placed: Entry, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tier.fetch(placed, tmp_path / "back", lambda done, total: told.append((done, total)))
    assert told[-1] == (placed.size, placed.size)


def test_a_second_place_reads_what_the_first_has_put(tier: Shared, placed: Entry, tmp_path: Path) -> None:
    other = Shared(tier.root, frozenset(), ENV)
    other.fetch(placed, tmp_path / "back", progress)
    assert layertiers.listing(tmp_path / "back") == layertiers.listing(tmp_path / "small")


# --- who is first ------------------------------------------------------------------------------


def test_a_second_making_of_ones_own_takes_the_place_of_the_first(
    tier: Shared, placed: Entry, tmp_path: Path
) -> None:
    tier.put(entry("two"), layertiers.tree(tmp_path / "other", "other\n"))
    found, _ = tier.look("layer", KEY)
    assert found
    assert found.id == "two"
    with pytest.raises(StoreError, match="made anew meanwhile"):
        tier.fetch(placed, tmp_path / "back", progress)
    assert nothing_left(tier)


def test_who_comes_second_leaves_what_somebody_else_has_put(
    tier: Shared, placed: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shared, "_displace", lambda *_: None)
    tier.put(entry("two"), layertiers.tree(tmp_path / "other", "other\n"))
    assert tier.look("layer", KEY) == (placed, "")
    assert nothing_left(tier)


def test_what_somebody_else_has_put_is_not_removed(
    tier: Shared, placed: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Shared(tier.root, frozenset({os.getuid()}), ENV)
    monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    owner.remove(placed)
    assert owner.look("layer", KEY) == (placed, "")
    assert owner.entries() == []
    monkeypatch.undo()
    tier.remove(placed)
    assert tier.look("layer", KEY) == (None, "")
    assert nothing_left(tier)
    tier.remove(placed)


# --- trust -------------------------------------------------------------------------------------


def test_an_owner_must_be_the_caller_or_be_named(
    tier: Shared, placed: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    _, why = tier.look("layer", KEY)
    assert why == (
        f"one in the shared tier isn't taken: {KEY} belongs to uid {owner}, "
        "who is not named in the site's 'trusted'"
    )
    with pytest.raises(StoreError, match=f"belongs to uid {owner}"):
        tier.fetch(placed, tmp_path / "back", progress)
    assert not (tmp_path / "back").exists()
    trusting = Shared(tier.root, frozenset({owner}), ENV)
    assert trusting.look("layer", KEY) == (placed, "")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["", "entry.json", "tree.sqsh"])
def test_each_part_must_be_of_a_trusted_owner(tier: Shared, placed: Entry, name: str) -> None:
    os.chown(tier.folder("layer", KEY) / name, STRANGER, -1)
    found, why = tier.look("layer", KEY)
    assert (found, f"{name or KEY} belongs to uid {STRANGER}" in why) == (None, True)


@pytest.mark.parametrize("name", ["", "entry.json", "tree.sqsh"])
@pytest.mark.parametrize("bit", [stat.S_IWGRP, stat.S_IWOTH])
def test_what_others_can_write_is_not_taken(tier: Shared, placed: Entry, name: str, bit: int) -> None:
    path = tier.folder("layer", KEY) / name
    path.chmod(path.stat().st_mode | bit)
    found, why = tier.look("layer", KEY)
    assert found is None
    assert why.endswith(f"{name or KEY} can be written by others than its owner")


def _in_place(folder: Path, name: str, made: Callable[[Path, Path], object]) -> None:
    """Put something else in the place of a part, which is moved away."""
    away = folder.parent.parent / "away"
    (folder / name).rename(away)
    made(folder / name, away)


REPLACEMENTS: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, away: path.symlink_to(away),
    "a broken link": lambda path, away: path.symlink_to("/nowhere"),
    "a folder": lambda path, away: path.mkdir(),
    "a pipe": lambda path, away: os.mkfifo(path, 0o600),
    "an empty file": lambda path, away: path.touch(mode=0o600),
    "nothing": lambda path, away: None,
}


@pytest.mark.parametrize("name", ["", "entry.json", "tree.sqsh"])
@pytest.mark.parametrize("what", sorted(REPLACEMENTS))
def test_something_else_in_the_place_of_a_part_is_not_taken(
    tier: Shared, placed: Entry, tmp_path: Path, name: str, what: str
) -> None:
    _in_place(tier.folder("layer", KEY), name, REPLACEMENTS[what])
    found, _ = tier.look("layer", KEY)
    # What is packed is looked at when it is needed.
    assert found is None or (name == "tree.sqsh" and what in ("a folder", "a pipe", "an empty file"))
    with pytest.raises(StoreError):
        tier.fetch(placed, tmp_path / "back", progress)
    assert not (tmp_path / "back").exists()


def test_an_entry_moved_to_another_key_is_not_taken(tier: Shared, placed: Entry) -> None:
    shutil.copytree(tier.folder("layer", KEY), tier.folder("layer", "2" * 64))
    shutil.copytree(tier.folder("layer", KEY), tier.folder("base", KEY))
    why = "one in the shared tier isn't taken: it is another entry, moved there"
    assert tier.look("layer", "2" * 64) == tier.look("base", KEY) == (None, why)


def _rewritten(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("where", [100, -100])
def test_one_changed_byte_is_noticed(tier: Shared, placed: Entry, tmp_path: Path, where: int) -> None:
    packed = tier.folder("layer", KEY) / "tree.sqsh"
    data = bytearray(packed.read_bytes())
    data[where] ^= 1
    _rewritten(packed, bytes(data))
    with pytest.raises(StoreError, match=r"its bytes have the digest sha256:\w+, and it says sha256:"):
        tier.fetch(placed, tmp_path / "back", progress)
    assert not (tmp_path / "back").exists()


def test_what_has_its_digest_and_is_no_squashfs(tier: Shared, placed: Entry, tmp_path: Path) -> None:
    folder = tier.folder("layer", KEY)
    _rewritten(folder / "tree.sqsh", b"x" * 200)
    digest = f"sha256:{files.sha256_file(folder / 'tree.sqsh')}"
    _rewritten(folder / "entry.json", dataclasses.replace(placed, digest=digest).to_json())
    with pytest.raises(StoreError, match="unsquashfs an entry of the layer store: exit code 1"):
        tier.fetch(placed, tmp_path / "back", progress)
    assert not (tmp_path / "back").exists()


def test_an_entry_of_a_newer_kiln_is_not_taken(tier: Shared, placed: Entry) -> None:
    about = tier.folder("layer", KEY) / "entry.json"
    _rewritten(about, json.dumps({**json.loads(about.read_text()), "format": 2}).encode())
    assert tier.look("layer", KEY) == (
        None,
        "one in the shared tier isn't taken: it was made by a newer Kiln",
    )


# --- bad days ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["mkdir", "digest", "write", "chmod", "rename"])
def test_a_full_disk_leaves_nothing(
    tier: Shared, placed: Entry, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(files.FULL[0], "No space left on device")

    place, name = {
        "mkdir": (Path, "mkdir"),
        "digest": (files, "sha256_file"),
        "write": (os, "fsync"),
        "chmod": (Path, "chmod"),
        "rename": (tiers, "_place"),
    }[step]
    tree = layertiers.tree(tmp_path / "tree")
    monkeypatch.setattr(place, name, full)
    with pytest.raises(SpaceError, match="no space left while writing"):
        tier.put(entry("two"), tree)
    monkeypatch.undo()
    assert nothing_left(tier)
    found, _ = tier.look("layer", KEY)
    # Only the last step comes after one's own older entry was taken away.
    assert found == (None if step == "rename" else placed)


def test_tools_that_fail_leave_nothing(tier: Shared, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mksquashfs an entry of the layer store: exit code 1"):
        tier.put(entry(), tmp_path / "none")
    assert nothing_left(tier)
    assert tier.look("layer", KEY) == (None, "")


def test_no_room_to_unpack_leaves_nothing(
    tier: Shared, placed: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(argv: list[str], **_: object) -> None:
        files.remove_tree(tmp_path / "back")
        (tmp_path / "back").mkdir()
        (tmp_path / "back/half").touch()
        raise SpaceError("the disk is full")

    monkeypatch.setattr(tiers, "as_root", full)
    with pytest.raises(SpaceError, match="the disk is full"):
        tier.fetch(placed, tmp_path / "back", progress)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("said", ["2\n", "", "x" * 100, "\0"])
def test_another_layout_is_left_alone(tier: Shared, placed: Entry, tmp_path: Path, said: str) -> None:
    (tier.root / "format").write_text(said)
    with pytest.raises(StoreError, match=r"has format '.*'; this Kiln knows 1") as caught:
        tier.check()
    assert "'shared' in the site profile" in caught.value.hint
    with pytest.raises(StoreError, match="this Kiln knows 1"):
        tier.put(entry("two"), tmp_path / "small")
    with pytest.raises(StoreError, match="this Kiln knows 1"):
        tier.remember("demo", [])


def test_a_tier_that_is_not_there_is_empty(tier: Shared) -> None:
    tier.check()
    assert tier.look("layer", KEY) == (None, "")
    assert (tier.entries(), tier.remembered("demo"), tier.writable) == ([], [], True)
    assert not tier.root.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_tier_that_can_not_be_written(tier: Shared, placed: Entry, tmp_path: Path) -> None:
    tier.root.chmod(0o555)
    try:
        assert not tier.writable
        assert tier.look("layer", KEY) == (placed, "")
        with pytest.raises(StoreError, match="cannot write"):
            tier.put(entry("two"), tmp_path / "small")
    finally:
        tier.root.chmod(0o755)
    tier.root.parent.chmod(0)
    try:
        assert not tier.writable
        assert "Permission denied" in tier.look("layer", KEY)[1]
    finally:
        tier.root.parent.chmod(0o755)


# --- remembering -------------------------------------------------------------------------------


def test_what_an_image_was_made_from_is_remembered_by_the_trusted(
    tier: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier.remember("demo", [{"base": "1"}])
    assert tier.remembered("demo") == [{"base": "1"}]
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    assert tier.remembered("demo") == []
    assert Shared(tier.root, frozenset({owner}), ENV).remembered("demo") == [{"base": "1"}]


def test_nothing_is_waited_for_in_the_place_of_what_is_remembered(tier: Shared) -> None:
    tier.remember("demo", [])
    os.mkfifo(tier.root / "images/pipe", 0o600)
    (tier.root / "images/link").symlink_to("demo")
    (tier.root / "images/text").write_text("{")
    assert [tier.remembered(name) for name in ("pipe", "link", "text", "none")] == [[]] * 4
    (tier.root / "format").unlink()
    os.mkfifo(tier.root / "format")
    tier.check()
