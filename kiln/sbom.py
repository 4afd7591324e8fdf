"""The list of what is in an image, for programs that look for known faults and for licences: an SBOM.

CycloneDX 1.6 in JSON (https://cyclonedx.org/docs/1.6/json/), made from an image's record alone. Owns what
of a record goes where in it. No time is in it, and its serial number follows from the image's digest: the
same image gives the same text. Package URLs: https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import License, LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from kiln.base import parse_base
from kiln.inventory import APT, Package
from kiln.record import Record

SUFFIX = "cdx.json"
NAMESPACE = uuid.UUID("6b0f9a52-6a3c-5c4e-9d55-7c3f3f2b8e11")
"""Of the serial numbers, a version 5 UUID each: RFC 9562, 5.5."""
LONGEST_LICENCE = 300


def make(record: Record) -> bytes:
    """The SBOM of the image that `record` is about."""
    image, base = _image(record), _base(record)
    factory = LicenseFactory()
    packages = [_package(package, record, factory) for package in _distinct(record.packages)]
    bom = Bom(
        serial_number=uuid.uuid5(NAMESPACE, record.digest),
        components=[base, *packages],
        # Not by register_dependency, which takes the square of their number.
        dependencies=[
            Dependency(image.bom_ref, [Dependency(each.bom_ref) for each in (base, *packages)]),
        ],
        metadata=BomMetaData(
            component=image,
            tools=ToolRepository(
                components=[Component(name="kiln", type=ComponentType.APPLICATION, version=record.kiln)]
            ),
        ),
    )
    data: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    # The library puts the time of the making there.
    del data["metadata"]["timestamp"]
    return (json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _image(record: Record) -> Component:
    properties = {"kiln:key": record.key, "kiln:commit": record.commit, "kiln:runtime": record.runtime}
    return Component(
        name=record.name,
        version=record.version,
        type=ComponentType.CONTAINER,
        bom_ref=f"image:{record.name}:{record.version}",
        description=record.description or None,
        hashes=_hashes(record.digest),
        properties=[Property(name=name, value=value) for name, value in properties.items() if value],
    )


def _base(record: Record) -> Component:
    return Component(
        name=record.base,
        version=record.base_digest,
        type=ComponentType.CONTAINER,
        bom_ref=f"base:{record.base}@{record.base_digest}",
        hashes=_hashes(record.base_digest),
        purl=_base_url(record),
    )


def _base_url(record: Record) -> PackageURL | None:
    """Where a base of a registry is found; the others have no address that means something elsewhere."""
    base = parse_base(record.base)
    if base.kind != "registry":
        return None
    place = {"repository_url": f"{base.registry}/{base.repository}", "tag": base.tag}
    name = base.repository.rpartition("/")[2]
    return PackageURL("oci", None, name, record.base_digest, {k: v for k, v in place.items() if v})


def _hashes(digest: str) -> list[HashType]:
    algorithm, _, value = digest.partition(":")
    return [HashType(alg=HashAlgorithm.SHA_256, content=value)] if algorithm == "sha256" else []


def _distinct(packages: tuple[Package, ...]) -> Iterator[Package]:
    """Without a second one of the same name, version and place: a reference must mean one thing."""
    seen = set[tuple[str, ...]]()
    for package in packages:
        mark = (*package.key, package.version)
        if mark not in seen:
            seen.add(mark)
            yield package


def _package(package: Package, record: Record, factory: LicenseFactory) -> Component:
    properties = {"kiln:place": package.place, "kiln:source": package.source}
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{package.kind}:{package.name}@{package.version}:{package.place}",
        purl=_url(package, record),
        licenses=_licences(package.licence[:LONGEST_LICENCE], factory),
        properties=[Property(name=name, value=value) for name, value in properties.items() if value],
    )


def _url(package: Package, record: Record) -> PackageURL | None:
    """Where a package is found; None for one with a slash, which no index has."""
    if "/" in package.name + package.version:
        return None
    if package.kind != APT:
        return PackageURL("pypi", None, package.name, package.version)
    qualifiers = {"arch": package.place, "distro": record.system}
    vendor = record.system.partition("-")[0] or "debian"
    return PackageURL(
        "deb", vendor, package.name, package.version, {k: v for k, v in qualifiers.items() if v}
    )


def _licences(text: str, factory: LicenseFactory) -> list[License | LicenseExpression]:
    """As SPDX's where it is that, letter for letter or but for its case, else as a name."""
    return [factory.make_from_string(text)] if text else []
