"""The layer store in builds: what is reused, what runs and why, on one node and on two."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration import trees
from tests.integration.namespaces import on_overlay, read_only
from tests.integration.project import Done, Project


def counting(project: Project, *names: str, base: str = "") -> Path:
    """An image `x` with a layer for each of `names` that says when it runs; returns where it says so."""
    said = project.root / "said"
    said.mkdir(exist_ok=True)
    layers = [{"run": f"echo {name} >> /mnt/said/all; echo {name} > /root/{name}"} for name in names]
    project.manifest("x", layers, base=base, mounts=[f"{said}:/mnt/said:rw"])
    return said / "all"


def ran(said: Path) -> list[str]:
    """The layers that ran since the last time."""
    names = said.read_text().split() if said.exists() else []
    said.unlink(missing_ok=True)
    return names


def reasons(project: Project, *args: str, **more: Any) -> list[str]:
    """What `plan` says of the base and each layer."""
    [result] = project.run("plan", "x", "--json", *args, **more).expect(0).events("result")
    return [each["reason"] for each in (result["base"], *result["layers"])]


def entries(place: Path) -> dict[str, Path]:
    """The entries below a folder, by their titles."""
    found = list(place.rglob("entry.json"))
    return {json.loads(path.read_text())["title"]: path.parent for path in found}


def same_as_without(project: Project, place: Path) -> None:
    """What is published last is what a build without anything kept gives."""
    project.build("x", "--no-cache")
    *_, before, last = project.store.versions("x")
    kept, anew = (
        trees.whole(project.store.image("x", version), place / version) for version in (before, last)
    )
    assert kept == anew


def test_nothing_changed_is_said_and_nothing_is_done(project: Project) -> None:
    said = counting(project, "a")
    project.build("x")
    assert ran(said) == ["a"]
    project.run("build", "x").expect(0, "x small-r1 is up to date", "--no-cache")
    [result] = project.run("build", "x", "--json").expect(0).events("result")
    assert (result["up_to_date"], result["version"]) == (True, "small-r1")
    assert ran(said) == [] and project.store.versions("x") == ["small-r1"]
    project.store.image("x", "small-r1").unlink()
    assert project.build("x").version == "small-r1"
    assert ran(said) == []


def test_only_what_changed_and_what_lies_above_runs(project: Project, tmp_path: Path) -> None:
    said = counting(project, "a", "b", "c")
    assert reasons(project) == ["not in the store"] * 4
    project.build("x")
    assert ran(said) == ["a", "b", "c"]
    counting(project, "a", "b", "d")
    *kept, last = reasons(project)
    assert all(reason.startswith("made ") for reason in kept) and last == "changed: script"
    record = project.build("x")
    assert ran(said) == ["d"]
    assert [layer.reused for layer in record.layers] == [True, True, False]
    counting(project, "z", "b", "d")
    assert reasons(project)[1:] == ["changed: script", *["layer 1 below it is made anew"] * 2]
    project.build("x")
    assert ran(said) == ["z", "b", "d"]
    same_as_without(project, tmp_path)


def test_a_file_and_a_variable_are_named_as_what_changed(project: Project) -> None:
    name = project.file("greeting", b"hello")
    layers = [{"copy": {name: "/root/greeting"}}]
    project.manifest("x", layers)
    project.build("x")
    project.file("greeting", b"world")
    assert reasons(project)[1] == "changed: files greeting"
    project.manifest("x", layers, env={"WHO": "me"})
    assert reasons(project)[1] == "changed: files greeting, env WHO"
    project.build("x")
    assert trees.content(project.store.image("x", "small-r2"), "root/greeting") == "world"


def test_layers_are_made_anew_on_demand(project: Project) -> None:
    said = counting(project, "a", "b", "c")
    project.build("x")
    ran(said)
    project.build("x", "--from", "2")
    assert ran(said) == ["b", "c"]
    project.build("x", "--no-cache")
    assert ran(said) == ["a", "b", "c"]
    project.run("build", "x", "--from", "4").expect(2, "x has no layer 4", "it has 3")


def test_a_build_goes_on_at_the_layer_that_failed(project: Project) -> None:
    said = counting(project, "a", "b")
    path = project.root / "manifests/x.yaml"
    good = path.read_text()
    path.write_text(good.replace("echo b >>", "exit 3; echo b >>"))
    project.run("build", "x").expect(6, "layer 2")
    path.write_text(good)
    project.build("x")
    assert ran(said) == ["a", "b"]


def test_a_shell_opens_at_any_layer_and_nothing_stays(project: Project) -> None:
    counting(project, "a", "b")
    project.run("shell", "x", "--layer", "1").expect(2, "not in the layer store", "invoke build x")
    project.build("x")
    for layer, there in (("0", ""), ("1", "a"), ("2", "a\nb")):
        done = project.run("shell", "x", "--layer", layer, stdin="ls /root; touch /root/mine\n").expect(0)
        assert done.out.strip() == there
    project.run("shell", "x", "--layer", "3").expect(2, "has no layer 3")
    project.run("shell", "x", "--layer", "two").expect(2, "not the number of a layer")
    assert project.workspaces() == []


def test_a_kept_build_is_opened_again_until_gc_takes_all_of_it(project: Project) -> None:
    said = counting(project, "a", "b")
    path = project.root / "manifests/x.yaml"
    path.write_text(path.read_text().replace("echo b >>", "touch /root/half; exit 3; echo b >>"))
    project.run("build", "x", "--keep").expect(6)
    for lease in project.cache.rglob("lease"):
        os.utime(lease, (0, 0))
    # With the kept build goes what it alone stood on; a dry run only says so.
    project.run("gc", "--dry-run").expect(0, "build   x-", "layer", "unused for")
    project.run("shell", "x", stdin="ls /root\n").expect(0, "a\nhalf\n")
    assert ran(said) == ["a"]
    for lease in project.cache.rglob("lease"):
        os.utime(lease, (0, 0))
    project.run("gc").expect(0, "build   x-", "unused for")
    assert entries(project.cache / "v1/trees") == {} and project.workspaces() == []


@pytest.mark.parametrize("what", ["overlay", "read-only trees"])
def test_without_overlays_every_layer_runs_and_the_image_is_the_same(
    project: Project, tmp_path: Path, what: str
) -> None:
    said = counting(project, "a", "b")
    project.build("x")
    ran(said)
    trees_folder = project.root / "scratch"
    trees_folder.mkdir()
    project.site("odd", scratch=str(trees_folder))
    if what == "overlay":
        within, why = on_overlay(trees_folder), "is refused"
    else:
        (trees_folder / "trees").mkdir()
        within, why = read_only(trees_folder / "trees"), "can't be written"
    assert all(why in reason for reason in reasons(project, "--site", "odd", within=within))
    project.run("plan", "x", "--site", "odd", within=within).expect(0, "layers kept  no: ", why)
    assert why in project.run("doctor", "--site", "odd", within=within).out
    project.run("build", "x", "--no-cache", "--site", "odd", within=within).expect(0)
    assert ran(said) == ["a", "b"]
    first, second = (
        trees.whole(project.store.image("x", version), tmp_path / version)
        for version in ("small-r1", "small-r2")
    )
    assert first == second


def node(project: Project, name: str, **layers: Any) -> Any:
    """A node with a disk of its own, as options for a run."""
    shared = project.root / "shared"
    shared.mkdir(exist_ok=True)
    project.site(name, scratch=str(project.root / name), layers={"shared": str(shared), **layers})
    return ("--site", name)


def built(project: Project, *args: str, **more: Any) -> Done:
    return project.run("build", "x", "--images", str(project.root / "other"), *args, **more).expect(0)


def test_another_node_takes_up_what_one_has_made(project: Project, tmp_path: Path) -> None:
    said = counting(project, "a", "b")
    project.build("x", *node(project, "one"))
    assert ran(said) == ["a", "b"]
    two = node(project, "two")
    assert all("in the shared tier" in reason for reason in reasons(project, "--no-cache", *two)[:1])
    built(project, *two).expect(0, "unpacking it from the shared tier")
    assert ran(said) == []
    one, other = project.store.image("x", "small-r1"), project.root / "other/x/x-small-r1.sqsh"
    assert trees.whole(one, tmp_path / "one") == trees.whole(other, tmp_path / "two")


def test_a_reader_of_the_shared_tier_puts_nothing_there(project: Project) -> None:
    said = counting(project, "a")
    project.build("x", *node(project, "one"))
    ran(said)
    counting(project, "a", "b")
    shared = project.root / "shared"
    before = sorted(shared.rglob("*"))
    within = read_only(shared)
    built(project, *node(project, "two"), within=within)
    assert ran(said) == ["b"]
    assert sorted(shared.rglob("*")) == before
    assert "read only" in project.run("doctor", "--site", "two", within=within).out


@pytest.mark.parametrize("harm", ["bytes", "moved", "writable", "owner", "newer"])
def test_what_is_wrong_in_the_shared_tier_is_not_taken(project: Project, harm: str) -> None:
    said = counting(project, "a", "b")
    project.build("x", *node(project, "one"))
    ran(said)
    shared = project.root / "shared/v1"
    layers = {title: path for title, path in entries(shared).items() if "echo" in title}
    first, second = (layers[title] for title in sorted(layers))
    two = node(project, "two")
    if harm == "bytes":
        packed = first / "tree.sqsh"
        packed.chmod(0o644)
        data = packed.read_bytes()
        packed.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        why = "its bytes have the digest"
    elif harm == "moved":
        shutil.rmtree(first)
        second.rename(first)
        why = "another entry"
    elif harm == "writable":
        first.chmod(0o777)
        why = "can be written by others"
    elif harm == "owner":
        if os.getuid():
            pytest.skip("only root can give files away")
        os.chown(first / "tree.sqsh", 1234, 1234)
        why = "uid 1234"
    else:
        (shared / "format").write_text("2\n")
        built_not = project.run("build", "x", "--no-cache", *two)
        built_not.expect(11, "has format '2'", "update this Kiln")
        return
    if harm != "bytes":
        assert why in reasons(project, *two)[1]
    done = built(project, *two)
    assert ran(said)[0] == "a"
    if harm == "bytes":
        assert why in done.err
    if harm == "owner":
        shutil.rmtree(project.root / "other")
        built(project, *node(project, "three", trusted=["1234"]))
        assert ran(said) == []
