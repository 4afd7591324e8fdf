"""What registries are asked, how often, and what follows when one goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kiln import tagcheck
from kiln.base import parse_base
from kiln.registry.client import Client
from kiln.registry.oci import Resolved
from kiln.registry.reference import Reference
from kiln.registry.transport import Unreachable
from kiln.site import Rebuild, Site

NOW = 1_780_000_000.0
DAY = 86_400


def digest(text: str) -> str:
    return f"sha256:{text.encode().hex():0<64}"


class Registries:
    """Registries that count what they are asked; `host` goes away after `answers` questions."""

    def __init__(self, tags: Sequence[str], host: str = "", answers: int = 0) -> None:
        self._tags, self._host, self._left = tags, host, answers
        self.asked: list[tuple[str, str]] = []
        self.ages: Mapping[str, int] = {}
        self._lock = threading.Lock()

    def _count(self, what: str, reference: Reference) -> None:
        with self._lock:
            self.asked.append((what, f"{reference.registry}/{reference.repository}"))
            if reference.registry == self._host:
                self._left -= 1
                if self._left < 0:
                    raise Unreachable(f"cannot reach {self._host}: Connection refused")

    def digest(self, reference: Reference) -> str | None:
        self._count("digest", reference)
        return digest(str(reference.tag))

    def tags(self, reference: Reference) -> list[str]:
        self._count("tags", reference)
        return list(self._tags)

    def resolve(self, reference: Reference, architecture: str, kept: Path | None = None) -> Resolved:
        self._count("resolve", reference)
        made = NOW - self.ages.get(str(reference.tag), 100) * DAY
        created = time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(made))
        config: dict[str, Any] = {"created": created, "config": {"Env": ["CUDA_VERSION=12.4.0"]}}
        found = digest(str(reference.tag))
        return Resolved("", "amd64", found, "", "", (), (), config, b"")


def asker(client: Registries, min_tag_age: int | None = None) -> tagcheck.Asker:
    rebuild = Rebuild().model_copy(update={"min_tag_age": min_tag_age})
    site = Site.model_construct(name="x", driver="550.54.15", rebuild=rebuild)
    return tagcheck.Asker(cast(Client, client), site, "amd64", Path("/nowhere"), NOW)


def wanted(*bases: str) -> dict[tuple[str, str], dict[str, set[str]]]:
    return tagcheck.wanted((parse_base(base), digest(base.rpartition(":")[2])) for base in bases)


def test_each_repository_is_asked_once() -> None:
    client = Registries(["1.0"])
    answers = asker(client).ask(wanted(*(f"r.example/a{n % 3}:1.0" for n in range(60))))
    assert len(answers) == 3
    assert sorted(client.asked) == sorted(
        (what, f"r.example/a{n}") for what in ("digest", "tags") for n in range(3)
    )


def test_a_registry_that_goes_away_halfway() -> None:
    client = Registries(["1.0"], "gone.example", 10)
    here = [f"here.example/a{n}:1.0" for n in range(20)]
    gone = [f"gone.example/a{n}:1.0" for n in range(20)]
    answers = asker(client).ask(wanted(*here, *gone))
    assert not any(answers["here.example", f"a{n}"].problem for n in range(20))
    problems = [answers["gone.example", f"a{n}"].problem for n in range(20)]
    # What was answered before holds; the rest is not known, and isn't asked for once it is clear.
    assert 2 <= sum(not problem for problem in problems) <= 5
    assert all("gone.example" in problem for problem in problems if problem)
    assert sum(place.startswith("gone.example") for _, place in client.asked) <= 10 + tagcheck.AT_ONCE


@pytest.mark.parametrize(
    ("least", "newest", "young"),
    [(None, "25.05-py3", None), (14 * DAY, "25.04-py3", ["25.05-py3 (5 d)"]), (200 * DAY, None, ...)],
)
def test_a_tag_must_be_old_enough(least: int | None, newest: str | None, young: object) -> None:
    client = Registries(["24.12-py3", "25.04-py3", "25.05-py3", "25.06-py3-igpu"])
    client.ages = {"25.05-py3": 5}
    [answer] = asker(client, least).ask(wanted("r.io/a:24.12-py3")).values()
    found = answer.newer.get("24.12-py3")
    assert (found.tag if found else None) == newest
    if young is not ...:
        assert answer.too_new.get("24.12-py3") == young
    if found:
        assert found.driver.state == "fits"


def test_the_age_of_an_image_that_has_none() -> None:
    client = Registries(["1.0", "2.0"])
    client.ages = {"2.0": int(NOW // DAY)}
    [answer] = asker(client, min_tag_age=14 * DAY).ask(wanted("r.io/a:1.0")).values()
    assert answer.newer["1.0"].days is None
