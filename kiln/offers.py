"""An image that can be pulled, and where from: a folder of images, or a web server that serves one.

Owns the two places. A web server needs no more than the files: what there is stands in catalog.json.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any, Protocol
from urllib.parse import quote

from kiln import channels, record
from kiln.errors import BaseError, KilnError, StoreError
from kiln.record import Record
from kiln.registry.transport import TRIES, Cut, Transport, bounded, host_of
from kiln.store import CANDIDATE, CURRENT, Store
from kiln.transfer import LocalFile, Source, Wanted

LARGEST_CATALOG = 256 << 20
# Bytes. A piece that is cut is lost, and a line that is often cut must bring some.
PIECE = 1 << 17
URL = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Offer:
    """One version: why it can't be had (`refused`) and what is to be known (`warnings`), both for people."""

    name: str
    version: str
    place: str
    record: Record
    source: Source
    refused: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.record.file, self.record.size, self.record.digest, _moment(self.record.built))


class Place(Protocol):
    def find(self, reference: str) -> Offer:
        """What `NAME`, `NAME:VERSION` or `NAME:CHANNEL` names. Raises `StoreError`, `BaseError`."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder of images on this machine."""

    store: Store

    def find(self, reference: str) -> Offer:
        entry = self.store.find(reference)
        if entry.record is None:
            raise StoreError(
                f"{entry.path.name} has no sound record: {entry.problem}", "take another version: invoke list"
            )
        standing = channels.standing(self.store, entry)
        refused = standing.text if standing.revoked else ""
        base = channels.revoked_base(self.store, entry)
        if base:
            refused = (
                refused or f"built on {base[0].name} {base[0].version}, which is revoked: {base[1].because}"
            )
        warnings = (standing.text,) if standing.deprecated and not refused else ()
        place = str(self.store.root)
        source = LocalFile(entry.path)
        return Offer(
            entry.name, entry.version, place, _checked(entry.record, place), source, refused, warnings
        )


@dataclass(frozen=True)
class Web:
    """The same folder behind a web server; `url` is its address."""

    url: str
    transport: Transport

    def find(self, reference: str) -> Offer:
        name, _, wanted = reference.partition(":")
        images = self._document("catalog.json").get("images", {})
        if name not in images:
            near = difflib.get_close_matches(name, images, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(images)[:8])}"
            raise StoreError(f"no image '{name}' at {self.url}", hint)
        try:
            moved, versions = (
                images[name]["channels"],
                {each["version"]: each for each in images[name]["versions"]},
            )
        except (KeyError, TypeError) as error:
            raise self._odd("catalog.json", error) from error
        chosen = moved.get(wanted, wanted) or moved.get(CURRENT) or moved.get(CANDIDATE) or [*versions][-1]
        if chosen not in versions:
            hint = f"there are: {', '.join([*versions][-8:])}"
            raise StoreError(f"no version '{wanted}' of {name} at {self.url}", hint)
        return self._offer(name, chosen, versions[chosen])

    def _offer(self, name: str, version: str, summary: dict[str, Any]) -> Offer:
        path = f"{quote(name)}/{quote(f'{name}-{version}')}"
        found = _checked(record.parse(self._read(f"{path}.json"), f"{self.url}/{path}.json"), self.url)
        revoked, deprecated = summary.get("revoked"), summary.get("deprecated")
        refused = f"revoked: {revoked.get('because', '')}" if revoked else ""
        warnings: tuple[str, ...] = ()
        if deprecated and not refused:
            said = [str(deprecated.get(key, "")) for key in ("until", "because", "use")]
            warnings = (f"deprecated until {said[0]}: {said[1]}; use {said[2]}",)
        source = WebFile(f"{self.url}/{path}.sqsh", self.transport)
        return Offer(name, version, self.url, found, source, refused, warnings)

    def _document(self, path: str) -> dict[str, Any]:
        try:
            data = json.loads(self._read(path))
            return dict(data)
        except (ValueError, TypeError) as error:
            raise self._odd(path, error) from error

    def _read(self, path: str) -> bytes:
        answer = self.transport.read(f"{self.url}/{path}", {}, Event(), LARGEST_CATALOG)
        if answer.status != 200:
            raise StoreError(
                f"{self.url}/{path} answered {answer.status}",
                "the address of a folder of images is wanted: the one that holds catalog.json",
            )
        return answer.body

    def _odd(self, path: str, error: Exception) -> KilnError:
        return StoreError(f"{self.url}/{path} is no catalogue of images: {error}", "look at the address")


class WebFile:
    """A file of a web server, in ranges where it has them (RFC 9110, section 14)."""

    def __init__(self, url: str, transport: Transport) -> None:
        self.url, self._transport = url, transport

    @contextlib.contextmanager
    def pieces(self, offset: int) -> Iterator[tuple[int, Iterable[bytes]]]:
        stop = Event()
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
        with self._transport.open(self.url, headers, stop) as response:
            if response.status_code not in (200, 206, 416):
                raise StoreError(f"{self.url} answered {response.status_code}", "take another version")
            begin = offset if response.status_code != 200 else 0
            body = bounded(response, None, stop, PIECE) if response.status_code != 416 else iter(())
            yield begin, self._going_on(begin, body, stop)

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
                    raise BaseError(f"{host_of(self.url)}: {error}, {TRIES} times", "run it again") from error
                self._transport.pause(failures, None, f"{host_of(self.url)}: {error}", stop)
            body = self._rest(done, stop)

    def _rest(self, done: int, stop: Event) -> Iterator[bytes]:
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={done}-"}
        with self._transport.open(self.url, headers, stop) as response:
            if response.status_code != 206:
                raise StoreError(f"{host_of(self.url)} was cut, and has no ranges to go on", "run it again")
            yield from bounded(response, None, stop, PIECE)


def _checked(found: Record, place: str) -> Record:
    """A record whose file name leads nowhere else."""
    if found.file != f"{found.name}-{found.version}.sqsh" or "/" in found.file:
        raise StoreError(
            f"a record at {place} names the file '{found.file}'", "tell whoever keeps the images"
        )
    return found


def _moment(built: str) -> int:
    """Unix seconds of a record's time; 0 where it says none."""
    try:
        return int(datetime.fromisoformat(built.replace("Z", "+00:00")).timestamp())
    except ValueError:
        return 0


def place(address: str, store: Path, transport: Transport) -> Place:
    """Where to pull from: `address` where that is a URL, else the folder `store`."""
    return Web(address.rstrip("/"), transport) if URL.match(address) else Folder(Store(store))
