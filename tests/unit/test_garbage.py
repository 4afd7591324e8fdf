"""`gc`: which places are looked at, and what is said of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from kiln import garbage, render, site, workspace
from kiln.context import Context
from kiln.errors import StoreError
from kiln.layers.local import Local
from kiln.workspace import Workspace
from tests.unit import layertiers
from tests.unit.layertiers import ENV, KEY, Heard, entry, put

DAY = 86_400.0


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "sites").mkdir()
    text = (
        "format: 1\nname: x\nimages: ./images\ncache: ./cache\nlayers: {shared: ./shared, keep_unused: 2d}\n"
    )
    (tmp_path / "sites/x.yaml").write_text(text)
    return Context(tmp_path, site.load("x", tmp_path, {}), ENV, Heard())


@pytest.fixture
def tier(context: Context) -> Local:
    made = context.layer_store.local
    made.prepare()
    return made


def kept(context: Context, tier: Local, identity: str) -> Workspace:
    """A kept workspace that needs one entry."""
    with workspace.opened(context.site.work, "demo", {}) as private:
        private.keep("demo", 1)
        (private.stack / "entries.json").write_text(json.dumps([["layer", KEY, identity]]))
    return private


def old(path: Path, days: float = 3) -> None:
    os.utime(path, (time.time() - days * DAY,) * 2)


def everything(context: Context, tier: Local, tmp_path: Path) -> None:
    """An old entry in each tier, an old and a new download, a lock of it."""
    put(tier, tmp_path, "mine")
    old(tier.folder("layer", KEY) / "lease")
    shared = context.layer_store.shared
    assert shared
    shared.put(entry("theirs"), layertiers.tree(tmp_path / "shared-tree"))
    old(shared.folder("layer", KEY) / "tree.sqsh")
    blobs = context.site.blobs / "sha256"
    blobs.mkdir(parents=True)
    for name in ("1" * 64, "2" * 64, "1" * 64 + ".lock"):
        (blobs / name).write_bytes(b"12345")
        old(blobs / name, 0 if name.startswith("2") else 3)


def test_every_place_is_looked_at_and_only_looked_at_in_a_dry_run(
    context: Context, tier: Local, tmp_path: Path
) -> None:
    everything(context, tier, tmp_path)
    would = garbage.collect(context, "", dry_run=True)
    assert [each.item.kind for each in would.things] == ["layer", "download", "shared layer"]
    assert {each.reason for each in would.things} == {"unused for 3 d"}
    assert len(tier.entries()) == 1
    did = garbage.collect(context, "", dry_run=False)
    assert did.to_data() == would.to_data()
    assert tier.entries() == []
    assert sorted(path.name[0] for path in (context.site.blobs / "sha256").iterdir()) == ["1", "2"]
    assert garbage.collect(context, "", dry_run=False).to_data() == {
        "workspaces": [],
        "things": [],
        "bytes": 0,
    }


def test_what_is_said_of_each_thing(
    context: Context, tier: Local, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything(context, tier, tmp_path)
    done = garbage.collect(context, "", dry_run=True)
    data = done.to_data()
    things = data["things"]
    assert isinstance(things, list)
    assert things[1] == {
        "kind": "download",
        "title": "1" * 64,
        "path": f"{context.site.blobs}/sha256/{'1' * 64}",
        "bytes": 5,
        "reason": "unused for 3 d",
    }
    assert data["bytes"] == sum(each["bytes"] for each in things) == done.size
    console = Console(width=300)
    render.collected(console, done, dry_run=True)
    said = capsys.readouterr().out
    assert said.startswith("would be removed:\nlayer ")
    assert f"(unused for 3 d)  {tier.folder('layer', KEY)}\n" in said
    assert said.endswith(" in all\n")
    render.collected(console, garbage.Collected(["demo-1"], []), dry_run=False)
    assert capsys.readouterr().out == "removed:\nbuild   demo-1\n"
    render.collected(console, garbage.Collected([], []), dry_run=False)
    assert capsys.readouterr().out == "nothing to remove\n"


def test_what_a_kept_build_needs_stays_until_that_goes(context: Context, tier: Local, tmp_path: Path) -> None:
    put(tier, tmp_path, "mine")
    old(tier.folder("layer", KEY) / "lease")
    private = kept(context, tier, "mine")
    assert garbage._held(context.site.work, ()) == frozenset({"mine"})
    assert garbage.collect(context, "other", dry_run=False).to_data()["workspaces"] == []
    assert len(tier.entries()) == 1
    # Without a name all kept builds go, and with them what they held: so says a dry run too.
    would = garbage.collect(context, "", dry_run=True).to_data()
    done = garbage.collect(context, "", dry_run=False)
    assert (done.workspaces, len(done.things), done.to_data()) == ([private.id], 1, would)


def test_with_an_image_only_its_kept_builds_go(context: Context, tier: Local, tmp_path: Path) -> None:
    everything(context, tier, tmp_path)
    private = kept(context, tier, "mine")
    done = garbage.collect(context, "demo", dry_run=False)
    assert (done.workspaces, done.things, len(tier.entries())) == ([private.id], [], 1)


@pytest.mark.parametrize("text", ["", "{", "[[1]]", "3", "null", '[["a", "b", ["c"]]]'])
def test_a_damaged_list_of_what_a_kept_build_needs_holds_nothing(
    context: Context, tier: Local, text: str
) -> None:
    private = kept(context, tier, "mine")
    (private.stack / "entries.json").write_text(text)
    assert garbage._held(context.site.work, ()) == frozenset()


def test_a_store_of_a_newer_kiln_is_left_alone(context: Context, tier: Local, tmp_path: Path) -> None:
    everything(context, tier, tmp_path)
    (tier.root / "format").write_text("2\n")
    for dry_run in (True, False):
        with pytest.raises(StoreError, match="has format 2"):
            garbage.collect(context, "", dry_run=dry_run)
    assert len(tier.entries()) == 1


def test_a_cache_that_was_never_used(context: Context, tmp_path: Path) -> None:
    assert garbage.collect(context, "", dry_run=False).to_data()["things"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sites"]
