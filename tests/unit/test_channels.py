"""Promote, roll back, deprecate and revoke: what they do, and what they refuse."""

from __future__ import annotations

import json
import multiprocessing
import os
import pwd
import signal
from pathlib import Path

import pytest

from kiln import channels, files, history
from kiln.errors import KilnError, RevokedError, StoreError, UsageError
from kiln.standing import Standing, Standings, of_data
from kiln.store import Entry, Store
from tests.unit.conftest import Publisher


def silent(text: str) -> None: ...


def standing(store: Store, entry: Entry) -> Standing:
    return Standings(store).of(entry)


def promote(store: Store, reference: str, channel: str = "current", because: str = "") -> str:
    return channels.promote(store, reference, channel, because, silent).before


def rollback(store: Store, name: str = "demo", channel: str = "current") -> str:
    return channels.rollback(store, name, channel, "", silent).version


def test_a_channel_of_ones_own(store: Store, put: Publisher) -> None:
    put("demo")
    put("demo")
    assert promote(store, "demo:1.0-r1", "lts") == ""
    assert store.channels("demo") == {"current": "1.0-r2", "lts": "1.0-r1"}
    assert store.find("demo:lts").version == "1.0-r1"
    catalog = json.loads(store.catalog.read_text())
    assert catalog["images"]["demo"]["channels"]["lts"] == "1.0-r1"
    # Where it leads already nothing is done, and nothing noted.
    before = history.read(store, "demo")
    assert promote(store, "demo:1.0-r1", "lts") == "1.0-r1"
    assert history.read(store, "demo") == before


@pytest.mark.parametrize("name", ["", "a/b", "../x", "Current", "a" * 50, ".lock", "-x", "a b"])
def test_names_that_are_no_channels(store: Store, put: Publisher, name: str) -> None:
    put("demo")
    with pytest.raises(UsageError, match="no name for a channel"):
        promote(store, "demo:1.0-r1", name)


@pytest.mark.parametrize(
    ("state", "words"), [("skipped", "have not all run"), ("failed", "have failed"), ("", "are not there")]
)
def test_an_untested_version_needs_a_reason(store: Store, put: Publisher, state: str, words: str) -> None:
    put("demo")
    put("demo", smoke=(state,) if state else ())
    with pytest.raises(StoreError, match=words) as caught:
        promote(store, "demo:1.0-r2", "lts")
    assert "--because" in caught.value.hint and "lts" not in store.channels("demo")
    promote(store, "demo:1.0-r2", "lts", "tested by hand on node 7")
    assert history.read(store, "demo")[-1].because == "tested by hand on node 7"


def test_a_step_back_and_another(store: Store, put: Publisher) -> None:
    for _ in range(3):
        put("demo")
    assert [rollback(store), rollback(store)] == ["1.0-r2", "1.0-r1"]
    assert store.channels("demo") == {"current": "1.0-r1"}
    with pytest.raises(StoreError, match="no version that current had before") as caught:
        rollback(store)
    assert "invoke promote demo:VERSION" in caught.value.hint
    with pytest.raises(UsageError, match="no channel lts"):
        rollback(store, channel="lts")


def test_a_revoked_version_is_out_of_every_way(store: Store, put: Publisher) -> None:
    for _ in range(3):
        put("demo")
    entry = channels.revoke(store, "demo:1.0-r2", "wrong NCCL", silent)
    assert standing(store, entry).text == "revoked: wrong NCCL"
    for because in ("", "I know better"):
        with pytest.raises(RevokedError, match="is revoked: wrong NCCL"):
            promote(store, "demo:1.0-r2", "lts", because)
    assert rollback(store) == "1.0-r1"
    # Also one that `current` leads to: it may be the only one.
    channels.revoke(store, "demo:current", "that too", silent)
    assert store.channels("demo") == {"current": "1.0-r1"}


def test_what_is_built_on_a_revoked_version_is_marked(store: Store, put: Publisher) -> None:
    put("base")
    put("middle")
    put("top")
    base = store.find("base").record
    assert base
    parents = {"middle": ("image:base", base.digest), "top": ("image:middle:1.0-r1", "sha256:" + "2" * 64)}
    for name, (text, digest) in parents.items():
        path = store.record(name, "1.0-r1")
        path.chmod(0o644)
        data = json.loads(path.read_text())
        # Each published file is the same one here: an own digest tells them apart.
        own = {"middle": "sha256:" + "2" * 64, "top": "sha256:" + "3" * 64}[name]
        path.write_text(json.dumps({**data, "base": text, "base_digest": digest, "digest": own}))
    assert standing(store, store.find("top")).base is None
    channels.revoke(store, "base:1.0-r1", "a token in it", silent)
    said = "built on base 1.0-r1, which is revoked: a token in it"
    assert standing(store, store.find("top")).text == said
    # The catalogue carries it to those who have nothing else.
    catalog = json.loads(store.catalog.read_text())["images"]["top"]["versions"][0]
    assert of_data(catalog).text == said
    with pytest.raises(RevokedError, match="which is revoked"):
        promote(store, "top:1.0-r1", "lts")


def test_a_chain_of_bases_that_leads_back_ends(store: Store, put: Publisher) -> None:
    put("demo")
    path = store.record("demo", "1.0-r1")
    path.chmod(0o644)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "base": "image:demo", "base_digest": data["digest"]}))
    assert standing(store, store.find("demo")).base is None


def test_a_deprecation_says_until_when_and_what_to_use(store: Store, put: Publisher) -> None:
    put("demo")
    put("demo")
    entry = channels.deprecate(store, "demo:1.0-r1", "9999-01-31", "demo:1.0-r2", "old CUDA", silent)
    assert standing(store, entry).text == "deprecated until 9999-01-31: old CUDA; use demo:1.0-r2"
    for until, use, because, words in (
        ("31.1.2027", "demo:1.0-r2", "x", "is no date"),
        ("2020-01-01", "demo:1.0-r2", "x", "has passed"),
        ("9999-01-31", "demo:1.0-r1", "x", "is demo:1.0-r1 itself"),
        ("9999-01-31", "demo:1.0-r2", "", "needs a reason"),
        ("9999-01-31", "", "x", "needs what to use in its place"),
        ("", "demo:1.0-r2", "x", "needs the day"),
        ("9999-01-31", "other", "x", "no image 'other'"),
    ):
        with pytest.raises(KilnError, match=words):
            channels.deprecate(store, "demo:1.0-r1", until, use, because, silent)


def test_a_version_must_be_named(store: Store, put: Publisher) -> None:
    put("demo")
    for work in (
        lambda: promote(store, "demo"),
        lambda: channels.revoke(store, "demo", "x", silent),
    ):
        with pytest.raises(UsageError, match="which version of demo") as caught:
            work()
        assert "demo:1.0-r1" in caught.value.hint
    with pytest.raises(UsageError, match="needs a reason"):
        channels.revoke(store, "demo:1.0-r1", "", silent)


def test_promote_and_rollback_at_the_same_moment(store: Store, put: Publisher) -> None:
    for _ in range(3):
        put("demo")
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=promote, args=(store, f"demo:1.0-r{number}", "current", "x"))
        for number in (1, 2, 1, 2)
    ]
    both.append(context.Process(target=rollback, args=(store,)))
    for process in both:
        process.start()
    for process in both:
        process.join()
    last = [change for change in history.read(store, "demo") if change.channel == "current"][-1]
    assert store.channels("demo") == {"current": last.version}
    assert all(process.exitcode == 0 for process in both)


STEPS = ("replace", "symlink", "unlink", "fsync", "chmod")


def _promote_and_die(store: Store, fatal: int) -> None:
    """Promote, and die by SIGKILL at the `fatal`th call that changes anything."""
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
    promote(store, "demo:1.0-r1")


def test_a_promotion_that_is_killed_anywhere_leaves_a_current(store: Store, put: Publisher) -> None:
    put("demo")
    put("demo")
    context = multiprocessing.get_context("fork")
    for fatal in range(1, 30):
        process = context.Process(target=_promote_and_die, args=(store, fatal))
        process.start()
        process.join()
        current = files.inside(store.folder("demo"), "current.sqsh", follow_last=True)
        assert current.exists() and store.channels("demo")["current"] in ("1.0-r1", "1.0-r2")
        json.loads(store.catalog.read_text())
        # Whatever was written, the way back is from where it leads.
        promote(store, "demo:1.0-r2")
        assert rollback(store) == "1.0-r1"
        promote(store, "demo:1.0-r2")
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert fatal > 5


def test_who_may_not_write_is_told_who_may(
    store: Store, put: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("demo")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match=f"owner: {pwd.getpwuid(os.getuid()).pw_name}"):
        promote(store, "demo:1.0-r1", "lts")


def test_a_damaged_record_makes_one_image_doubtful(store: Store, put: Publisher) -> None:
    put("demo")
    path: Path = store.record("demo", "1.0-r1")
    path.chmod(0o644)
    path.write_text("{")
    with pytest.raises(StoreError, match="has no sound record"):
        promote(store, "demo:1.0-r1", "lts")
    assert standing(store, store.find("demo")) == Standing()
