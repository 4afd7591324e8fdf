"""The files that a lock names: fetched once, checked against it, kept, and laid out for a layer.

    <cache>/v1/packages/<uid>/files/sha256/<hex>    as `kiln.registry.blobs` has them, the caller's alone

Owns how they are reached: with the logins of the site's indexes and through its mirrors, neither of which a
lock has. What is to be fetched is `kiln.locked`'s; where it stands in the lock is told in every message.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Event
from urllib.parse import unquote, urlsplit

import requests

from kiln import debootstrap, files, packagecache
from kiln.errors import BaseError, LockError
from kiln.locked import PYTHON, Lock, Locked, without_login
from kiln.registry.blobs import blob_path, complete
from kiln.registry.download import Altered, Progress, Pull
from kiln.registry.oci import Descriptor
from kiln.registry.transport import Transport, host_of, origin
from kiln.site import Site

JOBS = 4
ASKED_AT_ONCE = 8
WANTS_A_LOGIN = (401, 403)
IN_THE_BASE = "file:"
"""The scheme of a package that lies in the base itself, and is taken from there."""
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!~%-]*")


@dataclass(frozen=True)
class Missing:
    """A package that its index doesn't give as it was locked, and what the index says."""

    package: Locked
    said: str


@dataclass(frozen=True)
class LockedFiles:
    """The files of one lock, in `folder`, which is the caller's."""

    lock: Lock
    folder: Path
    site: Site
    transport: Transport

    def fetch(self, packages: Sequence[Locked], progress: Progress | None) -> None:
        """Bring what isn't there yet, and check it. Cut downloads are gone on with.

        Raises `LockError` for what is gone or has other bytes, `BaseError`, `SpaceError`, `StoreError`.
        """
        # Of a file that several layers have the first line is told.
        wanted = {f"sha256:{each.sha256}": each for each in reversed(_remote(packages))}
        descriptors = [Descriptor(digest, each.size, "") for digest, each in wanted.items()]
        source = _Source(self, wanted)
        try:
            Pull(source, self.folder, self.transport.notify).run(descriptors, JOBS, progress)
        except Altered as error:
            raise self._altered(wanted[error.digest], error.message) from error

    def missing(self, packages: Sequence[Locked]) -> list[Missing]:
        """What the indexes no longer give as it was locked, as far as one can tell without fetching it."""
        stop = Event()
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            try:
                found = list(pool.map(lambda each: self._ask(each, stop), _remote(packages)))
            finally:
                stop.set()
        return [each for each in found if each]

    def there(self, packages: Sequence[Locked]) -> bool:
        return all(complete(self.folder, _descriptor(each)) for each in _remote(packages))

    def size_of(self, url: str) -> int:
        """The bytes of a file, as its index says or as they are counted. Raises `LockError`, `BaseError`."""
        with self._opened(url, {"Accept-Encoding": "identity"}, Event()) as response:
            if response.status_code != 200:
                raise LockError(f"{url} answers {response.status_code}", "look at the index, and lock again")
            said = response.headers.get("Content-Length", "")
            return int(said) if said.isdigit() else sum(map(len, response.iter_content(files.CHUNK)))

    def path(self, package: Locked) -> Path:
        return blob_path(self.folder, package.sha256)

    def stage(self, packages: Sequence[Locked], place: Path, name: Callable[[Locked], str]) -> None:
        """Lay packages out in the new folder `place`, each checked once more, under the name given to it.

        Raises `LockError` for one that isn't there or is damaged.
        """
        place.mkdir(parents=True)
        for package in _remote(packages):
            source, target = self.path(package), place / name(package)
            try:
                _link(source, target)
                found = files.sha256_file(target)
                self._used(source)
            except FileNotFoundError:
                raise self._unfetched(package) from None
            if found != package.sha256:
                source.unlink()
                raise self._altered(package, f"the one in the cache is damaged, and was removed: {source}")

    @staticmethod
    def _used(path: Path) -> None:
        """So that `gc` leaves it; on a read-only cache nothing is removed either."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def headers(self, url: str) -> dict[str, str]:
        """The login of the site's index or mirror for an address, none where it has none."""
        login = self._logins.get(origin(url))
        return {"Authorization": f"Basic {login}"} if login else {}

    @cached_property
    def _logins(self) -> Mapping[tuple[str, str], str]:
        found = {}
        for address in (self.site.indexes.pip, *self.site.indexes.extra, *self.site.mirrors.values()):
            parts = urlsplit(address)
            if parts.username is not None:
                for secret in (parts.password or "", unquote(parts.password or "")):
                    self.transport.hide(secret)
                login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                found[origin(address)] = base64.b64encode(login.encode()).decode()
        return found

    def _ask(self, package: Locked, stop: Event) -> Missing | None:
        if stop.is_set():
            return None
        headers = {"Accept-Encoding": "identity", "Range": "bytes=0-0"}
        with self._opened(package.url, headers, stop) as response:
            said = _refused(response, package)
            return Missing(package, said) if said else None

    @contextlib.contextmanager
    def _opened(self, url: str, headers: Mapping[str, str], stop: Event) -> Iterator[requests.Response]:
        place = reached(url, self.site.mirrors)
        with self.transport.open(without_login(place), {**headers, **self.headers(place)}, stop) as response:
            yield response

    def open(
        self, package: Locked, headers: Mapping[str, str], stop: Event
    ) -> contextlib.AbstractContextManager[requests.Response]:
        return self._opened(package.url, headers, stop)

    def gone(self, package: Locked, said: str) -> LockError:
        hint = f"run: invoke lock {self.lock.name} --update {package.name}"
        if said in (f"answers {code}" for code in WANTS_A_LOGIN):
            hint = f"put a login for {host_of(package.url)} into the site's 'indexes' or 'mirrors'"
        return LockError(
            f"{package.title} can't be fetched as it was locked: {package.url} {said}",
            hint,
            [f"{self.lock.place(package)}: {package.text}"],
        )

    def _altered(self, package: Locked, said: str) -> LockError:
        return LockError(
            f"{package.title} has other bytes than were locked: {said}",
            f"somebody put another file under the same version: ask who keeps {host_of(package.url)};"
            f" to take the new one: invoke lock {self.lock.name} --update {package.name}",
            [f"{self.lock.place(package)}: {package.text}"],
        )

    def _unfetched(self, package: Locked) -> LockError:
        return LockError(
            f"{package.title} has not been fetched",
            f"run: invoke fetch {self.lock.name}",
            [f"{self.lock.place(package)}: {package.text}"],
        )


class _Source:
    """Where the packages of a lock come from, as a pull asks for them: by digest."""

    place = "the index"

    def __init__(self, locked: LockedFiles, wanted: Mapping[str, Locked]) -> None:
        self._files, self._wanted = locked, wanted

    @contextlib.contextmanager
    def open_blob(self, digest: str, headers: Mapping[str, str], stop: Event) -> Iterator[requests.Response]:
        package = self._wanted[digest]
        with self._files.open(package, headers, stop) as response:
            if said := _refused(response, package):
                raise self._files.gone(package, said)
            yield response

    def pause(self, attempt: int, trouble: str, stop: Event) -> None:
        self._files.transport.pause(attempt, None, trouble, stop)

    def unreachable(self, trouble: str) -> BaseError:
        digest = trouble.partition(": ")[0]
        package = self._wanted.get(digest)
        return self._files.transport.unreachable(package.url, trouble) if package else BaseError(trouble)


def opened(lock: Lock, site: Site, transport: Transport) -> LockedFiles:
    """The files of a lock, in the caller's cache. Raises `LockError` where that isn't the caller's alone."""
    folder = packagecache.own(site.packages) / packagecache.FILES
    try:
        packagecache.mount(site.packages, packagecache.FILES)
    except OSError as error:
        # What was fetched before can be read all the same: in a job, say, that has the cache read-only.
        if error.errno == errno.EROFS and folder.is_dir():
            return LockedFiles(lock, folder, site, transport)
        place = error.filename or site.packages
        raise LockError(
            f"locked files can't be kept: {place}: {error.strerror}", f"look at: ls -ld {place}"
        ) from error
    return LockedFiles(lock, folder, site, transport)


def file_name(package: Locked, kind: str) -> str:
    """The name under which a layer of that kind finds a file: pip and uv read name and version in it.

    Raises `LockError` for an address that ends in no name.
    """
    if kind not in PYTHON:
        return f"{package.sha256}.deb"
    name = unquote(urlsplit(package.url).path.rpartition("/")[2])
    if not name.endswith(".whl"):
        # An archive of a repository is called in many ways; pip and uv look for one.
        ending = re.search(r"(\.tar)?\.[a-z0-9]+$", name)
        name = f"{package.name.replace('-', '_')}-{package.version}{ending[0] if ending else ''}"
    if not _FILE.fullmatch(name):
        raise LockError(f"{package.title}: {package.url} names no file", "lock it from another index")
    return name


def reached(url: str, mirrors: Mapping[str, str]) -> str:
    """Where a site asks for what a lock has at `url`: at its own mirror, where it has one."""
    for distribution, public in debootstrap.PUBLIC.items():
        if url.startswith(public) and distribution in mirrors:
            return mirrors[distribution].rstrip("/") + url.removeprefix(public)
    return url


def public(url: str, mirrors: Mapping[str, str]) -> str:
    """What a lock has for an address that a program said: without a login, and no site's own mirror."""
    plain = without_login(url).partition("#")[0]
    for distribution, mirror in mirrors.items():
        mine = without_login(mirror).rstrip("/")
        if plain.startswith(mine) and distribution in debootstrap.PUBLIC:
            return debootstrap.PUBLIC[distribution] + plain.removeprefix(mine)
    return plain


def _remote(packages: Sequence[Locked]) -> list[Locked]:
    return [each for each in packages if not each.url.startswith(IN_THE_BASE)]


def _descriptor(package: Locked) -> Descriptor:
    return Descriptor(f"sha256:{package.sha256}", package.size, "")


def _refused(response: requests.Response, package: Locked) -> str:
    """Why an answer isn't the locked file, '' where it may be."""
    status = response.status_code
    if status not in (200, 206):
        return f"answers {status}"
    total = response.headers.get("Content-Length", "")
    if status == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    if total.isdigit() and int(total) != package.size and not response.headers.get("Content-Encoding"):
        return f"has {total} bytes in place of {package.size}"
    return ""


def _link(source: Path, target: Path) -> None:
    """A second name, or a copy where the file systems differ."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
