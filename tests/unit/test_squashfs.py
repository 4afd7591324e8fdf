"""Whether a .sqsh is whole, by its superblock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiln import squashfs
from kiln.errors import ExportError
from kiln.run import host_environment, run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(100_000))
    argv = ["mksquashfs", str(tmp_path / "tree"), str(tmp_path / "x.sqsh"), *squashfs.arguments(())]
    run(argv, what="make it", env=host_environment(os.environ), timeout=60)
    return tmp_path / "x.sqsh"


def test_a_whole_file_passes(image: Path) -> None:
    assert 100_000 < squashfs.check(image) <= image.stat().st_size


def test_a_file_cut_short_is_named_with_both_sizes(image: Path) -> None:
    os.truncate(image, image.stat().st_size - 20_000)
    with pytest.raises(ExportError, match=r"x\.sqsh is cut short: [\d,]+ of [\d,]+ bytes"):
        squashfs.check(image)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"PK" + bytes(200), "is not a squashfs"), (b"hsqs", "is not a squashfs")],
)
def test_no_squashfs_at_all(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.sqsh"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=words):
        squashfs.check(path)


def test_an_unreadable_file_stops_the_writing_instead_of_becoming_empty() -> None:
    assert "-exit-on-error" in squashfs.arguments(("-comp", "gzip"))
