"""What was done to an image, and what follows: the way back, and who may still be used."""

from __future__ import annotations

import dataclasses
import json

import pytest

from kiln import history
from kiln.history import Change
from kiln.store import Store
from tests.unit.conftest import Publisher

THERE = ["1", "2", "3", "4"]


def moves(*texts: str) -> list[Change]:
    """Changes of `current`: "2" for a publish, "p2" for a promotion, "r1" for a rollback to it."""
    actions = {"p": history.PROMOTE, "r": history.ROLLBACK}
    made, now = [], ""
    for text in texts:
        version = text.lstrip("pr")
        made.append(Change(actions.get(text[0], history.PUBLISH), version, "current", now))
        now = version
    return made


@pytest.mark.parametrize(
    ("texts", "now", "wanted"),
    [
        ("1 2 3", "3", "2"),
        ("1 2 3 r2", "2", "1"),
        ("1 2 3 r2 r1", "1", ""),
        ("1 2 3 r2 4", "4", "2"),
        ("1 2 p1", "1", "2"),
        ("1 2 p1 r2", "2", "1"),
        ("1", "1", ""),
        ("", "1", ""),
        # Written, and cut off before the link moved.
        ("1 2 3", "2", "1"),
        # Moved by an older Kiln, which writes no history.
        ("1 2", "4", "2"),
    ],
)
def test_the_way_back(texts: str, now: str, wanted: str) -> None:
    assert history.way_back(moves(*texts.split()), "current", now, THERE) == wanted


def test_the_way_back_passes_over_what_is_gone_or_revoked() -> None:
    changes = moves("1", "2", "3", "4")
    assert history.way_back(changes, "current", "4", ["1", "2", "4"]) == "2"
    assert history.way_back([*changes, Change(history.REVOKE, "3")], "current", "4", THERE) == "2"
    assert history.way_back(changes, "candidate", "4", THERE) == ""


def test_the_last_word_on_a_version_counts() -> None:
    first = Change(history.DEPRECATE, "1", until="2027-01-01", use="x:2", because="old")
    second = dataclasses.replace(first, until="2028-01-01")
    revoked = Change(history.REVOKE, "1", because="wrong NCCL")
    changes = [first, revoked, second]
    assert history.last(changes, "1", history.DEPRECATE) == second
    assert history.last(changes, "1", history.REVOKE) == revoked
    assert history.last(changes, "2", history.DEPRECATE) is None


def test_lines_are_kept_in_order_whatever_lies_between(store: Store, put: Publisher) -> None:
    put("demo")
    [published] = history.read(store, "demo")
    assert (published.action, published.version, published.channel) == ("publish", "1.0-r1", "current")
    assert "@" in published.who and published.time.endswith("Z")
    path = history.path(store, "demo")
    # What another hand, or a half-written line, left.
    path.write_text(
        path.read_text() + '\n[1]\n{"action": 7, "version": "x"}\n{"version": "x"}\n{"action": "pu'
    )
    change = Change(history.REVOKE, "1.0-r1", because='a "quote"\nand a line')
    history.add(store, "demo", change)
    assert history.read(store, "demo") == [published, change]
    assert json.loads(path.read_text().splitlines()[-1])["because"] == change.because


def test_an_image_without_a_history_has_none(store: Store) -> None:
    assert history.read(store, "demo") == []


def test_a_change_in_words() -> None:
    assert Change(history.PUBLISH, "2", "current", "1").text == "published 2, current moved to it: was 1"
    assert Change(history.PROMOTE, "2", "lts", because="asked for").text == "lts moved to 2: asked for"
    assert Change(history.REVOKE, "2", because="wrong").text == "2 revoked: wrong"
