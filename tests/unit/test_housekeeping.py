"""What may go from a cache, in which order, and what never goes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln.layers import housekeeping
from kiln.layers.housekeeping import YOUNG_SECONDS, Doomed, Item, Limits
from kiln.layers.local import Local
from kiln.layers.shared import Shared
from tests.unit import layertiers
from tests.unit.layertiers import ENV, KEY, entry, put

HOUR, DAY = 3600.0, 86_400.0
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def item(title: str, size: int = 10, unused: float = 0.0) -> Item:
    return Item("layer", title, Path("/x") / title, size, NOW - unused, lambda: True)


def going(items: list[Item], unused: float = 30 * DAY, size: int = 100) -> list[str]:
    return [each.item.title for each in housekeeping.doomed(items, Limits(unused, size))]


# --- the order ---------------------------------------------------------------------------------


def test_nothing_goes_while_there_is_room_and_use() -> None:
    assert going([]) == []
    assert going([item("a", 50, 29 * DAY), item("b", 50, 2 * HOUR)]) == []


def test_what_was_not_used_for_long_goes_whatever_its_size() -> None:
    items = [item("new", 1, 2 * HOUR), item("old", 1, 31 * DAY), item("older", 1, 32 * DAY)]
    assert going(items) == ["older", "old"]


def test_the_least_recently_used_go_until_it_is_enough() -> None:
    items = [item("a", 40, 2 * DAY), item("b", 40, 4 * DAY), item("c", 40, 3 * DAY), item("d", 40, 5 * HOUR)]
    assert going(items, size=80) == ["b", "c"]
    assert going(items, size=79) == ["b", "c", "a"]
    assert going(items, size=160) == []
    assert going(items, size=159) == ["b"]


def test_what_goes_by_age_makes_room_too() -> None:
    assert going([item("old", 90, 31 * DAY), item("b", 50, DAY)], size=60) == ["old"]


def test_young_things_stay_whatever_the_limits() -> None:
    items = [item("young", 10**12, 59 * 60), item("future", 10**12, -DAY), item("a", 1, 61 * 60)]
    assert going(items, unused=1, size=1) == ["a"]
    assert going(items[:2], unused=1, size=1) == []


def test_reasons_in_words() -> None:
    items = [item("a", 10**9, 40 * DAY), item("b", 3 * 10**9, 2 * HOUR)]
    found = housekeeping.doomed(items, Limits(30 * DAY, 2 * 10**9))
    assert [each.reason for each in found] == ["unused for 40 d", "3.0 GB are more than 2.0 GB"]


SOME = st.lists(st.tuples(st.integers(0, 100), st.floats(-HOUR, 60 * DAY)), max_size=8)


@given(SOME, st.floats(HOUR, 60 * DAY), st.integers(0, 400))
def test_what_stays_is_younger_and_no_more_goes_than_must(
    things: list[tuple[int, float]], unused: float, size: int
) -> None:
    items = [item(str(number), each, seconds) for number, (each, seconds) in enumerate(things)]
    found = housekeeping.doomed(items, Limits(unused, size))
    gone = [each.item for each in found]
    left = [each for each in items if each not in gone]
    assert [each.used for each in gone] == sorted(each.used for each in gone)
    assert all(NOW - each.used >= YOUNG_SECONDS for each in gone)
    assert not left or not gone or max(each.used for each in gone) <= min(each.used for each in left)
    total = sum(each.size for each in left)
    assert total <= size or all(NOW - each.used < YOUNG_SECONDS for each in left)
    if gone and NOW - gone[-1].used <= unused:
        assert total + gone[-1].size > size


# --- the local tier ----------------------------------------------------------------------------


@pytest.fixture
def tier(tmp_path: Path) -> Local:
    return layertiers.local(tmp_path)


def unused(tier: Local, key: str, seconds: float) -> None:
    os.utime(tier.folder("layer", key) / "lease", (NOW - seconds, NOW - seconds))


def test_entries_of_the_local_tier_go_but_for_the_held_and_the_mounted(tier: Local, tmp_path: Path) -> None:
    keys = [digit * 64 for digit in "1234"]
    made = [put(tier, tmp_path, f"id{key[0]}", key=key) for key in keys]
    for number, key in enumerate(keys):
        unused(tier, key, (40 - number) * DAY)
    items = list(housekeeping.local_items(tier, frozenset({"id2"})))
    assert [each.title for each in items] == ["a title"] * 3
    assert items[0].size == made[0].size > 0
    assert items[0].path == tier.folder("layer", keys[0])
    found = housekeeping.doomed(items, Limits(DAY, 10**9))
    with tier.leased(made[2]):
        went = housekeeping.remove(found)
    assert [each.item.path.name for each in went] == [keys[0], keys[3]]
    assert [each.id for each in tier.entries()] == ["id2", "id3"]


def test_what_was_made_anew_meanwhile_stays(tier: Local, tmp_path: Path) -> None:
    put(tier, tmp_path, "one")
    unused(tier, KEY, 40 * DAY)
    found = housekeeping.doomed(housekeeping.local_items(tier, frozenset()), Limits(DAY, 10**9))
    assert len(found) == 1
    put(tier, tmp_path, "two")
    assert housekeeping.remove(found) == []
    assert [each.id for each in tier.entries()] == ["two"]


def test_tidying_removes_what_is_no_entry(tier: Local, tmp_path: Path) -> None:
    made = put(tier, tmp_path)
    (tier.root / "layers" / ("9" * 64) / "tree").mkdir(parents=True)
    (tier.root / "bases/half").mkdir()
    (tier.root / "trash/old/tree").mkdir(parents=True)
    tier.remember("demo", [])
    housekeeping.tidy(tier)
    assert tier.entries() == [made]
    assert tier.broken() == []
    assert list((tier.root / "trash").iterdir()) == []
    assert (tier.root / "images/demo").exists()


@contextlib.contextmanager
def locked_elsewhere(path: Path) -> Iterator[None]:
    """Another process has the lock."""
    script = (
        "import fcntl, sys\nlock = open(sys.argv[1], 'r+')\nfcntl.lockf(lock, fcntl.LOCK_EX)\n"
        "print('mine', flush=True); input()"
    )
    argv = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"mine\n"
        yield
        holder.kill()


def test_locks_go_with_their_keys_when_they_are_free(tier: Local, tmp_path: Path) -> None:
    put(tier, tmp_path)
    locks = tier.root / "locks"
    for name in (f"layer-{KEY}", f"base-{KEY}", "layer-free", "layer-used", "other"):
        (locks / name).touch()
    with locked_elsewhere(locks / "layer-used"):
        housekeeping.tidy(tier)
        assert sorted(path.name for path in locks.iterdir()) == [f"layer-{KEY}", "layer-used"]
    housekeeping.tidy(tier)
    assert [path.name for path in locks.iterdir()] == [f"layer-{KEY}"]


def test_a_store_that_is_not_there_is_tidy(tmp_path: Path) -> None:
    housekeeping.tidy(Local(tmp_path / "none"))
    assert list(housekeeping.local_items(Local(tmp_path / "none"), frozenset())) == []
    assert not (tmp_path / "none").exists()


# --- the shared tier, and downloads ------------------------------------------------------------


def test_only_ones_own_entries_of_the_shared_tier_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = Shared(tmp_path / "shared", frozenset({os.getuid()}), ENV)
    tier.put(entry(), layertiers.tree(tmp_path / "tree"))
    packed = tier.folder("layer", KEY) / "tree.sqsh"
    os.utime(packed, (5, 4))
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert list(housekeeping.shared_items(tier)) == []
    monkeypatch.undo()
    [mine] = housekeeping.shared_items(tier)
    assert (mine.kind, mine.used, mine.size) == ("shared layer", 5, packed.stat().st_size)
    assert housekeeping.remove([Doomed(mine, "")]) == [Doomed(mine, "")]
    assert tier.entries() == []
    assert list((tmp_path / "shared/layers").iterdir()) == []


def test_what_can_not_be_removed_here_is_not_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = Shared(tmp_path / "shared", frozenset(), ENV)
    tier.put(entry(), layertiers.tree(tmp_path / "tree"))
    (tmp_path / "blob").touch()
    items = [*housekeeping.shared_items(tier), *housekeeping.file_items("download", [tmp_path / "blob"])]

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    assert housekeeping.remove([Doomed(each, "") for each in items]) == []


def test_ones_own_downloads_by_their_last_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.utime(tmp_path / "a", (7, 5))
    (tmp_path / "link").symlink_to("a")
    paths = [tmp_path / "a", tmp_path / "none"]
    [found] = housekeeping.file_items("download", paths)
    assert dataclasses.astuple(found)[:5] == ("download", "a", tmp_path / "a", 5, 7.0)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert list(housekeeping.file_items("download", paths)) == []
    assert housekeeping.remove([Doomed(found, "")]) == [Doomed(found, "")]
    assert not (tmp_path / "a").exists()
    assert housekeeping.remove([Doomed(found, "")]) == [Doomed(found, "")]
