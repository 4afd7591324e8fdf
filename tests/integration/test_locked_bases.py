"""Locked bases: files, mirrors and tags that have changed since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import registry_fixture
from tests.integration import trees
from tests.integration.debian import Debian
from tests.integration.namespaces import NO_NETWORK
from tests.integration.project import Project
from tests.integration.test_bases import tar_of
from tests.integration.test_lock import CHANGING, newest


def test_a_base_that_is_another_file_now_is_refused(project: Project) -> None:
    shutil.copy(project.base, project.root / "manifests/own.sqsh")
    project.manifest("demo", [{"run": "true"}], base="sqsh:own.sqsh")
    project.run("lock", "demo").expect(0)
    project.build("demo", "--locked")
    with (project.root / "manifests/own.sqsh").open("ab") as stream:
        stream.write(b"\0" * 4096)
    for args in (("build", "demo"), ("lock", "demo", "--check")):
        project.run(*args).expect(14, "the base sqsh:own.sqsh is no longer what was locked")
    project.run("lock", "demo", "--update", "base").expect(0, "base sha256:")
    project.run("lock", "demo", "--check").expect(0)


def test_a_base_made_from_a_mirror_is_made_again_without_one(debian: Debian, tmp_path: Path) -> None:
    project = debian.beside(tmp_path / "project")
    project.manifest("demo", [{"apt": ["rolldice"]}], base="debootstrap:bookworm")
    project.run("lock", "demo").expect(0, "+ libc6 ", "+ rolldice ")
    again = project.cache / "v1/trees"
    [base] = again.glob("*/bases/*/tree")
    first = trees.state(base)
    again.rename(tmp_path / "before")
    project.run("fetch", "demo").expect(0)
    record = project.build("demo", "--locked", within=NO_NETWORK)
    assert record.base_digest in (project.root / "manifests/demo.lock").read_text()
    [base] = again.glob("*/bases/*/tree")
    second = trees.state(base)
    different = {
        path
        for path in {*first, *second}
        if first.get(path) != second.get(path) and not path.startswith(CHANGING)
    }
    assert different == set()


@pytest.mark.skipif(not registry_fixture.available(), reason="docker-registry is not installed")
def test_a_tag_that_has_moved_changes_no_locked_build(
    project: Project, small_tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "registry").mkdir()
    tree = tar_of(small_tree)
    with registry_fixture.start_registry(tmp_path / "registry") as registry:
        registry_fixture.push_image(registry, "base", "1.0", [tree])
        project.manifest("demo", [{"run": "[ -e /new ] || echo old"}], base=f"{registry.host}/base:1.0")
        project.run("lock", "demo").expect(0)
        new = registry_fixture.layer(registry_fixture.member("new", b"new\n"))
        registry_fixture.push_image(registry, "base", "1.0", [tree, new])
        project.run("lock", "demo", "--check").expect(0, "leads to sha256:", "--update base")
        project.run("fetch", "demo").expect(0)
    # Without the registry, and without the base's tree.
    shutil.rmtree(project.cache / "v1/trees", ignore_errors=True)
    project.build("demo", "--locked", within=NO_NETWORK)
    assert newest(project, "01-run.log") == "old\n"
    project.run("lock", "demo", "--check").expect(14, "demo.lock no longer holds: cannot reach")
