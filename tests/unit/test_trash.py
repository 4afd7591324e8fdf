"""Taking versions out of the store, and putting them back."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from kiln import trash
from kiln.errors import UsageError
from kiln.store import Store
from tests.unit.conftest import Publisher


def silent(text: str) -> None: ...


def throw(store: Store, reference: str) -> bool:
    return trash.throw(store, store.find(reference), silent)


def files_of(store: Store, version: str) -> set[str]:
    return {path.name for path in store.folder("demo").glob(f"demo-{version}.*")}


@pytest.fixture
def two(store: Store, put: Publisher) -> Store:
    put("demo")
    put("demo")
    return store


def test_it_is_out_of_sight_with_all_of_its_files_and_a_note(two: Store) -> None:
    assert throw(two, "demo:1.0-r1")
    assert two.versions("demo") == ["1.0-r2"]
    assert files_of(two, "1.0-r1") == {"demo-1.0-r1.removed"}
    note = (two.folder("demo") / "demo-1.0-r1.removed").read_text()
    assert "Use instead: demo:1.0-r2" in note and "invoke gc --undelete demo:1.0-r1" in note
    [thrown] = trash.listing(two)
    assert (thrown.name, thrown.version) == ("demo", "1.0-r1") and thrown.size > 0


def test_it_comes_back_as_it_was(two: Store) -> None:
    before, data = files_of(two, "1.0-r1"), two.image("demo", "1.0-r1").read_bytes()
    throw(two, "demo:1.0-r1")
    entry = trash.put_back(two, "demo:1.0-r1", silent)
    assert entry.record and entry.path.read_bytes() == data
    assert files_of(two, "1.0-r1") == before and trash.listing(two) == []
    assert list((two.root / ".trash").iterdir()) == []


def test_what_is_not_there(two: Store) -> None:
    throw(two, "demo:1.0-r1")
    for reference in ("demo", "demo:1.0-r2", "other:1.0-r1", "../demo:1.0-r1"):
        with pytest.raises(UsageError, match="is not in the trash") as caught:
            trash.put_back(two, reference, silent)
        assert caught.value.hint == "there is: demo:1.0-r1"


def test_a_channel_keeps_it_whatever_was_meant(two: Store) -> None:
    assert not throw(two, "demo:1.0-r2")
    assert two.versions("demo") == ["1.0-r1", "1.0-r2"]


def test_a_number_is_not_given_again(two: Store, put: Publisher) -> None:
    throw(two, "demo:1.0-r1")
    assert put("demo", label="2.0")[0].version == "2.0-r1"
    assert put("demo")[0].version == "1.0-r3"
    for version in ("1.0-r2", "1.0-r1"):
        for thrown in trash.listing(two):
            trash.empty(thrown)
        if version in two.versions("demo"):
            throw(two, f"demo:{version}")
    assert put("demo")[0].version == "1.0-r4"


def _hold(path: Path, how: str, ready: int, go: int) -> None:
    with path.open("rb") as stream:
        if how == "locked":
            fcntl.lockf(stream, fcntl.LOCK_SH)
        os.write(ready, b"x")
        os.read(go, 1)


@pytest.mark.parametrize("how", ["locked", "open"])
def test_what_somebody_reads_is_left(two: Store, how: str) -> None:
    (ready_out, ready), (go, go_in) = os.pipe(), os.pipe()
    path = two.image("demo", "1.0-r1")
    reader = multiprocessing.get_context("fork").Process(target=_hold, args=(path, how, ready, go))
    reader.start()
    os.read(ready_out, 1)
    assert not throw(two, "demo:1.0-r1")
    os.write(go_in, b"x")
    reader.join()
    assert throw(two, "demo:1.0-r1")
    [thrown] = trash.listing(two)
    assert list(trash.old(two, 3600)) == [] and list(trash.old(two, -1)) == [thrown]
    assert trash.empty(thrown) and trash.listing(two) == []
    for descriptor in (ready_out, ready, go, go_in):
        os.close(descriptor)


STEPS = ("rename", "replace", "mkdir", "utime", "unlink", "rmdir", "chmod")


def _die(store: Store, back: bool, fatal: int) -> None:
    """Throw a version away, or put it back; die by SIGKILL at the `fatal`th call that changes anything."""
    count = 0

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def counted(*args: object, **more: object) -> object:
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        setattr(os, name, counted)

    for name in STEPS:
        wrap(name)
    if back:
        trash.put_back(store, "demo:1.0-r1", silent)
    else:
        throw(store, "demo:1.0-r1")


@pytest.mark.parametrize("back", [False, True])
def test_a_kill_anywhere_loses_nothing(two: Store, back: bool) -> None:
    data, context = two.image("demo", "1.0-r1").read_bytes(), multiprocessing.get_context("fork")
    for fatal in range(1, 30):
        if back:
            assert throw(two, "demo:1.0-r1")
        process = context.Process(target=_die, args=(two, back, fatal))
        process.start()
        process.join()
        # A version is whole, or it isn't there.
        for version in two.versions("demo"):
            assert two.entry("demo", version).record, fatal
        trash.mend(two, silent)
        if "1.0-r1" not in two.versions("demo"):
            trash.put_back(two, "demo:1.0-r1", silent)
        entry = two.find("demo:1.0-r1")
        assert entry.record and entry.path.read_bytes() == data
        if process.exitcode == 0:
            break
    assert fatal > 4
