"""Atomic writes, locks, foreign trees and their removal."""

from __future__ import annotations

import multiprocessing
import os
import stat
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from kiln import files
from kiln.errors import BusyError, SpaceError, StoreError


def test_write_atomic_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    files.write_atomic(target, b"new", 0o444)
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o444
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_write_atomic_ignores_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_atomic(tmp_path / "a", b"", 0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_missing_folder_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"cannot write {tmp_path}/no/a: No such file or directory"):
        files.write_atomic(tmp_path / "no/a", b"")


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full here")
def test_a_full_disk_is_a_space_error(tmp_path: Path) -> None:
    with (
        pytest.raises(SpaceError, match="no space left"),
        files.translated(tmp_path),
        open("/dev/full", "wb", 0) as full,
    ):
        full.write(b"x")


def test_link_atomic_moves_a_link(tmp_path: Path) -> None:
    files.link_atomic(tmp_path / "current", "one")
    files.link_atomic(tmp_path / "current", "two")
    assert os.readlink(tmp_path / "current") == "two"
    assert len(list(tmp_path.iterdir())) == 1


def _hold(path: Path, held: Event, done: Event) -> None:
    with files.locked(path, wait=0):
        held.set()
        done.wait(30)


def test_a_lock_is_exclusive_says_who_has_it_and_goes_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held, done))
    holder.start()
    assert held.wait(30)
    said: list[str] = []
    with (
        pytest.raises(BusyError, match=f"pid {holder.pid}"),
        files.locked(tmp_path / "lock", wait=0.3, on_wait=said.append),
    ):
        pass
    assert len(said) == 1
    holder.kill()
    holder.join()
    with files.locked(tmp_path / "lock", wait=0):
        pass


def test_a_lock_that_is_removed_while_one_waits_is_not_held_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = files._acquire, 0

    def slow(descriptor: int, path: Path, *args: Any) -> None:
        nonlocal calls
        calls += 1
        original(descriptor, path, *args)
        if calls == 1:
            path.unlink()

    monkeypatch.setattr(files, "_acquire", slow)
    before = len(os.listdir("/proc/self/fd"))
    with files.locked(tmp_path / "lock", wait=0):
        assert (calls, (tmp_path / "lock").read_text()) == (2, f"{os.uname().nodename} pid {os.getpid()}\n")
    assert len(os.listdir("/proc/self/fd")) == before


def test_remove_tree_takes_what_its_owner_may_not_read(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").write_text("x")
    (tree / "out").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    (tree / "a/b").chmod(0)
    (tree / "a").chmod(0o500)
    files.remove_tree(tree)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    files.remove_tree(tree)


@pytest.mark.parametrize(
    ("links", "path", "leads_to"),
    [
        ({}, "/etc/passwd", "/etc/passwd"),
        ({"etc": "/usr/etc"}, "/etc/passwd", "/usr/etc/passwd"),
        ({"etc": "../../../../outside"}, "/etc/passwd", "/outside/passwd"),
        ({"a": "b", "b": "c"}, "a/x", "/c/x"),
        ({}, "/../../x", "/x"),
    ],
)
def test_links_in_a_foreign_tree_never_lead_out(
    tmp_path: Path, links: dict[str, str], path: str, leads_to: str
) -> None:
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert str(files.resolve_inside(tmp_path, path)) == leads_to


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StoreError, match="too many links"):
        files.resolve_inside(tmp_path, "a")


LEADING_OUT = [
    ({}, "etc/passwd", False),
    ({"etc": "usr/etc"}, "etc/passwd", False),
    ({"etc": "./usr/../usr/etc"}, "etc/passwd", False),
    ({"etc": "/usr/etc"}, "etc/passwd", True),
    ({"etc": "../outside"}, "etc/passwd", True),
    ({"etc": "usr/../../outside"}, "etc", True),
    ({"a": "b", "b": "c"}, "a/x", False),
    ({"a": "b", "b": ".."}, "a/x", True),
    ({"a": "b", "b": "a"}, "a", True),
    ({"a": "a/x"}, "a", True),
    ({"usr/link": "../etc"}, "usr/link/passwd", False),
    ({"usr/link": "../../etc"}, "usr/link/passwd", True),
    ({"usr/link": "../link", "link": "usr/sub"}, "/usr/link/x", False),
    ({"usr/sub/link": "../.."}, "usr/sub/link/etc/passwd", False),
    ({"usr/sub/link": "../.."}, "usr/sub/link/../x", True),
    ({}, "../x", True),
    ({}, "usr/../etc", False),
    ({"etc": ""}, "other", False),
]


@pytest.mark.parametrize(("links", "path", "out"), LEADING_OUT)
def test_whether_a_path_leads_out_by_a_link(
    tmp_path: Path, links: dict[str, str], path: str, out: bool
) -> None:
    (tmp_path / "usr/sub").mkdir(parents=True)
    for name, target in links.items():
        (tmp_path / name).symlink_to(target or "usr")
    assert files.leads_out(tmp_path, path) is out


def test_what_leads_out_is_what_the_system_would_open_outside(tmp_path: Path) -> None:
    """Against the kernel's own way of following links."""
    for number, (links, path, out) in enumerate(LEADING_OUT):
        root = tmp_path / str(number)
        (root / "usr/sub").mkdir(parents=True)
        for name, target in links.items():
            (root / name).symlink_to(target or "usr")
        if ".." in path.split("/"):
            continue
        real = os.path.realpath(root / path.strip("/"))
        assert (os.path.commonpath([real, root]) != str(root)) <= out, (links, path)


def test_read_inside_reads_files_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("s")
    (root / "leak").symlink_to("../secret")
    (root / "absolute").symlink_to(str(tmp_path / "secret"))
    os.mkfifo(root / "pipe")
    (root / "file").write_text("content")
    assert files.read_inside(root, "/file") == b"content"
    assert [files.read_inside(root, name) for name in ("leak", "absolute", "pipe", "none", ".")] == [None] * 5


def test_sha256_path_sees_names_run_bits_links_and_contents(tmp_path: Path) -> None:
    def digest() -> str:
        return files.sha256_path(tmp_path)

    (tmp_path / "a").write_text("1")
    seen = {digest()}
    (tmp_path / "a").write_text("2")
    seen.add(digest())
    (tmp_path / "a").chmod(0o755)
    seen.add(digest())
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(digest())
    (tmp_path / "c").symlink_to("b")
    seen.add(digest())
    os.mkfifo(tmp_path / "d")
    seen.add(digest())
    assert len(seen) == 6


def test_sha256_stream_reads_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"head" + b"x" * (files.CHUNK + 1))
    (tmp_path / "b").write_bytes(b"x" * (files.CHUNK + 1))
    told: list[int] = []
    with (tmp_path / "a").open("rb") as stream:
        stream.seek(4)
        assert files.sha256_stream(stream, told.append) == files.sha256_file(tmp_path / "b")
    assert told == [files.CHUNK, files.CHUNK + 1]


def test_folders_of_an_image_have_one_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.make_folder(tmp_path / "opt/made/here")
        files.make_folder(tmp_path / "opt/made/here")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "opt").rglob("*")}
    assert modes | {stat.S_IMODE((tmp_path / "opt").stat().st_mode)} == {0o755}


def test_a_folder_is_writable_for_a_moment(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    with files.writable(tmp_path / "closed"):
        (tmp_path / "closed/new").touch()
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o555
