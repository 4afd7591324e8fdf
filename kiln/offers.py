"""An image that can be pulled, and where from: a folder of images, or a web server that serves one.

Owns the two places. A web server needs no more than the files: what there is stands in catalog.json.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from kiln import record, testruns
from kiln.errors import BaseError, KilnError, NetworkError, StoreError, VerifyError
from kiln.part import Part
from kiln.record import Record
from kiln.registry.transport import TRIES, Cut, Transport, bounded, host_of, shown
from kiln.standing import Standing, Standings, of_data
from kiln.store import CANDIDATE, CURRENT, RECORD, SIGNATURE, TESTS, Store
from kiln.transfer import LocalFile, Source, Wanted

if TYPE_CHECKING:
    import requests

LARGEST_CATALOG = 256 << 20
# Bytes. A piece that is cut is lost, and a line that is often cut must bring some.
PIECE = 1 << 17
URL = re.compile(r"https?://", re.IGNORECASE)
CONTENT_RANGE = re.compile(r"bytes (\d+)-")


@dataclass(frozen=True)
class Offer:
    """One version: its record as data, and as the bytes that `signature` is of, where there is one."""

    name: str
    version: str
    place: str
    record: Record
    source: Source
    standing: Standing
    text: bytes
    signature: bytes | None

    @property
    def wanted(self) -> Wanted:
        found = self.record
        return Wanted(found.file, found.size, found.digest, int(record.moment(found.built)), found.pieces)


class Place(Protocol):
    def find(self, reference: str) -> Offer:
        """What `NAME`, `NAME:VERSION` or `NAME:CHANNEL` names.

        Raises `StoreError`, `NetworkError`, and `VerifyError` for a record that is about another image.
        """
        ...


@dataclass(frozen=True)
class Folder:
    """A folder of images on this machine."""

    store: Store

    def find(self, reference: str) -> Offer:
        entry = self.store.find(reference)
        name, version = entry.name, entry.version
        if entry.record is None:
            raise StoreError(
                f"{entry.path.name} has no sound record: {entry.problem}", "take another version: invoke list"
            )
        place = str(self.store.root)
        found = _checked(entry.record, name, version, place)
        try:
            text, size = self.store.record(name, version).read_bytes(), entry.path.stat().st_size
            sealed = self.store.beside(name, version, SIGNATURE)
            signature = sealed.read_bytes() if sealed.exists() else None
        except OSError as error:
            raise StoreError(f"cannot read {error.filename}: {error.strerror}") from error
        if size != found.size:
            raise VerifyError(
                f"{entry.path} has {size:,} bytes, by its record {found.size:,}",
                "tell whoever keeps the images; there may be another version: invoke list",
            )
        standing = Standings(self.store).of(entry)
        return Offer(name, version, place, found, LocalFile(entry.path), standing, text, signature)


@dataclass(frozen=True)
class Web:
    """The same folder behind a web server; `url` is its address."""

    url: str
    transport: Transport

    def find(self, reference: str) -> Offer:
        name, _, wanted = reference.partition(":")
        images = self._catalog()
        if name not in images:
            near = difflib.get_close_matches(name, images, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(images)[:8])}"
            raise StoreError(f"no image '{name}' at {shown(self.url)}", hint)
        try:
            moved = dict(images[name]["channels"])
            versions = {str(each["version"]): dict(each) for each in images[name]["versions"]}
            chosen = moved.get(wanted, wanted) or moved.get(CURRENT) or moved.get(CANDIDATE)
            chosen = str(chosen or [*versions][-1])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise self._odd(error) from error
        if chosen not in versions:
            hint = f"there are: {', '.join([*versions][-8:])}"
            raise StoreError(f"no version '{wanted or chosen}' of {name} at {shown(self.url)}", hint)
        return self._offer(name, chosen, versions[chosen])

    def _offer(self, name: str, version: str, summary: dict[str, Any]) -> Offer:
        path, place = f"{quote(name)}/{quote(f'{name}-{version}')}", shown(self.url)
        text = self._read(f"{path}.{RECORD}")
        found = _checked(record.parse(text, f"{place}/{path}.{RECORD}"), name, version, place)
        runs = self._read(f"{path}.{TESTS}", missing=b"").decode(errors="replace")
        found = testruns.together(found, testruns.parse(runs))
        signature = self._read(f"{path}.{SIGNATURE}", missing=b"") or None
        source = WebFile(f"{self.url}/{path}.sqsh", self.transport)
        return Offer(name, version, place, found, source, of_data(summary), text, signature)

    def _catalog(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._read("catalog.json"))["images"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._odd(error) from error

    def _read(self, path: str, missing: bytes | None = None) -> bytes:
        with _told(self.url):
            answer = self.transport.read(f"{self.url}/{path}", {}, Event(), LARGEST_CATALOG)
        if answer.status == 404 and missing is not None:
            return missing
        if answer.status != 200:
            raise StoreError(
                f"{shown(self.url)}/{path} answered {answer.status}",
                "the address of a folder of images is wanted: the one that holds catalog.json",
            )
        return answer.body

    def _odd(self, error: Exception) -> KilnError:
        return StoreError(
            f"{shown(self.url)}/catalog.json is no catalogue of images: {error}", "look at the address"
        )


class WebFile:
    """A file of a web server, in ranges where it has them (RFC 9110, section 14)."""

    def __init__(self, url: str, transport: Transport) -> None:
        self.url, self._transport = url, transport

    def open(self) -> None:
        """It comes from another machine."""

    def send(self, part: Part, offset: int) -> None:
        stop = Event()
        with self._asked(offset, stop) as response:
            begin = _begin(response, offset)
            part.begin(begin)
            for piece in self._going_on(begin, self._body(response, stop), stop):
                part.write(piece)

    def _going_on(self, begin: int, body: Iterator[bytes], stop: Event) -> Iterator[bytes]:
        """The body; where it is cut, what is missing is asked for. A try that brought bytes doesn't count."""
        done, failures = begin, 0
        while True:
            try:
                for piece in body:
                    done, failures = done + len(piece), 0
                    yield piece
                return
            except Cut as error:
                failures += 1
                if failures >= TRIES:
                    message = f"{host_of(self.url)}: {error}, {TRIES} times"
                    raise NetworkError(message, "run it again: it goes on from there") from error
                with _told(self.url):
                    self._transport.pause(failures, None, f"{host_of(self.url)}: {error}", stop)
            body = self._rest(done, stop)

    def _rest(self, done: int, stop: Event) -> Iterator[bytes]:
        with self._asked(done, stop) as response:
            if _begin(response, done) != done:
                raise NetworkError(f"{host_of(self.url)} was cut, and has no ranges to go on", "run it again")
            yield from self._body(response, stop)

    @contextlib.contextmanager
    def _asked(self, offset: int, stop: Event) -> Iterator[requests.Response]:
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
        with contextlib.ExitStack() as ending:
            with _told(self.url):
                response = ending.enter_context(self._transport.open(self.url, headers, stop))
            if response.status_code not in (200, 206, 416):
                raise StoreError(
                    f"{shown(self.url)} answered {response.status_code}", "take another version: invoke list"
                )
            yield response

    def _body(self, response: requests.Response, stop: Event) -> Iterator[bytes]:
        return bounded(response, None, stop, PIECE) if response.status_code != 416 else iter(())


def _begin(response: requests.Response, offset: int) -> int:
    """Where an answer begins: what a server sends is what it says, not what was asked for."""
    if response.status_code != 206:
        return 0 if response.status_code == 200 else offset
    said = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if said is None or int(said[1]) != offset:
        raise NetworkError(
            f"{host_of(response.url)} was asked for the bytes from {offset} on, and sent others",
            "its own fault, or a proxy's: tell its operators",
        )
    return offset


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """What the transport says of a registry, said of a web server of images."""
    try:
        yield
    except BaseError as error:
        raise NetworkError(error.message, f"look at: curl -sSI {shown(url)}", error.details) from error


def _checked(found: Record, name: str, version: str, place: str) -> Record:
    """A record that is about the version beside which it lies."""
    said, wanted = (found.name, found.version, found.file), (name, version, f"{name}-{version}.sqsh")
    if said != wanted or "/" in found.file:
        raise VerifyError(
            f"the record of {name} {version} at {place} is about {found.file!r}",
            "tell whoever keeps the images",
        )
    return found


def place(address: str, store: Path, transport: Transport) -> Place:
    """Where to pull from: `address` where that is a URL, else the folder `store`."""
    return Web(address.rstrip("/"), transport) if URL.match(address) else Folder(Store(store))
