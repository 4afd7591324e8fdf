from __future__ import annotations

import dataclasses
import json
from typing import Any

from kiln import statement
from kiln.record import LayerRecord, Record
from tests.unit.conftest import RECORD

BUILT = dataclasses.replace(
    RECORD,
    version="1-r1",
    file="demo-1-r1.sqsh",
    base="nvcr.io/nvidia/pytorch:25.04-py3",
    platform_digest="sha256:" + "2" * 64,
    manifest="sha256:" + "3" * 64,
    started="2026-01-02T03:00:00Z",
    build="demo-20260102T030000-7",
    host="node 7/a",
    commit="c0ffee",
    clean=False,
    runtime="enroot 4.1.2",
    kiln="0.1.0",
    squashfs_tools="4.5.1",
    layers=(LayerRecord("apt", "apt git", 1.5, "key"),),
)


def made(record: Record) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(statement.make(record, "sha256:" + "4" * 64))
    return data


def test_the_fields_are_slsas() -> None:
    data = made(BUILT)
    assert data["_type"] == "https://in-toto.io/Statement/v1"
    assert data["predicateType"] == "https://slsa.dev/provenance/v1"
    assert data["subject"] == [{"name": "demo-1-r1.sqsh", "digest": {"sha256": "0" * 64}}]
    definition, run = data["predicate"]["buildDefinition"], data["predicate"]["runDetails"]
    assert set(definition) == {
        "buildType", "externalParameters", "internalParameters", "resolvedDependencies"
    }  # fmt: skip
    assert set(run) == {"builder", "metadata", "byproducts"}
    assert definition["resolvedDependencies"] == [
        {"name": "base", "uri": "docker://nvcr.io/nvidia/pytorch:25.04-py3", "digest": {"sha256": "1" * 64}},
        {"name": "base of this architecture", "digest": {"sha256": "2" * 64}},
        {"name": "checkout", "digest": {"gitCommit": "c0ffee"}, "annotations": {"state": "with changes"}},
    ]
    assert definition["externalParameters"] == {"name": "demo", "manifest": {"digest": {"sha256": "3" * 64}}}
    assert run["builder"]["id"] == "urn:sqsh-kiln:host:node%207%2Fa"
    assert run["builder"]["version"] == {"kiln": "0.1.0", "enroot": "4.1.2", "squashfs-tools": "4.5.1"}
    assert run["metadata"] == {
        "invocationId": "demo-20260102T030000-7",
        "startedOn": "2026-01-02T03:00:00Z",
        "finishedOn": "2026-01-02T03:04:05Z",
    }
    assert run["byproducts"] == [{"name": "demo-1-r1.cdx.json", "digest": {"sha256": "4" * 64}}]


def test_what_is_not_known_is_left_out() -> None:
    data = made(dataclasses.replace(RECORD, version="1-r1"))["predicate"]
    assert [each["name"] for each in data["buildDefinition"]["resolvedDependencies"]] == ["base"]
    assert data["buildDefinition"]["resolvedDependencies"][0]["uri"] == "debootstrap:bookworm"
    assert data["runDetails"]["builder"]["version"] == {}
    assert "startedOn" not in data["runDetails"]["metadata"]
