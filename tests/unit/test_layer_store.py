"""Both tiers as one: what is taken, what is made, and the words for why."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kiln.errors import EnvironmentMissing, Interrupted, LayerError, SpaceError, StoreError
from kiln.layers.entry import Entry
from kiln.layers.local import Local
from kiln.layers.shared import Shared
from kiln.layers.store import LayerStore, Lookup, Made, Wanted, age
from tests.unit import layertiers
from tests.unit.layertiers import ENV, KEY, Heard, entry, put, wanted

FORK = multiprocessing.get_context("fork")


def node(folder: Path, shared: bool = True, stale_after: float | None = None) -> LayerStore:
    """The store of one node: a local tier of its own, a shared tier with the others."""
    local = Local(folder / "trees")
    local.prepare()
    (folder / "stack").mkdir(exist_ok=True)
    tier = Shared(folder.parent / "shared", frozenset(), ENV) if shared else None
    return LayerStore(local, tier, stale_after)


@pytest.fixture
def one(tmp_path: Path) -> LayerStore:
    return node(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> LayerStore:
    return node(tmp_path / "other")


class Builder:
    """Takes entries from a store, counting what it has to make."""

    def __init__(self, store: LayerStore) -> None:
        self.store, self.heard, self.made = store, Heard(), 0
        self.place = store.local.root.parent / "stack"

    def make(self) -> Made:
        self.made += 1
        return Made(layertiers.tree(self.place / f"new{self.made}", f"made {self.made}\n"))

    def take(self, asked: Wanted, parent: str = "below") -> tuple[Entry, str]:
        """The entry, and what its tree says."""
        step = self.heard.silent_step
        with self.store.taken(asked, parent, self.make, self.place, step) as (taken, made):
            assert made is (self.made > 0)
            self.made, before = 0, self.made
            assert before in (0, 1)
            return taken, (self.store.local.tree(taken) / "etc/motd").read_text()


# --- making and taking -------------------------------------------------------------------------


def test_what_is_made_once_is_taken_the_next_time(one: LayerStore) -> None:
    builder = Builder(one)
    first, said = builder.take(wanted())
    assert said == "made 1\n"
    assert (first.parent, first.title, first.inputs) == ("below", "a title", {"script": "true"})
    assert abs(first.made - time.time()) < 60
    assert builder.take(wanted()) == (first, "made 1\n")
    assert builder.heard.notes == []


def test_a_base_is_the_same_whoever_makes_it(one: LayerStore, other: LayerStore) -> None:
    """A layer on it must be fit on every node: the digest in its key says what it is."""
    base = wanted(kind="base")
    assert (
        Builder(one).take(base, "")[0].id
        == Builder(dataclasses.replace(other, shared=None)).take(base, "")[0].id
    )
    layers = {Builder(dataclasses.replace(store, shared=None)).take(wanted())[0].id for store in (one, other)}
    assert len(layers) == 2


def test_what_one_node_makes_another_takes_from_the_shared_tier(one: LayerStore, other: LayerStore) -> None:
    first, _ = Builder(one).take(wanted())
    builder = Builder(other)
    assert other.shared
    there, _ = other.shared.look("layer", KEY)
    words = "made 0 s ago, in the shared tier"
    assert other.look(wanted(), "below", None) == Lookup(there, words, packed=True)
    taken, said = builder.take(wanted())
    assert (taken.id, taken.made, said) == (first.id, first.made, "made 1\n")
    assert len(builder.heard.notes) == 1
    assert builder.heard.notes[0].startswith("unpacking it from the shared tier, ")
    # Now it is at hand.
    assert other.look(wanted(), "below", None).reason == "made 0 s ago"
    assert list(builder.place.iterdir()) == []


def test_the_local_tier_is_looked_at_first(one: LayerStore, other: LayerStore, tmp_path: Path) -> None:
    Builder(one).take(wanted())
    mine = put(other.local, tmp_path / "other/stack", "mine", "mine\n")
    assert other.look(wanted(), "below", None).entry == mine
    assert Builder(other).take(wanted()) == (mine, "mine\n")


def test_where_the_local_one_is_unfit_the_shared_one_may_be_fit(
    one: LayerStore, other: LayerStore, tmp_path: Path
) -> None:
    Builder(one).take(wanted(), "right")
    put(other.local, tmp_path / "other/stack", "mine", "on another parent\n")
    assert other.look(wanted(), "right", None).reason.endswith("in the shared tier")
    assert Builder(other).take(wanted(), "right")[1] == "made 1\n"


# --- why not -----------------------------------------------------------------------------------


def test_reasons_where_nothing_is_there(one: LayerStore) -> None:
    assert one.look(wanted(), "below", None) == Lookup(None, "not in the store")
    assert one.look(wanted(), "below", {"script": "true"}).reason == "no longer in the store"
    assert one.look(wanted(), "below", {"script": "false"}).reason == "changed: script"
    assert one.look(wanted(forced="--no-cache"), "below", {"script": "false"}).reason == "--no-cache"


def test_a_layer_on_other_bytes_is_unfit(one: LayerStore) -> None:
    Builder(one).take(wanted())
    alone = dataclasses.replace(one, shared=None)
    for store in (one, alone):
        assert store.look(wanted(), "other", None) == Lookup(None, "what lies below was made anew since")
    # Where the inputs changed too, that is what a person did.
    assert one.look(wanted(), "other", {"script": "x"}).reason == "changed: script"
    builder = Builder(alone)
    assert builder.take(wanted(), "other")[1] == "made 1\n"
    assert alone.look(wanted(), "below", None).entry is None


def _aged(store: LayerStore, place: Path, seconds: float) -> None:
    old = dataclasses.replace(entry(), made=time.time() - seconds)
    store.local.put(old, layertiers.tree(place, "old\n"), None)


@pytest.mark.parametrize(
    ("stale_after", "pinned", "fit"),
    [(None, False, True), (3600, False, False), (3600, True, True), (7300, False, True)],
)
def test_a_layer_that_time_can_change_grows_old(
    tmp_path: Path, stale_after: float | None, pinned: bool, fit: bool
) -> None:
    store = node(tmp_path / "one", shared=False, stale_after=stale_after)
    _aged(store, tmp_path / "one/stack/old", 7205)
    found = store.look(wanted(pinned=pinned), "below", None)
    assert found.reason == "made 2 h ago" + ("" if fit else ", and it doesn't name exact versions")
    assert Builder(store).take(wanted(pinned=pinned))[1] == ("old\n" if fit else "made 1\n")
    assert store.look(wanted(pinned=pinned), "below", None).reason == (
        "made 2 h ago" if fit else "made 0 s ago"
    )


def test_an_old_one_in_the_shared_tier_is_not_taken_either(tmp_path: Path) -> None:
    store = node(tmp_path / "one", stale_after=3600)
    assert store.shared
    old = dataclasses.replace(entry(), made=time.time() - 7205)
    store.shared.put(old, layertiers.tree(tmp_path / "one/old", "old\n"))
    asked = wanted(pinned=False)
    assert store.look(asked, "below", None).reason == "made 2 h ago, and it doesn't name exact versions"
    assert Builder(store).take(asked)[1] == "made 1\n"
    assert store.shared.look("layer", KEY)[0] == store.shared.entries()[0][0] != old


def test_what_is_made_in_the_future_is_new(tmp_path: Path) -> None:
    """The clock of a node was set back."""
    store = node(tmp_path / "one", shared=False, stale_after=3600)
    _aged(store, tmp_path / "one/stack/old", -1e9)
    assert store.look(wanted(pinned=False), "below", None).reason == "made 0 s ago"


def test_what_is_forced_is_made_whatever_there_is(one: LayerStore, other: LayerStore) -> None:
    first, _ = Builder(one).take(wanted())
    for store in (one, other):
        again, _ = Builder(store).take(wanted(forced="--from 1"))
        assert again.id != first.id
    assert one.look(wanted(), "below", None).entry != first


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s"),
        (0.5, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7300, "2 h"),
        (86_400, "1 d"),
        (9e8, "10416 d"),
    ],
)
def test_ages_in_words(seconds: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert age(1e9 - seconds) == said


# --- damage ------------------------------------------------------------------------------------


def test_a_damaged_entry_is_dropped_told_and_made_anew(one: LayerStore) -> None:
    alone = dataclasses.replace(one, shared=None)
    builder = Builder(alone)
    first, _ = builder.take(wanted())
    (alone.local.tree(first) / "etc/motd").write_text("slipped in\n")
    again, said = builder.take(wanted())
    assert (again.id != first.id, said) == (True, "made 1\n")
    [note] = builder.heard.notes
    assert note.endswith("or are not as they were made; it is dropped, and made anew")
    assert list((alone.local.root / "trash").iterdir()) == []


def test_a_damaged_entry_comes_back_from_the_shared_tier(one: LayerStore) -> None:
    builder = Builder(one)
    first, _ = builder.take(wanted())
    (one.local.tree(first) / "etc/motd").unlink()
    again, said = builder.take(wanted())
    assert (again.id, said) == (first.id, "made 1\n")


def test_a_damaged_one_in_the_shared_tier_is_told_and_made_anew(one: LayerStore, other: LayerStore) -> None:
    Builder(one).take(wanted())
    assert other.shared
    packed = other.shared.folder("layer", KEY) / "tree.sqsh"
    packed.unlink()
    packed.write_bytes(b"x")
    builder = Builder(other)
    _, said = builder.take(wanted())
    assert said == "made 1\n"
    assert "; it is made anew" in builder.heard.notes[1]
    assert list(builder.place.iterdir()) == []


def test_one_that_another_build_has_just_made_is_not_dropped(
    one: LayerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was replaced between being looked at and being taken."""
    builder = Builder(one)
    builder.take(wanted())
    original = LayerStore._local

    def look_then_replace(store: LayerStore, asked: Wanted, parent: str) -> tuple[Entry | None, str]:
        found = original(store, asked, parent)
        monkeypatch.setattr(LayerStore, "_local", original)
        put(one.local, tmp_path / "one/stack", "theirs", "theirs\n")
        return found

    monkeypatch.setattr(LayerStore, "_local", look_then_replace)
    taken, said = builder.take(wanted())
    assert (taken.id, said, builder.heard.notes) == ("theirs", "theirs\n", [])


# --- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [LayerError("x"), KeyboardInterrupt(), Interrupted("x", 2)])
def test_a_make_that_fails_leaves_nothing(one: LayerStore, error: BaseException) -> None:
    builder = Builder(one)

    def fail() -> Made:
        builder.make()
        raise error

    with (
        pytest.raises(type(error)),
        one.taken(wanted(), "below", fail, builder.place, builder.heard.silent_step),
    ):
        pass
    assert (one.local.entries(), one.local.broken()) == ([], [])
    assert one.shared
    assert not one.shared.root.exists()
    with one.local.making("layer", KEY, pytest.fail):
        pass


@pytest.mark.parametrize("error", [StoreError("no"), SpaceError("no"), EnvironmentMissing("no")])
def test_what_can_not_be_shared_is_told_and_taken(
    one: LayerStore, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shared, "put", _raising(error))
    monkeypatch.setattr(Shared, "remember", _raising(StoreError("no")))
    builder = Builder(one)
    builder.take(wanted())
    assert builder.heard.notes == ["not put into the shared tier: no"]
    one.remember("demo", [])


def test_being_interrupted_while_sharing_ends_the_build(
    one: LayerStore, other: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Builder(one).take(wanted())
    for name in ("put", "remember", "fetch"):
        monkeypatch.setattr(Shared, name, _raising(Interrupted("stopped", 2)))
    for use in (lambda: Builder(other).take(wanted()), lambda: one.remember("demo", [])):
        with pytest.raises(Interrupted):
            use()
    with pytest.raises(Interrupted):
        Builder(other).take(wanted(forced="x"))


def _raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_shared_tier_without_tools_to_read_it_is_done_without(
    one: LayerStore, other: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Builder(one).take(wanted())
    monkeypatch.setattr(Shared, "fetch", _raising(EnvironmentMissing("'bwrap' is not installed")))
    builder = Builder(other)
    assert builder.take(wanted())[1] == "made 1\n"
    assert builder.heard.notes[1] == "'bwrap' is not installed; it is made anew"


def test_a_tier_that_can_not_be_written_is_only_read(
    one: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shared, "writable", property(lambda self: False))
    builder = Builder(one)
    builder.take(wanted())
    one.remember("demo", [{"base": "1"}])
    assert builder.heard.notes == []
    assert one.shared
    assert not one.shared.root.exists()
    assert one.remembered("demo") == [{"base": "1"}]


# --- two at once -------------------------------------------------------------------------------


def _build(store: LayerStore, said: Connection) -> None:
    builder = Builder(store)
    builder.heard.step_note = lambda step, text: said.send(text)  # type: ignore[method-assign]
    taken, text = builder.take(wanted())
    said.send((taken.id, text))


def test_of_two_who_need_a_layer_one_makes_it_and_the_other_says_that_it_waits(one: LayerStore) -> None:
    here, there = FORK.Pipe()
    second = FORK.Process(target=_build, args=(one, there))
    builder = Builder(one)

    def make() -> Made:
        second.start()
        assert here.recv().startswith("another build makes this layer; waiting for ")
        return builder.make()

    with contextlib.ExitStack() as held:
        step = builder.heard.silent_step
        taken, made = held.enter_context(one.taken(wanted(), "below", make, builder.place, step))
        assert made
        # The lock is free while the tree is used.
        assert here.recv() == (taken.id, "made 1\n")
        second.join()
    assert second.exitcode == 0


# --- what was built ----------------------------------------------------------------------------


def test_what_an_image_was_made_from_is_found_on_another_node(one: LayerStore, other: LayerStore) -> None:
    one.remember("demo", [{"base": "1"}])
    assert other.remembered("demo") == [{"base": "1"}]
    other.remember("demo", [{"base": "2"}])
    assert one.remembered("demo") == [{"base": "1"}]
    assert node(one.local.root.parent.parent / "third", shared=False).remembered("demo") == []


def test_an_unknown_layout_of_either_tier_is_told_before_any_work(one: LayerStore) -> None:
    one.prepare()
    one.remember("demo", [])
    assert one.shared
    (one.shared.root / "format").write_text("9\n")
    with pytest.raises(StoreError, match=r"the shared layer store .* has format '9'"):
        one.prepare()
