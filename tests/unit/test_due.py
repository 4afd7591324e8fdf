"""Reasons and their evidence: of smoke runs, clocks and drivers, of packages."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from typing import cast

import pytest
from packaging.requirements import Requirement

from kiln import due, manifest, newerpackages
from kiln.due import Reason
from kiln.hardware import Hardware
from kiln.newerpackages import Indexes, Question
from kiln.record import LayerRecord, PackageChange, Record, SmokeResult
from kiln.registry.transport import Answer, Transport

NOW = datetime(2026, 7, 1, tzinfo=timezone.utc)
DAY = 86_400.0


def record(driver: str = "", *layers: LayerRecord) -> Record:
    ran = SmokeResult("gpu", (), "passed", True, 1.0, hardware=Hardware(driver=driver))
    digest = "sha256:" + "0" * 64
    return Record(
        "x", "1-r1", "x-1-r1.sqsh", digest, 1, "b:1", digest, digest, "2026-06-30T00:00:00Z", smoke=(ran,),
        layers=layers, system="debian-12",
    )  # fmt: skip


def smoke(ran: str, had: str = "", site: str = "") -> list[Reason]:
    return due.of_smoke(record(had), ran, site, 30 * DAY, NOW)


def test_a_smoke_run_gets_old() -> None:
    assert smoke("2026-06-30T00:00:00Z") == []
    [old] = smoke("2026-05-01T00:00:00Z")
    assert (old.kind, old.remedy, old.evidence["days"]) == (due.SMOKE, due.RETEST, 61)


def test_a_smoke_run_of_the_future_proves_nothing() -> None:
    [strange] = smoke("2027-06-30T00:00:00Z")
    assert "a clock was changed" in strange.text


def test_another_driver_makes_smoke_due() -> None:
    assert smoke("2026-06-30T00:00:00Z", "550.54.15", "550.54.15") == []
    # A hook that needs no GPU ran without a driver.
    assert smoke("2026-06-30T00:00:00Z", "", "550.54.15") == []
    [other] = smoke("2026-06-30T00:00:00Z", "535.54.03", "550.54.15")
    assert other.evidence == {"from": "535.54.03", "to": "550.54.15"}


class Index:
    """An index that counts what it is asked."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers, self.asked = answers, list[str]()

    def read(self, url: str, headers: Mapping[str, str], stop: Event, limit: int) -> Answer:
        self.asked.append(url)
        return self.answers[url]


def indexes(index: Index, archive: Mapping[str, bytes] | None = None) -> Indexes:
    return Indexes(cast(Transport, index), (archive or {}).get, {}, "amd64")


def listed(*names: str) -> Answer:
    files = [{"filename": name} for name in names]
    files.append({"filename": "pkg-9.0-py3-none-any.whl", "yanked": "broken"})
    files.append({"filename": "pkg-8.0-py3-none-any.whl", "requires-python": ">=3.13"})
    body = json.dumps({"files": files}).encode()
    return Answer(200, {"Content-Type": "application/vnd.pypi.simple.v1+json"}, body, "")


def asked(text: str, have: str) -> Question:
    return Question("http://i", Requirement(text), have, "3.11")


@pytest.mark.parametrize(
    ("requirement", "found"),
    [("pkg", "2.1"), ("pkg<2", "1.5"), ("pkg==1.0", None), ("pkg>=1,<1.1", None)],
)
def test_newer_versions_within_the_range(requirement: str, found: str | None) -> None:
    index = Index({"http://i/pkg/": listed("pkg-1.0.tar.gz", "pkg-1.5.zip", "pkg-2.1-py3-none-any.whl",
                                           "pkg-3.0rc1.tar.gz", "pkg-4.0-py2.exe")})  # fmt: skip
    question = asked(requirement, "1.0")
    [files] = indexes(index).python([question, question]).values()
    assert not isinstance(files, Exception)
    newer = newerpackages.newer(question, files)
    assert (newer[2] if newer else None) == found
    assert index.asked == ["http://i/pkg/"]


def test_an_index_of_links() -> None:
    body = b'<html><a href="x">pkg-1.0.tar.gz</a> <a class="y" href="x">pkg-1.2-py3-none-any.whl</a></html>'
    index = Index({"http://i/pkg/": Answer(200, {"Content-Type": "text/html"}, body, "")})
    [files] = indexes(index).python([asked("pkg", "1.0")]).values()
    assert not isinstance(files, Exception) and [str(each.version) for each in files] == ["1.0", "1.2"]


def test_an_index_that_fails_is_not_known() -> None:
    index = Index({"http://i/pkg/": Answer(500, {}, b"", "")})
    [failed] = indexes(index).python([asked("pkg", "1.0")]).values()
    assert isinstance(failed, Exception)


def packages(**versions: str) -> bytes:
    text = "\n".join(f"Package: {name}\nVersion: {version}\n" for name, version in versions.items())
    return lzma.compress(text.encode())


def test_debian_packages_that_the_archive_has_newer(tmp_path: Path) -> None:
    mirror = "http://deb.debian.org/debian"
    archive = {
        f"{mirror}/dists/bookworm/InRelease": b"Date: Thu, 01 Jan 2026 00:00:00 UTC\n",
        f"{mirror}/dists/bookworm-updates/InRelease": b"Date: Thu, 01 Jan 2026 00:00:00 UTC\n",
        f"{mirror}/dists/bookworm/main/binary-amd64/Packages.xz": packages(
            tool="1.0-1", lib="3-1", held="9-1"
        ),
        f"{mirror}/dists/bookworm-updates/main/binary-amd64/Packages.xz": packages(lib="3-2"),
    }
    (tmp_path / "x.yaml").write_text("format: 1\nname: x\nbase: b:1\nlayers:\n- apt: [tool, held=8-1]\n")
    made = manifest.load(tmp_path / "x.yaml")
    changes = [PackageChange("apt", name, "amd64", "", version)
               for name, version in (("tool", "1.0-1"), ("lib", "3-1"), ("held", "8-1"))]  # fmt: skip
    have = newerpackages.of_apt(made, record("", LayerRecord("apt", "apt", 1.0, changes=tuple(changes))))
    newest = indexes(Index({}), archive).apt("bookworm", set(have))
    assert not isinstance(newest, Exception)
    assert newerpackages.newer_debs(have, newest) == [("lib", "3-1", "3-2")]


def test_what_the_base_brought_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text('format: 1\nname: x\nbase: b:1\nlayers:\n- pip: [torch, "geo<2"]\n')
    place = "usr/lib/python3.11/dist-packages"
    layer = LayerRecord("pip", "pip", 1.0, changes=(PackageChange("python", "geo", place, "", "1.0"),))
    [question] = newerpackages.questions(manifest.load(tmp_path / "x.yaml"), record("", layer), "")
    assert (question.name, question.python, question.index) == ("geo", "3.11", "https://pypi.org/simple")
