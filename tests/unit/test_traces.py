"""What a start of enroot may follow in a tree, and what it leaves there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiln.errors import RuntimeFailure
from kiln.runtime import traces


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    for name in ("etc/default", "etc/apt/apt.conf.d", "etc/skel", "usr/share", "var", "root"):
        (made / name).mkdir(parents=True)
    for name in ("passwd", "group", "environment", "fstab"):
        (made / "etc" / name).touch()
    return made


def test_a_plain_tree_is_let_through(tree: Path, tmp_path: Path) -> None:
    traces.guard(tree)
    (tmp_path / "empty").mkdir()
    traces.guard(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "target"),
    [("etc", "usr/etc"), ("var", "./usr/../usr/var"), ("etc/passwd", "group"), ("etc/skel", "../usr/share")],
)
def test_links_within_the_tree_are_let_through(tree: Path, name: str, target: str) -> None:
    path = tree / name
    if path.is_dir():
        path.rename(tree / "away")
    else:
        path.unlink()
    path.symlink_to(target)
    traces.guard(tree)


@pytest.mark.parametrize("name", [name for name in traces.FOLLOWED if "/" in name or name in ("etc", "var")])
@pytest.mark.parametrize("target", ["/etc", "../../../../../../etc", "loop", "x/../../../../../../etc"])
def test_links_out_of_the_tree_are_refused(tree: Path, name: str, target: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rename(tree / "away")
    path.unlink(missing_ok=True)
    path.symlink_to(path.name if target == "loop" else target)
    top = name.partition("/")[0]
    with pytest.raises(RuntimeFailure, match=f"^/{top}.* in the container tree leads out") as caught:
        traces.guard(tree)
    assert "--runtime embedded" in caught.value.hint


@pytest.mark.parametrize("target", ["etc/passwd", "/etc/passwd", "none"])
def test_the_lock_is_no_link_at_all(tree: Path, target: str) -> None:
    """enroot makes it by opening its name, wherever that leads."""
    (tree / traces.LOCK).symlink_to(target)
    with pytest.raises(RuntimeFailure, match=r"^/\.lock in"):
        traces.guard(tree)


def test_the_callers_home_and_time_zone_are_looked_at_too(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "pwd_home", lambda: "/people/me")
    monkeypatch.setattr(traces, "_zone", lambda: "/zones/here")
    traces.guard(tree)
    for name in ("people", "zones", "root"):
        path = tree / name
        if path.is_dir():
            path.rmdir()
        path.symlink_to("/tmp")
        with pytest.raises(RuntimeFailure, match=f"^/{name}"):
            traces.guard(tree)
        path.unlink()


def test_what_a_start_makes_is_taken_away_and_nothing_else(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "pwd_home", lambda: "/people/me")
    monkeypatch.setattr(traces, "_zone", lambda: "/zones/here")
    (tree / "etc/skel/.profile").write_text("export A=1\n")
    (tree / "etc/hosts").touch()
    before = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    with traces.taken_away(tree, ("mnt/deep/in",)):
        for name in ("dev", "proc", "mnt/deep/in", "people/me", "zones"):
            (tree / name).mkdir(parents=True)
        for name in (traces.LOCK, "etc/resolv.conf", "zones/here"):
            (tree / name).touch()
        (tree / traces.APT_FILE).write_bytes(traces.APT_TEXT)
        (tree / "people/me/.profile").write_text("export A=1\n")
        (tree / "root/made").touch()
        (tree / "mnt/other").touch()
    after = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    assert sorted(set(after) - set(before)) == ["mnt", "mnt/other", "root/made"]
    assert sorted(set(before) - set(after)) == []


def test_a_process_whose_root_is_the_tree_is_found(tmp_path: Path) -> None:
    assert os.getpid() in traces.processes(Path("/"))
    assert traces.processes(tmp_path) == traces.processes(tmp_path / "none") == []
