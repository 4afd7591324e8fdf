"""The same again: builds of the same inputs, in other folders, later, by others, give the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration import project as projects
from tests.integration import trees
from tests.integration.debian import PASSWORD, USER, Debian
from tests.integration.namespaces import AS_USER, on_overlay
from tests.integration.points import later
from tests.integration.project import Project
from tests.integration.proxy import Proxy
from tests.integration.test_bases import oci_layout, tar_of

DAY = 86_400
NAME = "same"
SMALL: list[object] = [
    {"copy": {"tool": "/usr/local/bin/tool", "data": "/opt/data"}},
    {
        "run": "mkdir -p /var/log/apt /etc/ssh\n"
        "env > /root/.bash_history; echo $RANDOM > /var/log/apt/term.log\n"
        "echo $$ > /etc/ssh/ssh_host_rsa_key\n"
        "ln /opt/data/one /opt/data/two && ln -s one /opt/data/three\n"
        "for each in 3 1 2; do echo $each > /opt/data/$each; done; cp /bin/cat /opt/cat\n"
        "setcap cap_net_raw+ep /opt/cat && touch -d @1900000000 /opt/data/3",
    },
    {"run": "rm /opt/data/1 && mv /opt/data/2 /opt/data/4 && echo more >> /opt/data/3"},
]
PACKAGES: list[object] = [
    {"apt": ["file", "adduser", "python3-yaml"]},
    {"pip": ["humanize==4.12.0", "inflection==0.5.0"]},
    {"uv": {"venv": "/opt/two", "packages": ["cowsay==6.1", "humanize==4.12.0"]}},
    {"run": "useradd --create-home bert && python3 -c 'import http.server, humanize' && ldconfig"},
]


def umask(mask: str) -> list[str]:
    return ["sh", "-c", f'umask {mask}; exec "$@"', "sh"]


def files(project: Project) -> None:
    """The same files as a checkout may have them: other times, modes and order."""
    project.file("tool", b"#!/bin/sh\necho tool\n")
    (project.root / "manifests/tool").chmod(0o700)
    (project.root / "manifests/data").mkdir()
    for name in ("one", "zero"):
        project.file(f"data/{name}", name.encode())


def built(project: Project, layers: Sequence[object], within: Sequence[str] = (), **more: Any) -> Path:
    """Build it anew; the image."""
    env: Mapping[str, str] = more.pop("env", {})
    args: Sequence[str] = more.pop("args", ())
    project.manifest(NAME, layers, workdir="/opt/made/here", **more)
    return project.store.image(NAME, project.build(NAME, "--no-cache", *args, env=env, within=within).version)


def digest(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def assert_equal(one: Path, other: Path) -> None:
    """Whether two images have the same bytes; where not, first which paths differ in what."""
    if digest(one) != digest(other):
        trees.assert_same(one, other)
    assert digest(one) == digest(other)


@pytest.fixture
def first(tmp_path: Path, small_base: Path) -> Path:
    project = projects.make(tmp_path / "first", small_base)
    files(project)
    return built(project, SMALL)


@pytest.mark.parametrize(
    "within",
    [[], later(3 * DAY), umask("077"), umask("002"), [*AS_USER], [*AS_USER, *later(400 * DAY)]],
    ids=["again", "later", "closed", "group", "user", "user-later"],
)
def test_another_build_gives_the_same_bytes(
    first: Path, tmp_path: Path, small_base: Path, within: list[str]
) -> None:
    project = projects.make(tmp_path / "a longer name, elsewhere", small_base)
    files(project)
    assert_equal(first, built(project, SMALL, within))


def test_where_an_archive_lies_is_no_part_of_an_image(tmp_path: Path, small_tree: Path) -> None:
    images = []
    for name, within in (("one", []), ("two elsewhere", umask("077"))):
        project = projects.make(tmp_path / name, small_tree)
        oci_layout(project.root / "manifests/layout", (tar_of(small_tree),))
        images.append(built(project, [{"run": "true"}], within, base="oci:layout"))
    assert trees.content(images[0], "/etc/rc").startswith("# enroot-provenance: oci:layout\n")
    assert_equal(*images)


def test_one_tree_and_the_layer_store_give_the_same_files(
    first: Path, tmp_path: Path, small_base: Path
) -> None:
    project = projects.make(tmp_path / "flat", small_base)
    files(project)
    trees.assert_same(first, built(project, SMALL, on_overlay(project.cache)))


def test_a_layer_that_was_kept_gives_the_same_bytes(first: Path) -> None:
    project_root = first.parents[2]
    project = projects.Project(project_root, first, projects.environment(project_root, network=False))
    before = first.rename(project.root / "before.sqsh")
    record = project.build(NAME)
    assert all(layer.reused for layer in record.layers)
    assert_equal(before, project.store.image(NAME, record.version))


def test_packages_of_debian_and_python_give_the_same_bytes(debian: Debian, tmp_path: Path) -> None:
    images = []
    for name, within in (
        ("one", []),
        ("two elsewhere", [*umask("077"), *later(5 * DAY)]),
        ("three", [*AS_USER]),
    ):
        project = debian.beside(tmp_path / name)
        proxy = Proxy(USER, PASSWORD)
        with proxy.running():
            env = {"http_proxy": proxy.url, "https_proxy": proxy.url, "no_proxy": "127.0.0.1"}
            image = built(project, PACKAGES, within, base="image:deb", env={**env, "PIP_CONSTRAINT": ""})
        images.append(image)
    for other in images[1:]:
        assert_equal(images[0], other)


def test_a_debian_made_twice_gives_the_same_bytes(debian: Debian, tmp_path: Path) -> None:
    images = []
    for name in ("one", "two elsewhere"):
        project = projects.make(tmp_path / name, debian.image, network=True)
        images.append(built(project, [{"run": "ldconfig"}], base="debootstrap:bookworm"))
    assert_equal(*images)
