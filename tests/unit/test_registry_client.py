"""What an image in a registry is: platforms, digests, tags, and what isn't one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kiln.errors import BaseError
from kiln.registry.client import endpoint
from kiln.registry.reference import Reference
from tests.registry_fixture import sha256
from tests.unit.test_registry_transport import MANIFEST, Bench, Fake, Reply, errors, fake

__all__ = ["fake"]

INDEX_TYPES = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
]


@pytest.fixture
def bench(fake: Fake, tmp_path: Path) -> Bench:
    return Bench(fake, tmp_path)


def index(
    fake: Fake, platforms: dict[str, dict[str, object]], media_type: str = INDEX_TYPES[0], tag: str = "1.0"
) -> str:
    """Serve an index of manifests by platform; returns its digest."""
    entries = []
    for platform, descriptor in platforms.items():
        system, name, *variant = platform.split("/")
        entries.append(
            {
                **descriptor,
                "platform": {
                    "os": system,
                    "architecture": name,
                    **({"variant": variant[0]} if variant else {}),
                },
            }
        )
    body = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return str(fake.manifest(tag, body)["digest"])


def one(fake: Fake, architecture: str, text: bytes = b"") -> dict[str, object]:
    """Serve an image; returns its descriptor."""
    return fake.manifest(
        "tmp", fake.image(architecture.encode() + text, tag="tmp", architecture=architecture)
    )


@pytest.mark.parametrize("media_type", INDEX_TYPES)
def test_an_index_is_pinned_and_its_platform_recorded(fake: Fake, bench: Bench, media_type: str) -> None:
    arm, amd = one(fake, "arm64"), one(fake, "amd64")
    digest = index(fake, {"linux/arm64/v8": arm, "linux/amd64": amd, "unknown/unknown": arm}, media_type)
    found = bench.client.resolve(bench.name, "x86_64")
    assert (found.index_digest, found.digest, found.tag) == (digest, amd["digest"], "1.0")
    assert found.pinned == digest
    assert found.uri == f"docker://{fake.host}#some/image:{digest}"
    assert found.layers[0].digest == sha256(b"amd64") and found.layers[0].size == found.download_size == 5
    assert found.diff_ids == (sha256(b"plain amd64"),)
    assert sha256(found.raw_config) == found.config_digest and found.config["os"] == "linux"
    assert bench.client.resolve(bench.name, "aarch64").digest == arm["digest"]


def test_a_single_manifest_and_a_pinned_one(fake: Fake, bench: Bench) -> None:
    digest = str(fake.manifest("1.0", fake.image(b"layer"))["digest"])
    found = bench.client.resolve(bench.name, "amd64")
    assert found.index_digest is None and found.pinned == found.digest == digest
    by_digest = Reference(fake.host, "some/image", "1.0", digest)
    assert bench.client.resolve(by_digest, "amd64").digest == digest
    assert fake.requests[-2].path.endswith(digest)


def test_all_four_kinds_are_asked_for(fake: Fake, bench: Bench) -> None:
    fake.image(b"layer")
    bench.client.resolve(bench.name, "amd64")
    assert fake.requests[0].headers["Accept"].count("application/vnd.") == 4
    assert fake.requests[0].headers["User-Agent"] == "kiln"


def test_variants(fake: Fake, bench: Bench) -> None:
    plain, v3 = one(fake, "amd64"), one(fake, "amd64", b"v3")
    index(fake, {"linux/amd64/v3": v3, "linux/amd64": plain, "linux/arm/v7": plain})
    assert bench.client.resolve(bench.name, "amd64").digest == plain["digest"]
    assert bench.client.resolve(bench.name, "amd64/v3").digest == v3["digest"]


def test_a_platform_that_is_not_there(fake: Fake, bench: Bench) -> None:
    image = one(fake, "amd64")
    index(fake, {"linux/amd64": image, "windows/amd64": image, "unknown/unknown": image})
    with pytest.raises(BaseError, match="has no image for linux/arm64") as caught:
        bench.client.resolve(bench.name, "arm64")
    assert caught.value.hint == "there is: linux/amd64, windows/amd64"


def test_a_single_manifest_for_another_machine(fake: Fake, bench: Bench) -> None:
    fake.image(b"layer", architecture="arm64")
    assert "is for linux/arm64, not for linux/amd64" in bench.refused().message


def test_an_index_in_an_index_but_no_deeper(fake: Fake, bench: Bench) -> None:
    image = one(fake, "amd64")
    for level in ("a", "b", "c"):
        digest = index(fake, {"linux/amd64": image}, tag=level)
        image = {"digest": digest, "size": len(_body(fake, level)), "mediaType": INDEX_TYPES[0]}
    bench.name = Reference(fake.host, "some/image", "b")
    assert bench.client.resolve(bench.name, "amd64").layers
    bench.name = Reference(fake.host, "some/image", "c")
    assert "nested too deeply" in bench.refused().message


def _body(fake: Fake, tag: str) -> bytes:
    reply = fake.answers[f"/v2/some/image/manifests/{tag}"][0]
    assert isinstance(reply, Reply)
    return reply.body


DOCUMENTS = {
    "schema 1": (b'{"schemaVersion": 1, "fsLayers": []}', "old Docker schema 1"),
    "both": (b'{"manifests": [], "layers": []}', "both an index and a manifest"),
    "html": (b"<html>log in</html>", "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "deep": (b"[" * 100_000, "not JSON"),
    "a chart": (b'{"mediaType": "application/vnd.cncf.helm", "x": 1}', "neither a manifest nor an index"),
    "no config": (b'{"layers": []}', "a descriptor is missing"),
    "no layers": (b'{"config": {}, "layers": 3}', "without a size"),
    "a path": (b'{"config": {"digest": "sha256:../../x", "size": 1}, "layers": []}', "is no sha256 digest"),
    "sha512": (b'{"config": {"digest": "sha512:00", "size": 1}, "layers": []}', "sha256 digests only"),
    "no size": (b'{"config": {"size": -1}, "layers": []}', "without a size"),
    "empty index": (b'{"manifests": []}', "has no image for linux/amd64"),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_what_is_no_image(fake: Fake, bench: Bench, kind: str) -> None:
    data, words = DOCUMENTS[kind]
    fake.on(MANIFEST, Reply(body=data))
    error = bench.refused()
    assert words in error.message and f"{fake.host}/some/image:1.0" in error.message and error.hint


def test_a_document_without_end(fake: Fake, bench: Bench) -> None:
    fake.on(MANIFEST, Reply(body=b" " * (9 << 20)))
    assert "more than 8388608 bytes" in bench.refused().message


def test_a_config_that_names_other_layers(fake: Fake, bench: Bench) -> None:
    manifest = fake.image(b"a", b"b")
    layers = manifest["layers"]
    assert isinstance(layers, list)
    fake.manifest("1.0", {**manifest, "layers": layers[:1]})
    assert "1 layers, but its config names 2" in bench.refused().message


def test_wrong_bytes_for_a_manifest_by_tag_by_digest_and_for_a_config(fake: Fake, bench: Bench) -> None:
    fake.image(b"layer")
    fake.on(MANIFEST, Reply(body=_body(fake, "1.0"), headers={"Docker-Content-Digest": sha256(b"other")}))
    assert f"wrong bytes for the manifest {sha256(b'other')}" in bench.refused().message
    digest = sha256(b"pinned")
    fake.on(f"/v2/some/image/manifests/{digest}", Reply(body=_body(fake, "1.0")))
    bench.name = Reference(fake.host, "some/image", None, digest)
    assert f"wrong bytes for the manifest {digest}" in bench.refused().message
    manifest = json.loads(_body(fake, "1.0"))
    fake.image(b"layer")
    fake.on(f"/v2/some/image/blobs/{manifest['config']['digest']}", Reply(body=b"{}"))
    bench.name = Reference(fake.host, "some/image", "1.0")
    assert "wrong bytes for" in bench.refused().message


def test_an_unknown_tag_names_its_neighbours(fake: Fake, bench: Bench) -> None:
    link = {"Link": '</v2/some/image/tags/list?n=1000&last=x>; rel="next"'}
    pages = [
        Reply(body=b'{"tags": ["25.04-py3", "latest"]}', headers=link),
        Reply(body=b'{"tags": ["24.12-py3"]}'),
    ]
    fake.on("/v2/some/image/tags/list", *pages)
    bench.name = Reference(fake.host, "some/image", "25.4-py3")
    error = bench.refused()
    assert error.message == (
        f"{fake.host} does not have {fake.host}/some/image:25.4-py3: 404 Not Found: NOT_FOUND: unknown"
    )
    assert error.hint == "near it are: 25.04-py3, 24.12-py3"


def test_an_unknown_repository_and_one_without_tags(fake: Fake, bench: Bench) -> None:
    assert "lists no tags of some/image either" in bench.refused().hint
    fake.on("/v2/some/image/tags/list", Reply(body=b'{"tags": null}'))
    assert bench.refused().hint == "the repository has no tags at all"


def test_pages_of_tags_stay_on_the_host_and_end(fake: Fake, bench: Bench) -> None:
    page = Reply(body=b'{"tags": ["a"]}', headers={"Link": '<http://elsewhere.invalid/v2>; rel="next"'})
    fake.on("/v2/some/image/tags/list", page)
    assert bench.client.tags(bench.name) == ["a"]
    again = Reply(body=b'{"tags": ["a"]}', headers={"Link": "</v2/some/image/tags/list?n=1>; rel=next"})
    fake.on("/v2/some/image/tags/list", again)
    assert len(bench.client.tags(bench.name)) == 20


def test_forbidden(fake: Fake, bench: Bench) -> None:
    fake.on(MANIFEST, Reply(403, errors("DENIED", "not yours")))
    error = bench.refused()
    assert "forbids" in error.message and "403 Forbidden: DENIED: not yours" in error.message


def test_where_requests_go() -> None:
    name = Reference("nvcr.io", "nvidia/pytorch", "1")
    assert endpoint(name, {}).url("tags/list") == "https://nvcr.io/v2/nvidia/pytorch/tags/list"
    mirrored = endpoint(name, {"nvcr.io": "http://harbor.site:5000/ngc/"})
    assert mirrored.url("x") == "http://harbor.site:5000/v2/ngc/nvidia/pytorch/x"
    assert mirrored.place == "harbor.site:5000 (the mirror of nvcr.io)"
    assert (
        endpoint(Reference("docker.io", "debian"), {}).url("x")
        == "https://registry-1.docker.io/v2/library/debian/x"
    )
    for host in ("localhost:5000", "127.0.0.1:5000", "[::1]:5000"):
        assert endpoint(Reference(host, "a"), {}).base == f"http://{host}"
    with pytest.raises(BaseError, match="no URL"):
        endpoint(name, {"nvcr.io": "harbor.site"})


def test_references_as_text() -> None:
    assert str(Reference("nvcr.io", "a/b", "1", "sha256:0")) == "nvcr.io/a/b:1@sha256:0"
    assert Reference("nvcr.io", "a/b").wanted == "latest"
