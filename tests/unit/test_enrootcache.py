"""enroot's layer cache: what Kiln puts there is what enroot itself would have."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kiln.base import parse_base
from kiln.bases import Found, unpacker
from kiln.errors import BaseError, StoreError
from kiln.registry.oci import Descriptor, Resolved
from kiln.runtime import enrootcache
from kiln.runtime.contract import Progress
from tests.registry_fixture import compressed, layer, member, sha256

CONFIG = json.dumps({"config": {}}).encode()
PLAIN = (layer(member("a", os.urandom(3 << 20))), layer(member("b", b"2")), b"")


class Downloads:
    """An image whose blobs lie in a folder; counts what is asked for."""

    def __init__(self, folder: Path, compression: str = "gzip") -> None:
        self.folder, self.asked = folder, list[str]()
        blobs = [compressed(data, compression) for data in PLAIN]
        for data in blobs:
            (folder / hashlib.sha256(data).hexdigest()).write_bytes(data)
        layers = tuple(Descriptor(sha256(data), len(data), "") for data in blobs)
        digests = tuple(map(sha256, PLAIN))
        uri, config = "docker://h#a", sha256(CONFIG)
        self.image = Resolved(uri, "amd64", "sha256:1", "", config, layers, digests, {}, CONFIG)

    def fetch(self, wanted: Resolved, progress: Progress) -> Sequence[Path]:
        self.asked += [each.hex for each in wanted.layers]
        return [self.folder / each.hex for each in wanted.layers]

    def fill(self, cache: Path) -> list[tuple[int, int]]:
        told: list[tuple[int, int]] = []
        enrootcache.fill(self.image, self.fetch, cache, lambda done, total: told.append((done, total)))
        return told


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "made/cache"


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path)


def unzstd(path: Path) -> bytes:
    return subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True).stdout


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_entries_are_zstd_of_what_the_blobs_unpack_to(tmp_path: Path, cache: Path, compression: str) -> None:
    downloads = Downloads(tmp_path, compression)
    umask = os.umask(0o077)
    try:
        told = downloads.fill(cache)
    finally:
        os.umask(umask)
    for blob, data in zip(downloads.image.layers, PLAIN, strict=True):
        assert unzstd(cache / blob.hex) == data
        assert stat.S_IMODE((cache / blob.hex).stat().st_mode) == 0o640
    assert unzstd(cache / downloads.image.config_digest.removeprefix("sha256:")) == CONFIG
    assert len(list(cache.iterdir())) == len(PLAIN) + 1
    assert told[-1] == (downloads.image.download_size, downloads.image.download_size)


def test_what_is_there_is_neither_fetched_nor_made(downloads: Downloads, cache: Path) -> None:
    first, *others = (each.hex for each in downloads.image.layers)
    cache.mkdir(parents=True)
    (cache / first).write_bytes(b"there")
    downloads.fill(cache)
    assert downloads.asked == others
    assert (cache / first).read_bytes() == b"there"
    downloads.asked.clear()
    assert downloads.fill(cache) == []
    assert downloads.asked == []


def test_a_layer_that_comes_twice(downloads: Downloads, cache: Path) -> None:
    image = downloads.image
    twice = (*image.layers, image.layers[0]), (*image.diff_ids, image.diff_ids[0])
    downloads.image = dataclasses.replace(image, layers=twice[0], diff_ids=twice[1])
    downloads.fill(cache)
    assert downloads.asked == [each.hex for each in image.layers]


def test_other_contents_than_the_config_says(downloads: Downloads, cache: Path) -> None:
    wrong = ("sha256:" + "0" * 64, *downloads.image.diff_ids[1:])
    downloads.image = dataclasses.replace(downloads.image, diff_ids=wrong)
    with pytest.raises(BaseError, match="the image's config says sha256:000"):
        downloads.fill(cache)
    assert not [path for path in cache.iterdir() if path.name.startswith(downloads.image.layers[0].hex)]


def test_a_damaged_layer(downloads: Downloads, cache: Path) -> None:
    blob = downloads.folder / downloads.image.layers[0].hex
    blob.write_bytes(blob.read_bytes()[:-1000])
    with pytest.raises(BaseError, match=downloads.image.layers[0].digest):
        downloads.fill(cache)
    assert not [path for path in cache.iterdir() if path.name.startswith(downloads.image.layers[0].hex)]


def test_a_cache_that_cannot_be_made(downloads: Downloads, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        downloads.fill(tmp_path / "file/cache")


def test_who_unpacks(downloads: Downloads, tmp_path: Path) -> None:
    base = parse_base("nvcr.io/a/b:1")
    image = downloads.image
    pulled = Found(base, "1", "", "", 0, 0, 0, resolved=image)
    anything: Any = object()
    filed = dataclasses.replace(pulled, local=anything)
    squashed = Found(base, "1", "", "", 0, 0, 0, image=tmp_path)
    made = Found(base, "1", "", "", 0, 0, 0, suite=anything)
    wanted = {
        ("embedded", "kiln"): ("kiln", "kiln", "embedded", "kiln"),
        ("embedded", "enroot"): ("kiln", "kiln", "embedded", "kiln"),
        ("enroot", "kiln"): ("kiln", "kiln", "enroot", "kiln"),
        ("enroot", "enroot"): ("enroot", "kiln", "enroot", "kiln"),
    }
    for (runtime, unpack), by in wanted.items():
        found = tuple(unpacker(each, runtime, unpack) for each in (pulled, filed, squashed, made))
        assert found == by, (runtime, unpack)
