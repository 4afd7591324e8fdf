"""What lies beside a published image, all of it made from its record.

    NAME-VERSION.cdx.json          the SBOM, see `kiln.sbom`
    NAME-VERSION.provenance.json   how it was made, in SLSA's form, see `kiln.statement`
    NAME-VERSION.json              the record, with the digests of the two above and of the image
    NAME-VERSION.json.sig          the record's signature, where the site has a key
    NAME-VERSION.sha256            for people with only coreutils

So one signature covers everything. Owns their order and the reading of them; writes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

from kiln import statement
from kiln.record import Record
from kiln.store import CHECKSUM, PROVENANCE, RECORD, SBOM, SIGNATURE, Entry, Store

Sign = Callable[[bytes], bytes]
"""Makes the signature of bytes."""


def make(record: Record, sign: Sign | None) -> tuple[Record, dict[str, bytes]]:
    """The record with its companions' digests, and all files by what their names have after the version.

    In the order of writing: what a digest or a signature is of comes first. Raises `EnvironmentMissing`
    where the key can't sign.
    """
    # Its library takes a sixth of a second to read, which `plan` needn't wait for.
    from kiln import sbom

    bill = sbom.make(record)
    said = {SBOM: bill, PROVENANCE: statement.make(record, digest(bill))}
    done = dataclasses.replace(record, companions={name: digest(data) for name, data in said.items()})
    text = done.to_json().encode()
    checksum = f"{done.digest.removeprefix('sha256:')}  {done.file}\n"
    signed = {SIGNATURE: sign(text)} if sign else {}
    return done, {**said, RECORD: text, **signed, CHECKSUM: checksum.encode()}


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(store: Store, entry: Entry) -> dict[str, Any]:
    """What lies beside a version: `sbom` and `provenance` as data, and whether it is `signed`.

    None for one that is missing, can't be read, or isn't the one that the record has the digest of.
    """
    signed = store.beside(entry.name, entry.version, SIGNATURE).is_file()
    names = {"sbom": SBOM, "provenance": PROVENANCE}
    return {**{name: _data(store, entry, suffix) for name, suffix in names.items()}, "signed": signed}


def _data(store: Store, entry: Entry, suffix: str) -> Any:
    expected = entry.record.companions.get(suffix) if entry.record else None
    try:
        data = store.beside(entry.name, entry.version, suffix).read_bytes()
        return json.loads(data) if digest(data) == expected else None
    except (OSError, ValueError):
        return None
