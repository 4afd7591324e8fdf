"""Images built on an image of ours: packages of every kind, and packages that don't exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import project as projects
from tests.integration import trees
from tests.integration.debian import NAME, Debian
from tests.integration.project import Project


@pytest.fixture
def project(debian: Debian, tmp_path: Path) -> Project:
    return debian.beside(tmp_path / "project")


@pytest.fixture
def plain(tmp_path: Path, small_base: Path) -> Project:
    return projects.make(tmp_path / "plain", small_base)


def installed(debian: Debian, package: str) -> str:
    """The version of a Debian package in the image."""
    paragraphs = debian.text("/var/lib/dpkg/status").split("\n\n")
    [found] = [text for text in paragraphs if text.startswith(f"Package: {package}\n")]
    return next(line.removeprefix("Version: ") for line in found.splitlines() if line.startswith("Version: "))


def test_image_as_base_with_pinned_packages_and_the_bases_constraints(
    debian: Debian, project: Project
) -> None:
    requirements = project.file("needs.txt", b"inflection\n")
    project.manifest(
        "more",
        [
            {"run": "apt-get -y remove rolldice && ! command -v /usr/games/rolldice"},
            {"apt": {"packages": [f"rolldice={installed(debian, 'rolldice')}"], "upgrade": True}},
            {"pip": {"requirements": [requirements], "upgrade_pip": True}},
            {"uv": ["cowsay==6.0"]},
            {"run": {"script": "pip list; python3 -c 'import cowsay'; greet me"}},
        ],
        base=f"image:{NAME}",
        env={"GREETING": "More of ${GREETING}"},
        smoke=[
            {"python-imports": ["inflection", "humanize", "cowsay"]},
            {"commands": ["/usr/games/rolldice 1d6"]},
        ],
    )
    record = project.build("more")
    assert record.version == "bookworm-r1-r1"
    assert record.base_digest == debian.record.digest
    assert "inflection 0.5.0" in " ".join(project.log("*/05-run.log").split())
    image = project.store.image("more", record.version)
    assert "GREETING=More of Good day" in trees.content(image, "/etc/environment").splitlines()
    # What the manifest leaves alone is the base's.
    assert "exec '/usr/local/bin/greet' 'two words'" in trees.content(image, "/etc/rc")
    assert "alice:" in trees.content(image, "/etc/passwd")


def test_unknown_apt_package_fails_the_layer(project: Project) -> None:
    project.manifest("x", [{"apt": ["no-such-package-of-kiln"]}], base=f"image:{NAME}")
    done = project.run("build", "x")
    done.expect(
        6,
        "layer 1 (apt no-such-package-of-kiln) of x failed: exit code 100",
        "command: /bin/sh /run/kiln/scripts/apt.sh",
        "E: Unable to locate package no-such-package-of-kiln",
        "the whole log: ",
        "invoke build x --keep, then: invoke shell x",
    )
    log = Path(done.err.split("the whole log: ")[1].splitlines()[0])
    assert "Unable to locate" in log.read_text()
    assert project.store.versions("x") == []


def test_unknown_pip_package_fails_the_layer(project: Project) -> None:
    project.manifest("x", [{"pip": ["kiln-no-such-package"]}], base=f"image:{NAME}")
    project.run("build", "x").expect(
        6, "failed: exit code 1", "No matching distribution found for kiln-no-such-package", "the whole log: "
    )
    assert project.store.versions("x") == []


@pytest.mark.parametrize(
    ("layer", "hint"),
    [
        ({"apt": ["git"]}, "an apt layer needs a Debian or Ubuntu base"),
        ({"pip": ["humanize"]}, "put 'apt: [python3-pip]' before this layer"),
        ({"uv": ["humanize"]}, "put an apt layer with python3 before this one"),
    ],
)
def test_a_base_without_the_tool_is_told_what_to_add(
    plain: Project, layer: dict[str, list[str]], hint: str
) -> None:
    plain.manifest("x", [layer])
    plain.run("build", "x").expect(6, hint)
