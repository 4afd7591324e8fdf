"""A store that a group of curators keeps: what one made the others can change, whatever their umasks."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kiln import channels, files, publish, testruns, trash
from kiln.errors import StoreError
from kiln.record import SmokeResult
from kiln.store import Store
from kiln.testruns import Run
from tests.unit.conftest import Publisher, publish_copy

GROUP, ALICE, BOB, EVE = 60_010, 60_001, 60_002, 60_003
TESTED = Run("2026-01-02T03:04:05Z", "me", (SmokeResult("hook", (), "passed", True, 0.1),))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: nobody can be several curators here")


def silent(text: str) -> None: ...


def modes(store: Store) -> dict[str, int]:
    """The modes of all in the store that is no link; the names of later times are left out."""
    found = {str(path.relative_to(store.root)): path.lstat() for path in store.root.rglob("*")}
    return {
        name: stat.S_IMODE(status.st_mode)
        for name, status in found.items()
        if not stat.S_ISLNK(status.st_mode)
    }


def keep(store: Store, put: Publisher) -> None:
    """What a curator does: publish three, test, move a channel, mark, remove and put back."""
    for _ in range(3):
        put("demo")
    testruns.add(store.tests("demo", "1.0-r1"), TESTED)
    channels.promote(store, "demo:1.0-r1", "lts", "", silent)
    channels.revoke(store, "demo:1.0-r2", "x", silent)
    assert trash.throw(store, store.find("demo:1.0-r2"), silent)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002, 0])
@pytest.mark.parametrize("shared", [False, True])
def test_whatever_the_umask_is(store: Store, put: Publisher, umask: int, shared: bool) -> None:
    store.root.mkdir()
    store.root.chmod(0o2775 if shared else 0o755)
    before = os.umask(umask)
    try:
        keep(store, put)
    finally:
        os.umask(before)
    folder = 0o2775 if shared else 0o755
    found = modes(store)
    assert {name: found.pop(name) for name in ("demo", ".trash", ".trash/demo-1.0-r2")} == {
        "demo": folder,
        ".trash": folder,
        ".trash/demo-1.0-r2": folder,
    }
    for name, mode in found.items():
        if name.endswith(".lock"):
            assert mode & 0o060 == 0o060 or not shared, name
        else:
            derived = name.endswith(("catalog.json", ".jsonl"))
            assert mode == (0o644 if derived else 0o444), name


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into: pytest's own are the caller's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_user(user: int, groups: list[int], work: Callable[[], None]) -> None:
    """Do `work` in a process of that user, with a umask that is against sharing."""

    def become() -> None:
        os.setgroups(groups)
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.umask(0o077)
        work()

    process = multiprocessing.get_context("fork").Process(target=become)
    process.start()
    process.join()
    assert process.exitcode == 0


@needs_root
def test_one_goes_on_where_another_left_off(open_folder: Path, image: Path) -> None:
    store = Store(open_folder / "images")
    store.root.mkdir()
    os.chown(store.root, 0, GROUP)
    store.root.chmod(0o2775)
    finished = {user: open_folder / f"finished-{user}" for user in (ALICE, BOB)}
    for user, folder in finished.items():
        folder.mkdir()
        os.chown(folder, user, user)
    data = image.read_bytes()

    def publisher(user: int) -> Publisher:
        return lambda name, **more: publish_copy(store, data, finished[user], name, **more)

    def alice() -> None:
        keep(store, publisher(ALICE))
        # She is killed while she publishes.
        files.make_group_folder(store.folder("demo") / publish.STAGING, 0o700)
        (store.folder("demo") / publish.STAGING / "half.sqsh").write_text("half")

    def bob() -> None:
        publish.check_writable(store, "demo")
        trash.put_back(store, "demo:1.0-r2", silent)
        assert publisher(BOB)("demo")[0].version == "1.0-r4"
        assert channels.rollback(store, "demo", "current", "", silent).version == "1.0-r3"
        testruns.add(store.tests("demo", "1.0-r1"), TESTED)
        assert trash.throw(store, store.find("demo:1.0-r2"), silent)
        [thrown] = trash.listing(store)
        assert trash.empty(thrown)

    def eve() -> None:
        with pytest.raises(
            StoreError, match=rf"you may not write to .*demo \(owner: uid {ALICE}, group: gid"
        ):
            publish.check_writable(store, "demo")
        for version in store.versions("demo"):
            entry = store.entry("demo", version)
            assert entry.record and entry.path.read_bytes() == data

    as_user(ALICE, [GROUP], alice)
    as_user(BOB, [GROUP], bob)
    as_user(EVE, [], eve)


@needs_root
def test_a_lock_of_before_that_only_its_owner_can_take(open_folder: Path) -> None:
    store = Store(open_folder)
    open_folder.chmod(0o2775)
    os.chown(open_folder, 0, GROUP)
    (open_folder / publish.LOCK).touch(mode=0o644)

    def bob() -> None:
        with pytest.raises(StoreError, match=r"you may not lock .*\(owner: root") as caught:
            publish.check_writable(store, "demo")
        assert "chmod g+rw" in caught.value.hint

    as_user(BOB, [GROUP], bob)
