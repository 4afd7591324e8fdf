"""What would tell of the place where an image was built: a site's addresses and passwords, paths, the host.

Owns which bytes those are, and finding them in the small files that layers changed. A layer has the site's
proxy, certificates and indexes while it runs; none of that works where the image is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kiln import baseline, masking, search
from kiln.imagerules import KILNS_OWN, Builder
from kiln.layerrun import CA_INSIDE
from kiln.manifest import Mount
from kiln.record import ERROR, WARNING, Finding
from kiln.search import Changed
from kiln.site import Site

SHORTEST = 8  # bytes: what is shorter stands in files that have nothing to do with it
LOOPBACK = ("localhost", "127.", "::1")
# Everybody's: an image may name them.
PUBLIC = (
    "pypi.org", "files.pythonhosted.org", "pypi.nvidia.com", "download.pytorch.org", "nvcr.io", "ghcr.io",
    "deb.debian.org", "security.debian.org", "archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com",
)  # fmt: skip
# Every machine has these: their paths tell nothing.
COMMON = ("/usr", "/etc", "/lib", "/tmp", "/opt", "/var", "/dev", "/proc", "/sys", "/run", "/srv", "/mnt")


@dataclass(frozen=True)
class Trace:
    """What a file must not hold, in words, and how bad it is that it does."""

    what: str
    severity: str
    remedy: str


def traces(
    site: Site, mounts: Sequence[Mount], places: Sequence[Path], builder: Builder
) -> dict[bytes, Trace]:
    """The bytes to look for, the most telling first. `places` are Kiln's own folders on this machine."""
    found: dict[bytes, Trace] = {}
    rest = (*_addresses(site), *_kilns(), *_machine([*site.mounts, *mounts], places, builder))
    in_order = sorted(rest, key=lambda each: (each[1].severity != ERROR, -len(each[0])))
    for text, trace in (*_passwords(site), *in_order):
        if len(text) >= SHORTEST:
            found.setdefault(text, trace)
    return found


def _passwords(site: Site) -> Iterator[tuple[bytes, Trace]]:
    for secret in site.secrets():
        trace = Trace(
            "a password of the site's", ERROR, "take it out: layers get the site's settings by themselves"
        )
        yield from ((form, trace) for form in masking.traces(secret))


def _addresses(site: Site) -> Iterator[tuple[bytes, Trace]]:
    addresses = [
        *(("the site's proxy", url, False) for url in (site.proxies.http, site.proxies.https)),
        *(("the site's package index", url, True) for url in (site.indexes.pip, *site.indexes.extra)),
        *(("the site's mirror", url, True) for url in site.mirrors.values()),
        *(("the site's mirror", registry.mirror, True) for registry in site.registries.values()),
    ]
    for what, url, with_path in addresses:
        # The environment may have a proxy without its scheme.
        parts = urlsplit(url if "//" in url else f"//{url}")
        host = parts.netloc.rpartition("@")[2]
        if host and parts.hostname not in PUBLIC:
            # What this machine itself answers at is also in examples and documents.
            severity = WARNING if host.startswith(LOOPBACK) else ERROR
            text = host + (parts.path.rstrip("/") if with_path else "")
            yield text.encode(), Trace(what, severity, "take it out: it is reached from the site alone")


def _kilns() -> Iterator[tuple[bytes, Trace]]:
    gone = "it is there only while layers run"
    yield CA_INSIDE.encode(), Trace("the path of the site's certificates", ERROR, gone)
    yield f"{KILNS_OWN}/".encode(), Trace("a path of Kiln's own", WARNING, gone)


def _machine(
    mounts: Sequence[Mount], places: Sequence[Path], builder: Builder
) -> Iterator[tuple[bytes, Trace]]:
    gone = "it is on the machine that built the image"
    for place in places:
        yield f"{place}/".encode(), Trace("a folder of Kiln's on the machine that built it", WARNING, gone)
    if builder.home not in ("/", "/root"):
        yield f"{builder.home.rstrip('/')}/".encode(), Trace("the builder's home", WARNING, gone)
    for mount in mounts:
        if not str(mount.source).startswith(COMMON):
            yield str(mount.source).encode(), Trace("a folder that layers had mounted", WARNING, gone)
    # A name like `login` or `ubuntu` stands everywhere.
    if any(letter in "0123456789-." for letter in builder.host):
        yield builder.host.encode(), Trace("the name of the host that built it", WARNING, gone)


def find(changed: Changed, wanted: Mapping[bytes, Trace], env: Mapping[str, str]) -> list[Finding]:
    """A finding for each file of the tree that holds one of `wanted`, by its path in the image."""
    names = {needle: str(number) for number, needle in enumerate(wanted)}
    kinds = list(wanted.values())
    hits = set(changed.holding(wanted.keys(), env, settings=True))
    findings = []
    for path, inside in _on_top(changed, sorted(hits)):
        number = search.which(path, names)
        if number:
            trace = kinds[int(number)]
            findings.append(Finding(trace.severity, inside, f"it holds {trace.what}", trace.remedy))
    return findings


def _on_top(changed: Changed, hits: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """The files that no later layer replaced or removed, each with its path in the image."""
    for path in hits:
        number = next(n for n, folder in enumerate(changed.folders) if path.is_relative_to(folder))
        inside = path.relative_to(changed.folders[number])
        above = changed.folders[number + 1 :]
        if all(baseline.of_tree(folder)(f"/{inside}") is None for folder in above):
            yield path, f"/{inside}"
