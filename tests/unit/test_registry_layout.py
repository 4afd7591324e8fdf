"""Images in files: OCI layouts, and both forms of what `docker save` writes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import BaseError
from kiln.registry.layout import LocalImage, open_docker_archive, open_oci
from tests.registry_fixture import Member, hardlink, layer, member, sha256, symlink

LAYERS = [layer(member("a", b"one")), layer(member("b", b"two"))]


def config(layers: list[bytes], architecture: str = "amd64") -> bytes:
    ids = [sha256(data) for data in layers]
    rootfs = {"type": "layers", "diff_ids": ids}
    return json.dumps(
        {"architecture": architecture, "os": "linux", "config": {"Env": ["A=1"]}, "rootfs": rootfs}
    ).encode()


def described(data: bytes, **rest: Any) -> dict[str, Any]:
    return {"digest": sha256(data), "size": len(data), **rest}


def image(blobs: dict[str, bytes], layers: list[bytes], architecture: str = "amd64") -> dict[str, Any]:
    """Add an image's blobs to `blobs` by name in a layout; returns its descriptor."""
    parts = [*layers, config(layers, architecture)]
    manifest = {
        "schemaVersion": 2,
        "config": described(parts[-1]),
        "layers": [described(data) for data in layers],
    }
    raw = json.dumps(manifest).encode()
    blobs.update({f"blobs/{sha256(data).replace(':', '/')}": data for data in (*parts, raw)})
    return described(raw, mediaType="application/vnd.oci.image.manifest.v1+json")


def layout(entries: list[dict[str, Any]], blobs: dict[str, bytes]) -> dict[str, bytes]:
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": index, **blobs}


def in_folder(tmp: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (tmp / "oci" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp / "oci" / name).write_bytes(data)
    return tmp / "oci"


def in_archive(tmp: Path, contents: dict[str, bytes], *more: Member) -> Path:
    (tmp / "image.tar").write_bytes(layer(*(member(name, data) for name, data in contents.items()), *more))
    return tmp / "image.tar"


def fetched(found: LocalImage, tmp: Path) -> list[bytes]:
    steps: list[tuple[int, int]] = []
    resolved = found.resolve("amd64")
    paths = found.fetch(resolved, tmp / "blobs", lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1]
    assert [sha256(path.read_bytes()).removeprefix("sha256:") for path in paths] == [
        path.name for path in paths
    ]
    assert found.fetch(resolved, tmp / "blobs") == paths
    return [path.read_bytes() for path in paths]


@pytest.mark.parametrize("packed", [False, True])
def test_an_oci_layout_as_a_folder_and_in_an_archive(tmp_path: Path, packed: bool) -> None:
    blobs: dict[str, bytes] = {}
    entry = image(blobs, LAYERS)
    contents = layout([entry], blobs)
    found = (
        open_docker_archive(in_archive(tmp_path, contents))
        if packed
        else open_oci(in_folder(tmp_path, contents))
    )
    resolved = found.resolve("amd64")
    assert (resolved.digest, resolved.index_digest, resolved.reference) == (entry["digest"], None, None)
    assert resolved.diff_ids == tuple(sha256(data) for data in LAYERS)
    assert resolved.config["config"] == {"Env": ["A=1"]} and resolved.uri.startswith(
        ("oci:", "docker-archive:")
    )
    assert fetched(found, tmp_path) == LAYERS


def test_images_by_name(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    one, two = image(blobs, LAYERS[:1]), image(blobs, LAYERS[1:])
    one["annotations"] = {"org.opencontainers.image.ref.name": "1.0"}
    two["annotations"] = {"io.containerd.image.name": "docker.io/library/x:2.0"}
    folder = in_folder(tmp_path, layout([one, two], blobs))
    assert open_oci(folder, "1.0").resolve("amd64").digest == one["digest"]
    assert open_oci(folder, "docker.io/library/x:2.0").resolve("amd64").digest == two["digest"]
    assert open_oci(folder, two["digest"]).resolve("amd64").digest == two["digest"]
    for name, words in ((None, "holds 2 images"), ("3.0", "has no image 3.0")):
        with pytest.raises(BaseError, match=words) as caught:
            open_oci(folder, name).resolve("amd64")
        assert caught.value.hint == "name one of: 1.0, docker.io/library/x:2.0"


@pytest.mark.parametrize("nested", [False, True])
def test_several_platforms_directly_or_in_an_index_of_their_own(tmp_path: Path, nested: bool) -> None:
    blobs: dict[str, bytes] = {}
    entries = []
    for name in ("arm64", "amd64"):
        entry = image(blobs, [layer(member(name))], name)
        entries.append({**entry, "platform": {"os": "linux", "architecture": name}})
    if nested:
        media_type = "application/vnd.oci.image.index.v1+json"
        raw = json.dumps({"mediaType": media_type, "manifests": entries}).encode()
        blobs[f"blobs/{sha256(raw).replace(':', '/')}"] = raw
        found = open_oci(in_folder(tmp_path, layout([described(raw, mediaType=media_type)], blobs)))
        assert found.resolve("arm64").index_digest == sha256(raw)
    else:
        found = open_oci(in_folder(tmp_path, layout(entries, blobs)))
    assert found.resolve("arm64").digest == entries[0]["digest"]
    assert found.resolve("amd64").digest == entries[1]["digest"]
    with pytest.raises(BaseError, match="no image for linux/riscv64"):
        found.resolve("riscv64")


def test_damage_is_found(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    entry = image(blobs, LAYERS)
    first = f"blobs/{sha256(LAYERS[0]).replace(':', '/')}"
    folder = in_folder(tmp_path, layout([entry], {**blobs, first: b"x" * len(LAYERS[0])}))
    found = open_oci(folder)
    with pytest.raises(BaseError, match=f"wrong bytes for {sha256(LAYERS[0])}"):
        found.fetch(found.resolve("amd64"), tmp_path / "blobs")
    assert not [path for path in (tmp_path / "blobs/sha256").iterdir() if not path.name.endswith(".lock")]
    (folder / first).unlink()
    with pytest.raises(BaseError, match="cannot read blobs/sha256/"):
        found.fetch(found.resolve("amd64"), tmp_path / "blobs")
    (folder / f"blobs/{entry['digest'].replace(':', '/')}").write_bytes(b"{}")
    with pytest.raises(BaseError, match="wrong bytes"):
        found.resolve("amd64")


def old(
    layers: dict[str, bytes], ids: list[bytes], *more: Member, **rest: Any
) -> tuple[dict[str, bytes], tuple[Member, ...]]:
    """The old form of docker save: layers in folders, and a manifest.json."""
    raw = config(ids)
    name = f"{sha256(raw).removeprefix('sha256:')}.json"
    images = [{"Config": name, "RepoTags": ["x:1"], "Layers": [*layers, *rest.get("links", [])]}]
    return {name: raw, "manifest.json": json.dumps(images).encode(), **layers}, more


def test_an_old_archive(tmp_path: Path) -> None:
    contents, _ = old({"aa/layer.tar": LAYERS[0], "bb/layer.tar": LAYERS[1]}, LAYERS)
    found = open_docker_archive(in_archive(tmp_path, contents))
    resolved = found.resolve("amd64")
    assert resolved.digest == resolved.config_digest == sha256(resolved.raw_config)
    assert [one.digest for one in resolved.layers] == list(resolved.diff_ids)
    assert fetched(found, tmp_path) == LAYERS
    assert open_docker_archive(tmp_path / "image.tar", "x:1").resolve("amd64")
    with pytest.raises(BaseError, match="has no image y:1"):
        open_docker_archive(tmp_path / "image.tar", "y:1").resolve("amd64")


def test_compressed_layers_are_kept_uncompressed(tmp_path: Path) -> None:
    contents, _ = old({"aa/layer.tar": gzip.compress(LAYERS[0]), "bb/layer.tar": LAYERS[1]}, LAYERS)
    assert fetched(open_docker_archive(in_archive(tmp_path, contents)), tmp_path) == LAYERS


@pytest.mark.parametrize(
    "link", [symlink("bb/layer.tar", "../aa/layer.tar"), hardlink("bb/layer.tar", "aa/layer.tar")]
)
def test_layers_that_are_links(tmp_path: Path, link: Member) -> None:
    shared = [LAYERS[0], LAYERS[0]]
    contents, more = old({"aa/layer.tar": LAYERS[0]}, shared, link, links=["bb/layer.tar"])
    found = open_docker_archive(in_archive(tmp_path, contents, *more))
    assert fetched(found, tmp_path) == shared


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "bb/layer.tar"])
def test_links_out_of_an_archive_lead_nowhere(tmp_path: Path, target: str) -> None:
    contents, more = old({}, LAYERS[:1], symlink("bb/layer.tar", target), links=["bb/layer.tar"])
    with pytest.raises(BaseError, match="is missing in it"):
        open_docker_archive(in_archive(tmp_path, contents, *more)).resolve("amd64")


def test_a_damaged_layer_and_config(tmp_path: Path) -> None:
    contents, _ = old({"aa/layer.tar": gzip.compress(LAYERS[0])[:-9]}, LAYERS[:1])
    found = open_docker_archive(in_archive(tmp_path, contents))
    with pytest.raises(BaseError, match="wrong bytes for"):
        found.fetch(found.resolve("amd64"), tmp_path / "blobs")
    (name,) = (name for name in contents if len(name) == 69)
    with pytest.raises(BaseError, match="wrong bytes for the config"):
        open_docker_archive(in_archive(tmp_path, {**contents, name: b"{}"})).resolve("amd64")


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'[{"Config": 1}]', b'[{"Config": "x", "Layers": 1}]', b"[[]]"]
)
def test_a_damaged_manifest(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(BaseError) as caught:
        open_docker_archive(in_archive(tmp_path, {"manifest.json": text})).resolve("amd64")
    assert caught.value.hint


def test_what_is_no_archive_and_no_layout(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(BaseError, match="No such file"):
        open_docker_archive(path)
    path.write_bytes(b"garbage" * 500)
    with pytest.raises(BaseError, match="no tar archive"):
        open_docker_archive(path)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    path.write_bytes(stream.getvalue())
    with pytest.raises(BaseError, match="no tar archive") as caught:
        open_docker_archive(path)
    assert "gunzip" in caught.value.hint
    with pytest.raises(BaseError, match="no OCI layout"):
        open_oci(tmp_path)
