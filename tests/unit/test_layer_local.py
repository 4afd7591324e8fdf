"""The local tier: entries are whole or not there, and stay while somebody has them mounted."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from kiln.errors import SpaceError, StoreError
from kiln.layers.local import Gone, Local
from tests.unit import layertiers
from tests.unit.layertiers import KEY, entry, put

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def tier(tmp_path: Path) -> Local:
    return layertiers.local(tmp_path)


def text(tier: Local) -> str:
    """What the tree at KEY says, taken as a build takes it; '' where there is no entry."""
    found = tier.look("layer", KEY)
    if found is None:
        return ""
    with tier.leased(found) as tree:
        return (tree / "etc/motd").read_text()


def trash(tier: Local) -> list[Path]:
    return list((tier.root / "trash").iterdir())


# --- the layout --------------------------------------------------------------------------------


def test_it_is_made_at_the_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    tier = Local(tmp_path / "trees/me")
    tier.check()
    assert not (tmp_path / "trees").exists()
    tier.prepare()
    tier.prepare()
    assert sorted(path.name for path in tier.root.iterdir()) == [
        "bases",
        "format",
        "images",
        "layers",
        "locks",
        "trash",
    ]
    assert (tier.root / "layers").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("said", "words"),
    [("2\n", "has format 2; this Kiln knows 1"), ("", "of no number"), ("x", "of no number"), ("0", "of no")],
)
def test_another_layout_is_left_alone(tier: Local, said: str, words: str) -> None:
    (tier.root / "format").write_text(said)
    for use in (tier.check, tier.prepare):
        with pytest.raises(StoreError, match=words) as caught:
            use()
        assert caught.value.hint.startswith("update this Kiln, or set KILN_CACHE")


def test_a_folder_that_somebody_else_made_is_not_taken(tier: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    with pytest.raises(StoreError, match=f"belongs to uid {stranger - 1}") as caught:
        tier.prepare()
    assert "'scratch'" in caught.value.hint


def test_a_link_to_it_that_somebody_else_made_is_not_taken(tier: Local, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tier.root)
    Local(tmp_path / "link").check()
    if os.getuid() == 0:
        os.lchown(tmp_path / "link", 1, 1)
        with pytest.raises(StoreError, match="belongs to uid 1"):
            Local(tmp_path / "link").check()


def test_a_place_that_can_not_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for use in (Local(tmp_path / "file/me").check, Local(tmp_path / "file/me").prepare):
        with pytest.raises(StoreError, match=r"the layer store .*/file/me can't be read: Not a directory"):
            use()


# --- putting -----------------------------------------------------------------------------------


def test_what_is_put_is_there(tier: Local, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("said\n")
    before = layertiers.listing(layertiers.tree(tmp_path / "made"))
    done = tier.put(entry(), tmp_path / "made", tmp_path / "log")
    assert tier.look("layer", KEY) == done
    assert tier.entries() == [done]
    assert (done.size > 0, len(done.fingerprint)) == (True, 64)
    with tier.leased(done) as tree:
        assert layertiers.listing(tree) == before
    folder = tier.folder("layer", KEY)
    assert {path.name for path in folder.iterdir()} == {"tree", "entry.json", "log", "lease"}
    assert (folder / "log").read_text() == "said\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "trees"]


def test_a_new_making_takes_the_place_of_the_old(tier: Local, tmp_path: Path) -> None:
    old = put(tier, tmp_path, "one", "old\n")
    new = put(tier, tmp_path, "two", "new\n")
    assert (text(tier), tier.entries(), trash(tier)) == ("new\n", [new], [])
    with pytest.raises(Gone, match="was made anew meanwhile"), tier.leased(old):
        pass


def _stopping(fatal: int, stop: Callable[[], object]) -> None:
    """Have the `fatal`th call that changes a file system `stop` in its place."""
    count = 0

    def wrap(place: object, name: str) -> None:
        original = getattr(place, name)

        def counted(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == fatal:
                stop()
            return original(*args, **kwargs)

        setattr(place, name, counted)

    for name in ("mkdir", "rename", "touch", "write_bytes"):
        wrap(Path, name)
    for name in ("replace", "fsync", "unlink", "rmdir", "chmod"):
        wrap(os, name)


def _put_and_stop(tier: Local, folder: Path, identity: str, fatal: int, full: bool) -> None:
    tree = layertiers.tree(folder / identity, f"{identity}\n")

    def stop() -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.kill(os.getpid(), signal.SIGKILL)

    _stopping(fatal, stop)
    with contextlib.suppress(SpaceError):
        tier.put(entry(identity), tree, None)
        os._exit(0)
    os._exit(1)


@pytest.mark.parametrize("full", [False, True], ids=["killed", "full"])
@pytest.mark.parametrize("first", [True, False], ids=["new", "again"])
def test_stopped_at_any_step_it_is_whole_or_not_there(
    tier: Local, tmp_path: Path, full: bool, first: bool
) -> None:
    seen, fatal, last = set(), 0, None
    while last != 0:
        fatal += 1
        if not first:
            put(tier, tmp_path, f"old{fatal}", "old\n")
        process = FORK.Process(target=_put_and_stop, args=(tier, tmp_path, f"new{fatal}", fatal, full))
        process.start()
        process.join()
        last = process.exitcode
        assert last in (0, 1 if full else -signal.SIGKILL)
        seen.add(said := text(tier))
        assert said in ("", "old\n", f"new{fatal}\n")
        tier.sweep()
        assert (trash(tier), tier.broken()) == ([], [])
        if found := tier.look("layer", KEY):
            assert tier.remove(found, frozenset())
    assert fatal > 8
    assert "" in seen
    assert ("old\n" in seen) is not first
    assert f"new{fatal}\n" in seen


# --- taking ------------------------------------------------------------------------------------


def test_an_entry_that_is_damaged_is_gone(tier: Local, tmp_path: Path) -> None:
    done = put(tier, tmp_path)
    (tier.tree(done) / "etc/motd").write_text("HELLO\n")
    with pytest.raises(Gone, match="are missing, or are not as they were made"), tier.leased(done):
        pass
    tier.drop(done)
    assert (tier.look("layer", KEY), trash(tier)) == (None, [])
    tier.drop(done)


@pytest.mark.parametrize("name", ["tree", "lease", "entry.json"])
def test_an_entry_with_a_part_missing_is_gone(tier: Local, tmp_path: Path, name: str) -> None:
    done = put(tier, tmp_path)
    part = tier.folder("layer", KEY) / name
    part.rename(tmp_path / "away")
    with pytest.raises(Gone), tier.leased(done):
        pass


def test_an_entry_moved_to_another_key_is_none(tier: Local, tmp_path: Path) -> None:
    put(tier, tmp_path)
    tier.folder("layer", KEY).rename(tier.folder("layer", "2" * 64))
    assert tier.look("layer", "2" * 64) is None
    tier.folder("layer", "2" * 64).rename(tier.folder("base", KEY))
    assert tier.look("base", KEY) is None
    assert tier.broken() == [tier.folder("base", KEY)]
    assert tier.entries() == []


def test_being_taken_is_the_last_use(tier: Local, tmp_path: Path) -> None:
    done = put(tier, tmp_path)
    os.utime(tier.folder("layer", KEY) / "lease", (5, 5))
    assert tier.last_used(done) == 5
    with tier.leased(done):
        assert tier.last_used(done) > 1_700_000_000
    (tier.folder("layer", KEY) / "lease").unlink()
    assert tier.last_used(done) == done.made


# --- leases ------------------------------------------------------------------------------------


def test_what_is_leased_here_is_not_removed(tier: Local, tmp_path: Path) -> None:
    done = put(tier, tmp_path)
    with tier.leased(done), tier.leased(done):
        assert not tier.remove(done, frozenset())
    assert not tier.remove(done, frozenset({done.id}))
    assert tier.remove(done, frozenset())
    assert (tier.entries(), trash(tier)) == ([], [])


def test_another_making_is_not_removed_in_its_place(tier: Local, tmp_path: Path) -> None:
    old = put(tier, tmp_path, "one")
    new = put(tier, tmp_path, "two")
    assert not tier.remove(old, frozenset())
    assert tier.entries() == [new]


def _hold(tier: Local, taken: Event, done: Event) -> None:
    found = tier.look("layer", KEY)
    assert found
    with tier.leased(found):
        taken.set()
        done.wait(60)


@contextlib.contextmanager
def held_elsewhere(tier: Local) -> Iterator[None]:
    taken, done = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_hold, args=(tier, taken, done))
    process.start()
    assert taken.wait(60)
    try:
        yield
    finally:
        process.kill()
        process.join()


def test_what_is_leased_elsewhere_is_not_removed_until_that_process_ends(tier: Local, tmp_path: Path) -> None:
    done = put(tier, tmp_path)
    with held_elsewhere(tier):
        assert not tier.remove(done, frozenset())
        with tier.leased(done):
            pass
        assert not tier.remove(done, frozenset())
    assert tier.remove(done, frozenset())


def test_what_is_replaced_stays_for_who_has_it(tier: Local, tmp_path: Path) -> None:
    put(tier, tmp_path, "one", "old\n")
    with held_elsewhere(tier):
        put(tier, tmp_path, "two", "new\n")
        [kept] = trash(tier)
        tier.sweep()
        assert (kept / "tree/etc/motd").read_text() == "old\n"
        assert text(tier) == "new\n"
    tier.sweep()
    assert trash(tier) == []


def test_what_is_on_its_way_out_is_not_taken(tier: Local, tmp_path: Path) -> None:
    done = put(tier, tmp_path)
    with open(tier.folder("layer", KEY) / "lease") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        with pytest.raises(Gone, match="is being removed"), tier.leased(done):
            pass
    with tier.leased(done):
        pass


def _make(tier: Local, said: Connection) -> None:
    with tier.making("layer", KEY, said.send):
        said.send("mine")


def test_the_second_who_makes_an_entry_waits_and_says_so(tier: Local) -> None:
    here, there = FORK.Pipe()
    process = FORK.Process(target=_make, args=(tier, there))
    with tier.making("layer", KEY, lambda text: None):
        process.start()
        assert here.recv().startswith(f"waiting for {os.uname().nodename} pid {os.getpid()}, which holds")
        with tier.making("layer", "2" * 64, lambda text: None):
            assert not here.poll(0)
    assert here.recv() == "mine"
    process.join()
    assert process.exitcode == 0


# --- remembering -------------------------------------------------------------------------------


def test_what_an_image_was_made_from_is_remembered(tier: Local) -> None:
    assert tier.remembered("demo") == []
    inputs: list[dict[str, object]] = [
        {"base": "sha256:1"},
        {"env": [["A", "ü"]], "venv": None, "upgrade": False},
    ]
    tier.remember("demo", inputs)
    assert tier.remembered("demo") == inputs
    tier.remember("demo", inputs[:1])
    assert tier.remembered("demo") == inputs[:1]


@pytest.mark.parametrize("said", ["", "{", "[1]", "1", "null", '["ab"]', "\0"])
def test_what_is_remembered_in_another_way_is_nothing(tier: Local, said: str) -> None:
    (tier.root / "images/demo").write_text(said)
    assert tier.remembered("demo") == []
