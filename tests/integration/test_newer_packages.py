"""Packages that have newer versions: `outdated` names them, and `rebuild` has apt, pip and uv take them."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.debian import Debian
from tests.integration.project import Project
from tests.packageserver import Packages

SUITE = "/debian/dists/bookworm"


@pytest.fixture
def server() -> Iterator[Packages]:
    with Packages() as running:
        running.files[f"{SUITE}/InRelease"] = b"Suite: bookworm\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
        yield running


def list_debs(server: Packages, more: bytes = b"") -> None:
    """What the flat mirror has, from which apt installs, is in the suite as well, at which Kiln looks."""
    found = server.answer("/debian/Packages")
    assert found
    server.files[f"{SUITE}/main/binary-amd64/Packages.xz"] = lzma.compress(found + more)


@pytest.fixture
def image(debian: Debian, server: Packages, tmp_path: Path) -> Project:
    """Built with the first of each package."""
    project, index = debian.beside(tmp_path / "project"), {"index_url": server.simple}
    project.file("sources.list", server.sources)
    project.manifest(
        "demo",
        [
            {"copy": {"sources.list": "/etc/apt/sources.list"}},
            {"apt": ["kiln-dice"]},
            {"apt": ["kiln-still=1.0"]},
            {"pip": {"packages": ["ready<2", "held==1.0"], **index}},
            {"uv": {"venv": "/opt/own", "packages": ["own"], **index}},
            {"run": "cat /usr/share/kiln-dice; python3 -c 'import ready; print(ready.VERSION)'"},
        ],
        env={"PIP_CONSTRAINT": ""},
    )
    project.site("near", mirrors={"debian": f"{server.url}/debian"})
    for name in ("kiln-dice", "kiln-still"):
        server.deb(tmp_path / "debs", name, "1.0")
    for name in ("ready", "held", "own"):
        server.wheel(name, "1.0")
    list_debs(server)
    project.build("demo")
    return project


def outdated(project: Project, code: int) -> dict[str, object]:
    [result] = project.run("outdated", "--site", "near", "--json").expect(code).events("result")
    [state] = result["images"]
    assert not state["not_known"]
    return {reason["kind"]: reason["evidence"] for reason in state["reasons"]}


def test_newer_packages_within_the_ranges_are_due_and_taken(
    image: Project, server: Packages, tmp_path: Path
) -> None:
    assert outdated(image, 0) == {}
    server.deb(tmp_path / "debs", "kiln-dice", "1.1")
    list_debs(server, b"\nPackage: kiln-still\nVersion: 1.1\n")
    for name, version in (("ready", "1.1"), ("ready", "2.0"), ("held", "1.1"), ("own", "1.2")):
        server.wheel(name, version)
    newer = [("ready", "1.1"), ("own", "1.2"), ("kiln-dice", "1.1")]
    packages = [{"name": name, "from": "1.0", "to": version} for name, version in newer]
    assert outdated(image, 20) == {"packages": {"packages": packages}}
    image.run("rebuild", "--site", "near").expect(0, "1 built")
    assert outdated(image, 0) == {}
    record = image.store.find("demo").record
    assert record
    have = {each.name: each.version for each in record.packages}
    wanted = {**dict(newer), "kiln-still": "1.0", "held": "1.0"}
    assert {name: have[name] for name in wanted} == wanted
