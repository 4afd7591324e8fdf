from __future__ import annotations

import os
from pathlib import Path

from kiln import treediff


def tree(path: Path) -> Path:
    (path / "etc").mkdir(parents=True)
    (path / "etc/motd").write_text("hello")
    (path / "etc/link").symlink_to("motd")
    (path / "bin").mkdir()
    for each in (*path.rglob("*"), path):
        os.utime(each, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    return path


def told(one: Path, two: Path) -> dict[str, str]:
    return {item.path: item.what for item in treediff.compare(one, two)}


def test_equal_trees(tmp_path: Path) -> None:
    assert told(tree(tmp_path / "one"), tree(tmp_path / "two")) == {}


def test_each_kind_of_difference(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    (two / "etc/motd").write_text("jello")
    (two / "etc/link").unlink()
    (two / "etc/link").symlink_to("/nowhere")
    (two / "bin").chmod(0o700)
    (one / "gone").touch()
    os.mkfifo(two / "new")
    for each in (one, two):
        os.utime(each, (1_700_000_000, 1_700_000_000))
    for path in ("etc/motd", "etc/link", "etc", "bin"):
        os.utime(two / path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    found = told(one, two)
    assert list(found) == ["/bin", "/etc/link", "/etc/motd", "/gone", "/new"]
    assert found["/bin"] == "mode drwxr-xr-x and drwx------"
    assert found["/etc/link"] == "leads to motd and leads to /nowhere"
    assert found["/etc/motd"].startswith("contents sha256:2cf24dba5fb0... and sha256:")
    assert (found["/gone"], found["/new"]) == ("is gone", "is new")


def test_time_size_and_kind(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    os.utime(two / "bin", (1_700_000_000, 1_700_000_060))
    (two / "etc/motd").write_text("hello, world")
    os.utime(two / "etc/motd", (1_700_000_000, 1_700_000_000))
    (two / "etc/link").unlink()
    (two / "etc/link").write_text("motd")
    os.utime(two / "etc", (1_700_000_000, 1_700_000_000))
    found = told(one, two)
    assert found["/bin"] == "time 2023-11-14T22:13:20Z and 2023-11-14T22:14:20Z"
    assert found["/etc/motd"].startswith("5 and 12 bytes, contents ")
    assert found["/etc/link"] == "mode lrwxrwxrwx and -rw-r--r--"


def test_the_top_itself(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    two.chmod(0o700)
    assert told(one, two) == {"/": "mode drwxr-xr-x and drwx------"}


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    with open(os.fsencode(two) + b"/\xff", "wb"):
        pass
    os.utime(two, (1_700_000_000, 1_700_000_000))
    assert told(one, two) == {"/\ufffd": "is new"}
