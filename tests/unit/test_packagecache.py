"""The package cache: a folder of the caller's own, and what of it is old."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiln import packagecache

LONG_AGO, BEFORE, NOW = 1_000_000.0, 2_000_000.0, 3_000_000.0


def file(path: Path, read: float, written: float, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (read, written))
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return packagecache.own(tmp_path / "packages")


def test_a_cache_is_made_for_the_caller_alone(tmp_path: Path, mine: Path) -> None:
    mount = packagecache.mount(tmp_path / "packages", "apt")
    assert (mount.source, mount.target, mount.read_only) == (mine / "apt", "/run/kiln/packages/apt", False)
    assert [path.name for path in mine.iterdir()] == ["apt"]
    assert {path.stat().st_mode & 0o777 for path in (mine, mine / "apt")} == {0o700}
    assert packagecache.mount(tmp_path / "packages", "apt") == mount


def test_a_cache_that_others_may_write_is_refused(tmp_path: Path, mine: Path) -> None:
    packagecache.mount(tmp_path / "packages", "pip")
    mine.chmod(0o770)
    with pytest.raises(OSError, match="not yours alone"):
        packagecache.mount(tmp_path / "packages", "pip")


def test_a_link_in_the_place_of_a_cache_is_refused(tmp_path: Path, mine: Path) -> None:
    mine.parent.mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    mine.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="not yours alone"):
        packagecache.mount(tmp_path / "packages", "pip")


def test_a_cache_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "packages").write_text("")
    with pytest.raises(OSError) as caught:
        packagecache.mount(tmp_path / "packages", "uv")
    assert str(tmp_path / "packages") in str(caught.value)


def test_a_mount_says_that_the_cache_is_used(tmp_path: Path, mine: Path) -> None:
    packagecache.mount(tmp_path / "packages", "uv")
    os.utime(mine / "uv", (LONG_AGO, LONG_AGO))
    packagecache.mount(tmp_path / "packages", "uv")
    assert list(packagecache.unused(mine, BEFORE)) == []


def test_archives_go_by_their_own_last_use(mine: Path) -> None:
    old = file(mine / "apt/old.deb", LONG_AGO, LONG_AGO)
    file(mine / "apt/read.deb", NOW, LONG_AGO)
    file(mine / "apt/touched.deb", LONG_AGO, NOW)
    left = file(mine / "apt/new.abc/part", LONG_AGO, LONG_AGO).parent
    os.utime(left, (LONG_AGO, LONG_AGO))
    assert list(packagecache.unused(mine, BEFORE)) == [left, old]


def test_an_answer_that_pip_keeps_in_two_files_goes_as_one(mine: Path) -> None:
    old = [file(mine / f"pip/http-v2/a/{name}", LONG_AGO, LONG_AGO) for name in ("12", "12.body")]
    file(mine / "pip/http-v2/b/34", LONG_AGO, LONG_AGO)
    file(mine / "pip/http-v2/b/34.body", NOW, LONG_AGO)
    older = file(mine / "pip/http/c/56", LONG_AGO, LONG_AGO)
    assert list(packagecache.unused(mine, BEFORE)) == [older, *old]


def test_uv_goes_as_a_whole_or_not_at_all(mine: Path) -> None:
    file(mine / "uv/archive-v0/x/old.py", LONG_AGO, LONG_AGO)
    left = file(mine / "uv/build.abc/wheel", LONG_AGO, LONG_AGO).parent
    os.utime(left, (LONG_AGO, LONG_AGO))
    file(mine / "uv/build.def/wheel", NOW, NOW)
    os.utime(mine / "uv", (LONG_AGO, NOW))
    assert list(packagecache.unused(mine, BEFORE)) == [left]
    os.utime(mine / "uv", (NOW, LONG_AGO))
    assert list(packagecache.unused(mine, BEFORE)) == [mine / "uv"]


def test_where_there_is_no_cache_nothing_is_unused(mine: Path) -> None:
    assert list(packagecache.unused(mine, BEFORE)) == []
    assert packagecache.size(mine) == 0


def test_the_size_counts_every_file_and_follows_no_link(tmp_path: Path, mine: Path) -> None:
    file(mine / "apt/a.deb", NOW, NOW, "x" * 1000)
    file(mine / "uv/archive-v0/b/c.py", NOW, NOW, "x" * 200)
    file(tmp_path / "big", NOW, NOW, "x" * 5000)
    (mine / "uv/link").symlink_to(tmp_path / "big")
    assert packagecache.size(mine) == 1200
