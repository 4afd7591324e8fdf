"""Workspaces: made, kept, and reaped only when their owner is dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kiln import workspace
from kiln.runtime import namespace
from kiln.workspace import Owner, Workspace
from tests.unit.layertiers import ENV


def test_it_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with workspace.opened(tmp_path / "work", "demo", {"PBS_JOBID": "7.srv"}) as private:
        assert private.path.stat().st_mode & 0o777 == 0o700
        owner = json.loads((private.path / "owner.json").read_text())
        assert (owner["pid"], owner["job"]) == (os.getpid(), "7.srv")
        (private.containers / "build/deep").mkdir(parents=True)
        (private.containers / "build").chmod(0o500)
    assert list((tmp_path / "work").iterdir()) == []


def test_it_is_gone_after_a_failure_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), workspace.opened(tmp_path, "demo", {}):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_kept_one_stays_until_it_is_cleaned(tmp_path: Path) -> None:
    with workspace.opened(tmp_path, "demo", {}) as private:
        private.keep("demo", 3)
    assert workspace.reap(tmp_path) == []
    assert [kept.kept_for() for kept in workspace.kept(tmp_path)] == [("demo", 3)]
    assert workspace.clean(tmp_path, "other") == []
    assert workspace.clean(tmp_path, "demo") == [private.id]
    assert list(tmp_path.iterdir()) == []


def test_the_living_are_left_alone(tmp_path: Path) -> None:
    with workspace.opened(tmp_path, "demo", {}) as private:
        assert workspace.reap(tmp_path) == []
        assert private.path.exists()


def _owned_by(tmp_path: Path, owner: Owner) -> Workspace:
    path = tmp_path / f"demo-{owner.pid}"
    path.mkdir()
    (path / "owner.json").write_text(json.dumps(vars(owner)))
    return Workspace(path)


def test_only_the_provably_dead_are_reaped(tmp_path: Path) -> None:
    me = Owner.me({})
    process = subprocess.Popen(["true"])
    process.wait()
    cases = {
        "no such process": (Owner(me.host, me.boot, process.pid, "1"), True),
        "the number went to another process": (Owner(me.host, me.boot, me.pid, "1"), True),
        "another boot": (Owner(me.host, "00000000", me.pid, me.started), True),
        "another host": (Owner("elsewhere", "00000000", 1, "1"), False),
        "me": (me, False),
    }
    for name, (owner, dead) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        private = _owned_by(folder, owner)
        assert (workspace.reap(folder) == [private.id]) is dead, name
        assert private.path.exists() is not dead, name


def test_what_a_dead_build_still_runs_is_ended(tmp_path: Path) -> None:
    me = Owner.me({})
    private = _owned_by(tmp_path, Owner(me.host, me.boot, me.pid, "1"))
    env = {**os.environ, workspace.MARK: private.id}
    left = subprocess.Popen(
        [sys.executable, "-c", "input()"], env=env, stdin=subprocess.PIPE, start_new_session=True
    )
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    workspace.reap(tmp_path)
    assert left.wait(20) == -9
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_damaged_owner_file_of_today_may_be_a_build_that_begins(tmp_path: Path) -> None:
    (tmp_path / "demo-1").mkdir()
    assert workspace.reap(tmp_path) == []
    os.utime(tmp_path / "demo-1", (0, 0))
    assert workspace.reap(tmp_path) == ["demo-1"]


def test_what_would_be_cleaned_is_what_is_cleaned(tmp_path: Path) -> None:
    me = Owner.me({})
    dead = _owned_by(tmp_path, Owner(me.host, me.boot, me.pid, "1"))
    with workspace.opened(tmp_path, "demo", {}) as kept:
        kept.keep("demo", 1)
    with workspace.opened(tmp_path, "other", {}) as other:
        other.keep("other", 2)
    with workspace.opened(tmp_path, "alive", {}) as alive:
        assert workspace.doomed(tmp_path, "none") == [dead.id]
        assert workspace.doomed(tmp_path, "demo") == [dead.id, kept.id]
        assert sorted(workspace.doomed(tmp_path)) == sorted([dead.id, kept.id, other.id])
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            each.id for each in (dead, kept, other, alive)
        )
        assert sorted(workspace.clean(tmp_path)) == sorted([dead.id, kept.id, other.id])
        assert alive.path.exists()


def test_those_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = Owner.me({})
    private = _owned_by(tmp_path, Owner(me.host, me.boot, me.pid, "1"))
    private.keep("demo", 1)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert workspace.doomed(tmp_path) == workspace.clean(tmp_path) == []
    assert workspace.kept(tmp_path) == []
    monkeypatch.undo()
    assert workspace.clean(tmp_path) == [private.id]


def test_an_overlay_that_was_under_way_goes_too(tmp_path: Path, overlays: None) -> None:
    """The kernel leaves a folder of mode 000 in an overlay's work folder."""
    with workspace.opened(tmp_path, "demo", {}) as private, namespace.opened(ENV) as space:
        for folder in (private.lower, private.upper, private.overlay_work, tmp_path / "base"):
            folder.mkdir(parents=True, exist_ok=True)
        (private.lower / "0").symlink_to(tmp_path / "base")
        target = private.containers / "build"
        target.mkdir()
        space.mount(private.lower, private.upper, private.overlay_work, target)
        (space.view(target) / "made").touch()
        assert (private.overlay_work / "work").stat().st_mode & 0o777 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
