"""How an image was made, for programs: provenance in SLSA's form, made from an image's record alone.

An in-toto statement (https://github.com/in-toto/attestation, spec/v1/statement.md) whose predicate is SLSA's
(https://slsa.dev/spec/v1.0/provenance). Owns what of a record goes into which of their fields. It says who
claims what; what makes it trustworthy is the signature of the record, which has its digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from kiln.record import Record

SUFFIX = "provenance.json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:sqsh-kiln:manifest:v1"
"""What the parameters below mean: docs/record.md."""


def make(record: Record, sbom: str) -> bytes:
    """The statement about the image of `record`; `sbom` is the digest of the SBOM beside it."""
    data = {
        "_type": STATEMENT,
        "subject": [{"name": record.file, "digest": _digest(record.digest)}],
        "predicateType": PREDICATE,
        "predicate": {"buildDefinition": _definition(record), "runDetails": _details(record, sbom)},
    }
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()


def _definition(record: Record) -> dict[str, Any]:
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": _known(
            {
                "name": record.name,
                "manifest": _known({"digest": _digest(record.manifest)}),
                "lock": _known({"digest": _digest(record.lock)}),
            }
        ),
        "internalParameters": {
            "key": record.key,
            "architecture": record.architecture,
            "sourceDateEpoch": record.epoch,
            "layers": [
                {"kind": layer.kind, "title": layer.title, "key": layer.key} for layer in record.layers
            ],
        },
        "resolvedDependencies": list(_dependencies(record)),
    }


def _dependencies(record: Record) -> Iterator[dict[str, Any]]:
    yield {"name": "base", "uri": _uri(record.base), "digest": _digest(record.base_digest)}
    if record.platform_digest != record.base_digest:
        yield {"name": "base of this architecture", "digest": _digest(record.platform_digest)}
    if record.commit:
        clean = {True: "as committed", False: "with changes", None: "unknown"}[record.clean]
        yield {
            "name": "checkout",
            "digest": {"gitCommit": record.commit},
            "annotations": {"state": clean},
        }


def _details(record: Record, sbom: str) -> dict[str, Any]:
    runtime, _, version = record.runtime.partition(" ")
    versions = {"kiln": record.kiln, runtime: version, "squashfs-tools": record.squashfs_tools}
    metadata = {"invocationId": record.build, "startedOn": record.started, "finishedOn": record.built}
    name = f"{record.name}-{record.version}"
    return {
        "builder": {"id": f"urn:sqsh-kiln:host:{quote(record.host, safe='')}", "version": _known(versions)},
        "metadata": _known(metadata),
        "byproducts": [{"name": f"{name}.cdx.json", "digest": _digest(sbom)}],
    }


def _digest(text: str) -> dict[str, str]:
    """A digest set; empty for no digest."""
    algorithm, _, value = text.partition(":")
    return {algorithm: value} if value else {}


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name and value}


def _uri(base: str) -> str:
    """A base's text as a URI: one of a registry has no scheme of its own."""
    prefix = base.partition(":")[0]
    known = ("docker", "image", "oci", "docker-archive", "sqsh", "debootstrap")
    return quote(base if prefix in known else f"docker://{base}", safe=":/@#+,;=~&")
