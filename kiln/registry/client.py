"""The distribution API's client: what an image is, and its blobs, from a registry or a mirror of it.

Owns the way from a reference to a verified `Resolved`, and to blobs. Mirrors: the path of a
mirror's URL is put before the repository (`https://harbor.site/ngc` and `nvidia/pytorch` make
`harbor.site/v2/ngc/nvidia/pytorch`), and it gets the login of its own host, never that of the
registry it stands for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from kiln import files
from kiln.errors import BaseError
from kiln.registry import oci
from kiln.registry.auth import Authorizer
from kiln.registry.blobs import blob_path
from kiln.registry.credentials import Credentials
from kiln.registry.delivery import Delivery
from kiln.registry.download import Progress, Pull
from kiln.registry.oci import Descriptor, Resolved
from kiln.registry.reference import Reference
from kiln.registry.repository import Endpoint, Repository
from kiln.registry.transport import Network, Notify, Transport, Wait, host_of, silent

__all__ = ["Client", "Network", "Resolved"]

JOBS = 4
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class Client:
    """Images in registries. One for the whole process; its methods may be called from any thread."""

    def __init__(
        self,
        network: Network,
        credentials: Credentials,
        *,
        mirrors: Mapping[str, str] | None = None,
        notify: Notify = silent,
        wait: Wait = Event.wait,
    ) -> None:
        self._mirrors, self._notify = dict(mirrors or {}), notify
        self._transport = Transport(network, notify, wait)
        self._authorizer = Authorizer(self._transport, credentials, notify)

    def resolve(self, reference: Reference, architecture: str, kept: Path | None = None) -> Resolved:
        """Ask for the image of linux/`architecture`: its manifest and config. Raises `BaseError`.

        In the folder `kept`, laid out as blobs are, documents stay: of a digest nobody is asked twice.
        """
        name, repository, stop = reference.canonical(), self._repository(reference), Event()
        what = f"{name.registry}/{name.repository}{'@' if reference.digest else ':'}{name.wanted}"
        there = _kept(kept, name.wanted)
        top = oci.document(there, what) if there else _read_top(repository, name.wanted, what, stop, kept)

        def fetch(wanted: Descriptor) -> bytes:
            if there := _kept(kept, wanted.digest):
                return there
            documents = (*oci.INDEX_TYPES, *oci.MANIFEST_TYPES)
            ask = repository.manifest if wanted.media_type in documents else repository.small_blob
            body = ask(wanted.digest, what, stop).body
            _keep(kept, body)
            return body

        uri = f"docker://{name.registry}#{name.repository}:{top.digest}"
        found = oci.resolve(top, fetch, architecture, what, uri)
        return dataclasses.replace(found, tag=reference.tag, reference=reference)

    def digest(self, reference: Reference) -> str | None:
        """What the tag of `reference` leads to now, None where there is no such tag. Raises `BaseError`."""
        name = reference.canonical()
        what = f"{name.registry}/{name.repository}:{name.wanted}"
        return self._repository(reference).digest(name.wanted, what, Event())

    def tags(self, reference: Reference) -> list[str]:
        """The tags of the repository."""
        return self._repository(reference).tags(Event())

    def download(self, reference: Reference, wanted: Descriptor, blobs: Path) -> Path:
        """Bring one blob into the folder `blobs`, or find it there; returns its path."""
        Pull(self._repository(reference), blobs, self._notify).run([wanted], JOBS)
        return blob_path(blobs, wanted.digest)

    def pull(
        self, resolved: Resolved, blobs: Path, jobs: int = JOBS, progress: Progress | None = None
    ) -> list[Path]:
        """Bring all layers into `blobs` over `jobs` connections. Returns their paths, lowest first, repeated
        ones repeated."""
        if resolved.reference is None:
            raise ValueError(f"{resolved.uri} is not in a registry: see kiln.registry.layout")
        repository = self._repository(resolved.reference)
        Pull(repository, blobs, self._notify).run(resolved.layers, jobs, progress)
        return [blob_path(blobs, layer.digest) for layer in resolved.layers]

    def delivery(self, resolved: Resolved, blobs: Path, progress: Progress) -> Delivery:
        """The same in a thread, beside the block of a `with` statement."""
        if resolved.reference is None:
            raise ValueError(f"{resolved.uri} is not in a registry: see kiln.registry.layout")
        pull = Pull(self._repository(resolved.reference), blobs, self._notify)
        return Delivery(pull, resolved.layers, JOBS, progress)

    def _repository(self, reference: Reference) -> Repository:
        return Repository(endpoint(reference, self._mirrors), self._transport, self._authorizer)


def endpoint(reference: Reference, mirrors: Mapping[str, str]) -> Endpoint:
    """Where to ask for `reference`: at its mirror, or at the registry itself (http on localhost only)."""
    name = reference.canonical()
    mirror = mirrors.get(reference.registry) or mirrors.get(name.registry)
    if not mirror:
        bare = urlsplit(f"//{name.registry}").hostname
        scheme = "http" if bare in LOCAL_HOSTS else "https"
        return Endpoint(f"{scheme}://{name.registry}", name.repository, name.registry)
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BaseError(
            f"the mirror of {reference.registry} is {mirror!r}, no URL", "write: https://HOST[/PREFIX]"
        )
    repository = f"{parts.path.strip('/')}/{name.repository}".lstrip("/")
    base = f"{parts.scheme}://{host_of(mirror)}"
    return Endpoint(base, repository, f"{host_of(mirror)} (the mirror of {name.registry})")


def _kept(folder: Path | None, digest: str) -> bytes | None:
    """A document that was kept, None where there is none, or a damaged one."""
    if folder is None or not digest.startswith("sha256:"):
        return None
    try:
        data = blob_path(folder, digest).read_bytes()
    except OSError:
        return None
    return data if oci.sha256(data) == digest else None


def _keep(folder: Path | None, data: bytes) -> None:
    if folder is not None:
        path = blob_path(folder, oci.sha256(data))
        with files.translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, data)


def _read_top(repository: Repository, wanted: str, what: str, stop: Event, kept: Path | None) -> oci.Document:
    reply = repository.manifest(wanted, what, stop)
    found = oci.document(reply.body, what, reply.headers.get("Content-Type", ""))
    named = wanted if wanted.startswith("sha256:") else reply.headers.get("Docker-Content-Digest", "")
    if named.startswith("sha256:") and named != found.digest:
        raise BaseError(
            f"{what}: wrong bytes for the manifest {named}: got {found.digest}",
            f"{repository.place}, or a proxy before it, changes what it passes on",
        )
    _keep(kept, reply.body)
    return found
