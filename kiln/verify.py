"""Whether a published image is what its record says, and whether somebody trusted says so.

Owns the checks and their order: the file against its record, the .sha256 and the other companions against
theirs, the record against its signature. Reads only; makes nothing again, see `kiln.rebuild`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kiln import files, signature
from kiln.companions import digest
from kiln.errors import KilnError, VerifyError
from kiln.record import Record
from kiln.site import Signing
from kiln.store import CHECKSUM, RECORD, SIGNATURE, Entry, Store

GOOD, BAD, UNKNOWN = "good", "bad", "not checked"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its `state` is good, bad or not checked."""

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Checker:
    """What checking needs: whose signatures count is the site's to say."""

    store: Store
    signing: Signing
    environ: Mapping[str, str]

    def check(self, entry: Entry, progress: Callable[[int, int], None]) -> list[Finding]:
        """All findings about a version; `progress` is called with bytes read and bytes in all."""
        if entry.record is None:
            return [Finding(f"{entry.name}-{entry.version}.json", BAD, entry.problem)]
        return [
            *self._image(entry, entry.record, progress),
            *self._beside(entry, entry.record),
            self._signature(entry, entry.record),
        ]

    def _image(self, entry: Entry, record: Record, progress: Callable[[int, int], None]) -> Iterator[Finding]:
        name, size = entry.path.name, entry.path.stat().st_size
        if (record.name, record.version, record.file) != (entry.name, entry.version, name):
            yield Finding(
                f"{name} and its record",
                BAD,
                f"the record is about {record.file}: it was renamed, or lies at a wrong place",
            )
        if size != record.size:
            yield Finding(name, BAD, f"it has {size:,} bytes, by its record {record.size:,}")
            return
        found = f"sha256:{files.sha256_file(entry.path, lambda done: progress(done, size))}"
        if found == record.digest:
            yield Finding(name, GOOD, found)
        else:
            yield Finding(name, BAD, f"its bytes are {found}, by its record {record.digest}")

    def _beside(self, entry: Entry, record: Record) -> Iterator[Finding]:
        line = f"{record.digest.removeprefix('sha256:')}  {record.file}\n"
        for suffix, expected in {**record.companions, CHECKSUM: digest(line.encode())}.items():
            path = self.store.beside(entry.name, entry.version, suffix)
            try:
                good = digest(path.read_bytes()) == expected
            except OSError as error:
                yield Finding(path.name, BAD, f"it can't be read: {error.strerror}")
                continue
            yield Finding(path.name, GOOD if good else BAD, "as on record" if good else "not as on record")

    def _signature(self, entry: Entry, record: Record) -> Finding:
        path = self.store.beside(entry.name, entry.version, SIGNATURE)
        sealed = path.read_bytes() if path.is_file() else None
        text = self.store.beside(entry.name, entry.version, RECORD).read_bytes()
        return judge(path.name, text, sealed, record.built, self.signing, self.environ)


def judge(
    name: str, text: bytes, sealed: bytes | None, built: str, signing: Signing, environ: Mapping[str, str]
) -> Finding:
    """Whether the signature `sealed` of a record's `text` counts; `name` is the signature's file."""
    missing = BAD if signing.required else UNKNOWN
    if sealed is None:
        return Finding(name, missing, "there is no signature")
    if signing.allowed_signers is None:
        return Finding(name, missing, "the site profile doesn't say whose count (allowed_signers)")
    try:
        by = signature.signer(text, sealed, signing.allowed_signers, built, environ)
    except KilnError as error:
        return Finding(name, BAD, error.message)
    return Finding(name, GOOD, f"by {by}")


def conclude(entry: Entry, found: list[Finding]) -> None:
    """Raise `VerifyError` where anything is bad."""
    bad = [f"{item.name}: {item.detail}" for item in found if item.state == BAD]
    if bad:
        raise VerifyError(
            f"{entry.name} {entry.version} is not what was published",
            f"don't start it before you know why; to make it anew: invoke build {entry.name} --no-cache",
            bad,
        )
