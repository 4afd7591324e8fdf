"""SBOMs against CycloneDX's own schema, with whatever names packages can have."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from kiln import sbom
from kiln.inventory import Package
from kiln.record import Record
from tests.unit.conftest import RECORD

NGC = dataclasses.replace(
    RECORD,
    version="25.04-py3-r1",
    file="demo-25.04-py3-r1.sqsh",
    base="nvcr.io/nvidia/pytorch:25.04-py3",
    kiln="0.1.0",
    system="ubuntu-24.04",
    commit="c0ffee",
)
PLACE = "/usr/local/lib/python3.12/dist-packages"


def made(*packages: Package, record: Record = NGC) -> dict[str, Any]:
    """The SBOM for these packages, which must be right by the schema."""
    text = sbom.make(dataclasses.replace(record, packages=packages)).decode()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    data: dict[str, Any] = json.loads(text)
    return data


def components(*packages: Package) -> list[dict[str, Any]]:
    return [each for each in made(*packages)["components"] if each["type"] == "library"]


def test_an_image_with_a_base_and_packages() -> None:
    data = made(
        Package("apt", "libc6", "2.39-0ubuntu8.4", "amd64", "glibc 2.39-0ubuntu8.4"),
        Package("python", "torch", "2.7.0a0+79aa17489c.nv25.4", PLACE, "", "BSD-3-Clause"),
    )
    image = data["metadata"]["component"]
    assert (image["name"], image["version"]) == ("demo", "25.04-py3-r1")
    assert image["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]
    by_name = {each["name"]: each for each in data["components"]}
    assert by_name["libc6"]["purl"] == "pkg:deb/ubuntu/libc6@2.39-0ubuntu8.4?arch=amd64&distro=ubuntu-24.04"
    assert by_name["torch"]["purl"] == "pkg:pypi/torch@2.7.0a0%2B79aa17489c.nv25.4"
    assert by_name["torch"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    base = by_name["nvcr.io/nvidia/pytorch:25.04-py3"]
    assert base["purl"].startswith("pkg:oci/pytorch@sha256:1111")
    assert "repository_url=nvcr.io/nvidia/pytorch" in base["purl"].replace("%2F", "/")


def test_the_same_image_gives_the_same_text_and_no_time() -> None:
    one, two = (Package("apt", name, "1", "all") for name in ("a", "b"))
    texts = {
        sbom.make(dataclasses.replace(NGC, packages=packages, built=built))
        for packages, built in (((one, two), "2026-01-01T00:00:00Z"), ((two, one), "2026-02-02T00:00:00Z"))
    }
    assert len(texts) == 1
    [text] = texts
    assert b"timestamp" not in text and b"2026" not in text
    other = made(record=dataclasses.replace(NGC, digest="sha256:" + "7" * 64))
    assert other["serialNumber"] != json.loads(text)["serialNumber"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("MIT", {"license": {"id": "MIT"}}),
        ("apache-2.0", {"license": {"id": "Apache-2.0"}}),
        ("MIT OR Apache-2.0", {"expression": "MIT OR Apache-2.0"}),
        ("PSF", {"license": {"name": "PSF"}}),
        ("MIT OR", {"license": {"name": "MIT OR"}}),
        ('(c) \u00c9. "Q" <q@example.org>', {"license": {"name": '(c) \u00c9. "Q" <q@example.org>'}}),
    ],
)  # fmt: skip
def test_a_licence_is_spdxs_where_it_is_one_and_else_a_name(said: str, expected: dict[str, Any]) -> None:
    [found] = components(Package("python", "a", "1", PLACE, "", said))
    assert found["licenses"] == [expected]


def test_one_package_in_two_places_and_one_place_with_two_of_it() -> None:
    found = components(
        Package("python", "numpy", "1", "/a/site-packages"),
        Package("python", "numpy", "1", "/b/site-packages"),
        Package("python", "numpy", "1", "/b/site-packages", "", "MIT"),
        Package("python", "numpy", "2", "/b/site-packages"),
    )
    assert len({each["bom-ref"] for each in found}) == len(found) == 3


ODD = (
    "with space",
    "caf\u00e9",
    "\u4e16\u754c",
    "a/b/../c",
    'it\'s "quoted"',
    "%41",
    "a@b",
    "a?b#c",
    "<x>&",
    "\\",
    "///",
    "-",
)


@pytest.mark.parametrize("kind", ["apt", "python"])
@pytest.mark.parametrize("name", ODD)
def test_odd_names(kind: str, name: str) -> None:
    [found] = components(Package(kind, name, f"1:2~{name}+b1", name, f"{name} 1", name))
    assert (found["name"], found["version"]) == (name, f"1:2~{name}+b1")
    if "/" in name:
        assert "purl" not in found
        return
    url = PackageURL.from_string(found["purl"])
    assert (url.name, url.version) == (name, f"1:2~{name}+b1")
    assert not set(' "<>\\') & set(found["purl"])


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.builds(Package, st.sampled_from(("apt", "python")), TEXT, TEXT, TEXT, TEXT, TEXT), max_size=4)
)
def test_any_names_at_all(packages: list[Package]) -> None:
    assert len(components(*packages)) == len({(*each.key, each.version) for each in packages})


def test_an_image_without_any_package() -> None:
    assert components() == []
    assert made(record=RECORD)["components"][0]["name"] == "debootstrap:bookworm"
