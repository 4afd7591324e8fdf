"""Machines and inputs that can't work: told at once, with the remedy, and nothing half done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import trees
from tests.integration.mirror import Mirror
from tests.integration.namespaces import NO_NAMESPACES, read_only, without
from tests.integration.project import Project


def test_machine_without_user_namespaces_is_told_the_remedy(project: Project) -> None:
    project.manifest("x", [{"run": "true"}])
    done = project.run("build", "x", within=NO_NAMESPACES)
    done.expect(4, "this machine can't build x yet", "user namespaces", "sysctl user.max_user_namespaces=")
    project.run("doctor", within=NO_NAMESPACES).expect(
        4, "user namespaces", "sysctl user.max_user_namespaces="
    )
    project.nothing_published()
    assert project.workspaces() == []


@pytest.mark.parametrize(
    ("tool", "package"),
    [("mksquashfs", "squashfs-tools"), ("unsquashfs", "squashfs-tools"), ("bwrap", "bubblewrap")],
)
def test_missing_tool_is_told_with_its_package(project: Project, tool: str, package: str) -> None:
    project.manifest("x", [{"run": "true"}])
    for command in (("build", "x"), ("doctor",)):
        project.run(*command, within=without(tool)).expect(4, f"apt-get install {package}")
    project.nothing_published()
    assert project.workspaces() == []


def test_all_that_is_missing_is_told_at_once(project: Project, mirror: Mirror) -> None:
    project.site("stuck", mirrors={"debian": mirror.url})
    project.manifest("x", base="debootstrap:stuck")
    done = project.run("build", "x", "--site", "stuck", within=without("mksquashfs", "mmdebstrap"))
    done.expect(4, "this machine can't build x yet", "install squashfs-tools", "install mmdebstrap")


def test_doctor_finds_this_machine_fit(project: Project) -> None:
    project.run("doctor").expect(0, "user namespaces", "squashfs-tools")
    [result] = project.run("doctor", "--json").expect(0).events()
    assert "missing" not in {check["state"] for check in result["checks"]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hsqs" + b"\0" * 20, "is not a squashfs file"),
        (b"PK" * 4096, "is not a squashfs file"),
    ],
    ids=["empty", "too-short", "not-squashfs"],
)
def test_base_that_is_no_squashfs_is_told_before_any_work(project: Project, data: bytes, words: str) -> None:
    project.file("bad.sqsh", data)
    project.manifest("x", base="sqsh:bad.sqsh")
    for command in ("plan", "build"):
        done = project.run(command, "x").expect(9, "bad.sqsh", words)
        assert "base sqsh" not in done.err
    project.nothing_published()


def test_truncated_base_is_told_with_its_sizes(project: Project) -> None:
    whole = project.base.read_bytes()
    project.file("cut.sqsh", whole[: len(whole) // 2])
    project.manifest("x", base="sqsh:cut.sqsh")
    project.run("build", "x").expect(9, "cut.sqsh is cut short", f"{len(whole) // 2:,} of ")
    project.nothing_published()


def test_base_damaged_in_the_middle_is_told_as_such(project: Project) -> None:
    data = bytearray(project.base.read_bytes())
    data[1000 : len(data) - 5000] = b"\xff" * (len(data) - 6000)
    project.file("hurt.sqsh", bytes(data))
    project.manifest("x", base="sqsh:hurt.sqsh")
    done = project.run("build", "x")
    assert done.code in (5, 7, 9)
    done.expect(done.code, "hurt.sqsh")
    assert project.workspaces() == []
    project.nothing_published()


def test_missing_base_file_is_told_with_its_place(project: Project) -> None:
    project.manifest("x", base="sqsh:none.sqsh")
    project.run("build", "x").expect(5, "manifests/none.sqsh does not exist")


def test_base_that_is_another_image_which_is_missing(project: Project) -> None:
    project.manifest("x", base="image:other")
    project.run("build", "x").expect(3, "there is no manifest of 'other', and the store has no such image")


def test_base_without_a_shell_is_the_runtimes_failure_not_the_layers(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    image = trees.pack(tmp_path / "tree", tmp_path / "shellless.sqsh")
    project.manifest("x", [{"run": "true"}], base=f"sqsh:{image}")
    project.run("build", "x").expect(7, "invoke doctor")
    project.nothing_published()


def test_unknown_image_names_the_nearest(project: Project) -> None:
    project.manifest("pytorch")
    project.run("build", "pytroch").expect(2, "there is no manifest 'pytroch'", "pytorch")
    project.run("build", "zz*").expect(2, "no manifest matches 'zz*'")
    project.run("build", "pytorch", "--site", "lcoal").expect(2, "there is no site 'lcoal'", "local")


def test_all_mistakes_of_a_manifest_are_told_at_once_with_their_places(project: Project) -> None:
    text = "format: 1\nname: y\nbase: debootstrap:bookworm\nenv: {A: no}\n"
    text += "layers:\n  - apt: ['a; rm -rf /']\n  - rnu: x\n"
    project.file("x.yaml", text.encode())
    done = project.run("build", "x")
    done.expect(3, "x.yaml:2:7", "x.yaml:4:10", "x.yaml:6:", "x.yaml:7:", "run", "^")
    assert not project.cache.exists() and not project.images.exists()


def test_unwritable_cache_is_told_before_any_work(project: Project) -> None:
    project.manifest("x", [{"run": "true"}])
    project.cache.mkdir()
    within = read_only(project.cache)
    project.run("build", "x", within=within).expect(4, f"{project.cache} can't be written", "--site")
    project.nothing_published()


def test_checkout_without_manifests_is_named(project: Project, tmp_path: Path) -> None:
    project.run("plan", "x", env={"KILN_ROOT": str(tmp_path)}).expect(
        2, f"{tmp_path} has no folder 'manifests'"
    )
