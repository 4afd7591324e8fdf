"""What registries say of the tags that images are built on: where each leads now, and which are newer.

Each repository is asked once for all images together: a HEAD for each tag that one of them has, one list of
tags, and where a newer one is found, its config. A few repositories of a registry are asked at a time; one
that can't be reached is asked no further. Owns these questions; what follows from them is `kiln.due`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event

from kiln import drivergate, series
from kiln.base import Base
from kiln.driver import TOO_OLD, Verdict
from kiln.errors import KilnError
from kiln.registry.client import Client
from kiln.registry.oci import Resolved
from kiln.registry.reference import Reference
from kiln.registry.transport import Unreachable
from kiln.site import Site

AT_ONCE = 4
"""Repositories of one registry that are asked at the same time."""
MOST_TRIED = 5
"""Newer tags that are looked at for one that is old enough."""
DAY = 86_400
UNDATED = 1990
"""Builders that want the same bytes each time date an image before this year."""

Repository = tuple[str, str]


@dataclass(frozen=True)
class Newer:
    """A newer tag of a series: its digest, its age in days (None where its maker doesn't say), its driver."""

    tag: str
    digest: str
    days: int | None
    driver: Verdict


@dataclass
class Answer:
    """What one repository said.

    `digests` has each tag's, None for a tag that is gone; `platform` that of this machine's image, where the
    tag moved. `newer` is the newest tag of its series that is old enough, `fitting` the newest of them that
    the site's driver carries, `too_new` those that aren't old enough. `problem` is why the rest isn't known.
    """

    digests: dict[str, str | None] = field(default_factory=dict)
    platform: dict[str, str] = field(default_factory=dict)
    newer: dict[str, Newer] = field(default_factory=dict)
    fitting: dict[str, Newer] = field(default_factory=dict)
    too_new: dict[str, list[str]] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Asker:
    """Who asks. `kept` is the folder where documents of images stay, by digest; `now` is Unix seconds."""

    client: Client
    site: Site
    architecture: str
    kept: Path
    now: float

    def ask(self, wanted: Mapping[Repository, Mapping[str, set[str]]]) -> dict[Repository, Answer]:
        """Ask for all tags of all repositories: by tag, the digests that images have been built on."""
        registries = sorted({registry for registry, _ in wanted})
        with ThreadPoolExecutor(max(1, len(registries))) as pool:
            answers = pool.map(lambda each: self._registry(each, wanted), registries)
            return {name: answer for found in answers for name, answer in found.items()}

    def _registry(
        self, registry: str, wanted: Mapping[Repository, Mapping[str, set[str]]]
    ) -> dict[Repository, Answer]:
        mine = [name for name in wanted if name[0] == registry]
        down = Event()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(
                zip(
                    mine, pool.map(lambda name: self._repository(name, wanted[name], down), mine), strict=True
                )
            )

    def _repository(self, name: Repository, tags: Mapping[str, set[str]], down: Event) -> Answer:
        answer = Answer()
        if down.is_set():
            answer.problem = f"{name[0]} could not be reached a moment ago"
            return answer
        try:
            for tag, built_on in tags.items():
                self._tag(Reference(*name, tag), built_on, answer)
            listed = self.client.tags(Reference(*name, next(iter(tags))))
            for tag in tags:
                self._newer(name, tag, series.newer(tag, listed), answer)
        except KilnError as error:
            answer.problem = error.message
            if isinstance(error, Unreachable):
                down.set()
        return answer

    def _tag(self, reference: Reference, built_on: Iterable[str], answer: Answer) -> None:
        tag = str(reference.tag)
        answer.digests[tag] = digest = self.client.digest(reference)
        if digest and any(each and each != digest for each in built_on):
            # An index may move for another platform's sake.
            answer.platform[tag] = self._resolved(reference, digest).digest

    def _newer(self, name: Repository, tag: str, later: list[str], answer: Answer) -> None:
        least = self.site.rebuild.min_tag_age
        for each in later[:MOST_TRIED]:
            resolved = self._resolved(Reference(*name, each), None)
            days = age(resolved, self.now)
            if least is not None and days is not None and days * DAY < least:
                answer.too_new.setdefault(tag, []).append(f"{each} ({days} d)")
                continue
            verdict = drivergate.of_image(resolved.config, self.site)
            found = Newer(each, resolved.pinned, days, verdict)
            answer.newer.setdefault(tag, found)
            if verdict.state != TOO_OLD:
                answer.fitting[tag] = found
                return

    def _resolved(self, reference: Reference, digest: str | None) -> Resolved:
        named = Reference(reference.registry, reference.repository, reference.tag, digest)
        return self.client.resolve(named, self.architecture, self.kept)


def age(resolved: Resolved, now: float) -> int | None:
    """Days since an image was made, as its config says; None where that says nothing of use."""
    try:
        made = datetime.fromisoformat(str(resolved.config.get("created"))[:19] + "+00:00")
    except ValueError:
        return None
    return max(0, int((now - made.timestamp()) // DAY)) if made.year >= UNDATED else None


def wanted(bases: Iterable[tuple[Base, str]]) -> dict[Repository, dict[str, set[str]]]:
    """The questions for bases in registries, each with the digest that was built on, '' for none."""
    found: dict[Repository, dict[str, set[str]]] = {}
    for base, digest in bases:
        if base.kind == "registry" and base.tag:
            found.setdefault((base.registry, base.repository), {}).setdefault(base.tag, set()).add(digest)
    return found


def asker(client: Client, site: Site, architecture: str) -> Asker:
    return Asker(client, site, architecture, site.blobs, time.time())
