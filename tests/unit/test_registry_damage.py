"""Layers that are damaged, hostile or oddly made: each refused with its place, or read right."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest

from kiln.errors import BaseError, KilnError, SpaceError
from kiln.registry import inflate
from kiln.registry.tree import Tree
from kiln.registry.unpack import Layer, failure, main
from tests.registry_fixture import compressed, hardlink, layer, member, sha256, symlink
from tests.unit.test_unpack import Image


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


HOSTILE = {
    "parent": (member("../x"), "a name with .."),
    "parent within": (member("a/../../x"), "a name with .."),
    "absolute": (member("/etc/passwd"), "an absolute name"),
    "absolute at the top": (member("/passwd"), "an absolute name"),
    "hard link out": (hardlink("x", "../../etc/passwd"), "a hard link to '../../etc/passwd': a name with .."),
    "hard link to nothing": (hardlink("x", "nothing"), "a hard link to 'nothing', which is not there"),
    "hard link to a folder": (hardlink("x", "."), "a hard link to the folder '.'"),
    "device": (member("sda", kind=tarfile.BLKTYPE), "a device node"),
    "overlay's whiteout": (member("w", kind=tarfile.CHRTYPE), "a device node"),
    "no name": (member("."), "an entry without a name"),
    "whiteout of the parent": (member("a/.wh..."), "a whiteout of no name"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_entries_are_refused_by_layer_and_name(image: Image, kind: str) -> None:
    entry, words = HOSTILE[kind]
    image.add(member("fine")).add(member("first"), entry)
    message = image.refused()
    assert words in message
    assert f"layer 2 of 2 (sha256:{image.layers[1].path.name})" in message
    assert not (image.tmp / "x").exists()


def test_a_loop_of_links_and_a_file_for_a_folder(image: Image) -> None:
    image.add(symlink("a", "b"), symlink("b", "a"), member("a/f"))
    assert "a loop of symbolic links" in image.refused()


def test_a_name_is_shown_without_control_characters(image: Image) -> None:
    image.add(member("\x1b[31m/../x"))
    assert "\x1b" not in image.refused()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_a_cut_layer(image: Image, compression: str, keep: float) -> None:
    blob = compressed(layer(member("a", os.urandom(50_000)), member("b", os.urandom(50_000))), compression)
    path = image.tmp / ("0" * 64)
    path.write_bytes(blob[: int(len(blob) * keep)])
    image.layers.append(Layer(path, sha256(b"")))
    assert f"sha256:{path.name}" in image.refused()


@pytest.mark.parametrize(
    "data", [b"garbage" * 200, b"\x1f\x8b" + b"garbage" * 200, b"\x28\xb5\x2f\xfd" + b"g" * 900]
)
def test_garbage(image: Image, data: bytes) -> None:
    image.add_bytes(data)
    assert "layer 1 of 1" in image.refused()


def test_other_bytes_than_the_config_promises(image: Image) -> None:
    image.add(member("a"))
    image.layers = [Layer(image.layers[0].path, sha256(b"other"))]
    assert "the image's config says" in image.refused()


def test_an_empty_layer(image: Image) -> None:
    image.add_bytes(b"").add().unpack()
    assert image.names() == []


def test_limits_stop_bombs(image: Image) -> None:
    image.add(member("zeros", bytes(5 << 20)), member("more"), compression="gzip")
    assert "unpacks to more than the limit of 1000000 bytes" in image.refused(size=1_000_000)
    assert "more than the limit of 1 entries" in image.refused(entries=1)


def test_a_sparse_bomb_counts_with_its_holes(image: Image) -> None:
    image.add_bytes(gnu_tar(image.tmp, "1.0", size=1 << 36))
    assert "unpacks to more than the limit" in image.refused(size=1 << 30)


@pytest.mark.parametrize("sparse", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_of_every_kind(image: Image, sparse: str) -> None:
    image.add_bytes(gnu_tar(image.tmp, sparse)).unpack()
    found, wanted = image.root / "sparse", image.tmp / "in/sparse"
    assert found.read_bytes() == wanted.read_bytes()
    assert found.stat().st_blocks < 5 << 11


def gnu_tar(tmp: Path, sparse: str, size: int = 5 << 20) -> bytes:
    """An archive of one file with many holes, made by GNU tar."""
    (tmp / "in").mkdir()
    with (tmp / "in/sparse").open("wb") as stream:
        for number in range(30):
            stream.seek(number * 150_000 + 4096)
            stream.write(b"data %d" % number)
        stream.truncate(size)
    style = ["--format=gnu"] if sparse == "gnu" else ["--format=pax", f"--sparse-version={sparse}"]
    argv = ["tar", *style, "--sparse", "-C", str(tmp / "in"), "-cf", "-", "sparse"]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def test_a_full_disk(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tree, "_file", full)
    with pytest.raises(SpaceError, match="no space left to unpack layer 1 of 1"):
        image.add(member("f", b"x")).unpack()


def test_zlib_does_where_isal_is_missing(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "deflate", zlib)
    image.add(member("big", bytes(9 << 20)), member("f", b"x"), compression="gzip").unpack()
    assert (image.root / "big").stat().st_size == 9 << 20


def test_gzip_in_several_members_and_with_zeros_after_it(image: Image) -> None:
    data = layer(member("a", b"x" * 5000), member("b", b"y"))
    blob = compressed(data[:3000], "gzip") + compressed(data[3000:], "gzip") + bytes(512)
    path = image.tmp / "blob"
    path.write_bytes(blob)
    image.layers.append(Layer(path, sha256(data)))
    assert image.unpack() and image.names() == ["a", "b"]


def test_a_missing_blob(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "none"), sha256(b"")]) == BaseError.exit_code
    assert "cannot read" in json.loads(capsys.readouterr().out)["message"]


def test_lines_that_are_no_failure() -> None:
    assert failure('{"progress": [1, 2]}') is None
    assert failure("nonsense") is None
    assert isinstance(failure(json.dumps({"id": "space", "message": "m", "hint": "h"})), KilnError)
