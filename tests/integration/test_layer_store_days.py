"""The layer store on bad days: killed, damaged, full, refused, at a wrong time, and used by two at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import trees
from tests.integration.layered import DIARY, Layered
from tests.integration.namespaces import on_overlay, on_tmpfs, read_only, staying
from tests.integration.points import await_held, full, held, killed, later
from tests.integration.processes import Family, traces

TWO = ("mkdir /data; echo 1 > /data/1", "rm -r /data; mkdir /data; echo 2 > /data/2")
# From the lock of a layer on: its mount, its run, its end, and every rename until it is in both tiers.
MAKING = r"locks/layer-"
POINTS = r"Popen|mkdir .*/(new-|\.new-)|rename .*(entries\.json|/new-|/layers/|/v1/)|rmtree .*stack/work"
PARTS = 3


@pytest.mark.parametrize("part", range(PARTS))
def test_a_kill_at_any_point_of_a_layer_leaves_the_next_build_right(
    layered: Layered, tmp_path: Path, part: int
) -> None:
    project = layered.project
    project.site("two", layers={"shared": str(tmp_path / "shared")})
    args = ("--site", "two")
    layered.manifest("x", TWO[:1])
    reference = layered.build("x", *args).rename(tmp_path / "reference.sqsh")
    points = 0
    for count in range(part + 1, 200, PARTS):
        layered.unpublish("x")
        for path in (*layered.trees("layer"), *(tmp_path / "shared/v1/layers").iterdir()):
            path.rename(tmp_path / f"old-{count}-{path.parents[1].name}")
        mark = tmp_path / f"point-{count}"
        done = project.run("build", "x", *args, within=killed(mark, count, POINTS, MAKING))
        if not mark.exists():
            assert done.code == 0
            break
        assert done.code == -signal.SIGKILL, (mark.read_text(), done.said)
        points += 1
        layered.say("x", *args)
        trees.assert_same(reference, layered.current("x"))
        assert (project.workspaces(), traces(project.root)) == ([], []), mark.read_text()
    assert points >= 4


def test_a_kill_while_a_layer_runs_has_it_run_again(layered: Layered) -> None:
    project = layered.project
    os.mkfifo(layered.diary / "gate")
    layered.manifest("x", (TWO[0], f"{TWO[1]}; echo ready; read -r _ < {DIARY}/gate"))
    running = project.start("build", "x", "--json")
    running.until('"line": "ready"')
    family = Family(running.pid)
    running.send(signal.SIGKILL)
    running.end()
    family.assert_ended()
    layered.manifest("x", TWO)
    layered.say("x")
    assert layered.ran() == ["1", "2"]
    layered.assert_right("x")


def missing(tree: Path) -> None:
    next(path for path in sorted(tree.rglob("*")) if path.is_file()).unlink()


def changed(tree: Path) -> None:
    """The same size and time as before: only the change's own time tells."""
    path = next(path for path in sorted(tree.rglob("*")) if path.is_file() and path.stat().st_size)
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def added(tree: Path) -> None:
    (tree / "added").touch()


@pytest.mark.parametrize("damage", [missing, changed, added])
def test_a_damaged_entry_is_noticed_dropped_and_made_anew(
    layered: Layered, damage: Callable[[Path], None]
) -> None:
    layered.manifest("x", TWO)
    reference = layered.build("x").rename(layered.project.root / "reference.sqsh")
    for kind, place, again in (("layer", 0, ["1", "2"]), ("layer", 1, ["2"]), ("base", 0, [])):
        layered.unpublish("x")
        layered.ran()
        damage(layered.trees(kind)[place] / "tree")
        done = layered.say("x")
        assert "it is dropped, and made anew" in done.err, kind
        assert (kind, layered.ran()) == (kind, again)
        trees.assert_same(reference, layered.current("x"))


def test_an_overlay_that_is_refused_is_said_and_builds_work(layered: Layered) -> None:
    project = layered.project
    layered.manifest("x", TWO)
    with staying(on_overlay(project.cache), project.root) as machine:
        why = f"an overlay on the file system of {project.cache}"
        # What else the doctor finds is this machine's matter.
        for command in (("plan", "x"), ("doctor",)):
            assert why in project.run(*command, within=machine.within).said
        for _ in range(2):
            layered.say("x", "--no-cache", within=machine.within)
            assert layered.ran() == ["1", "2"]
        project.run("shell", "x", "--layer", "1", within=machine.within).expect(2, "layers aren't kept here")
    refused = layered.current("x")
    trees.assert_same(refused, layered.build("x", "--no-cache"))


def test_a_cache_in_memory_keeps_layers(layered: Layered, tmp_path: Path) -> None:
    project = layered.project
    layered.manifest("x", TWO)
    with staying(on_tmpfs("size=4g", project.cache, tmp_path / "left"), project.root) as machine:
        layered.say("x", within=machine.within)
        layered.manifest("x", (*TWO, "echo 3 > /data/3"))
        layered.say("x", within=machine.within)
        assert layered.ran() == ["1", "2", "3"]
    layered.assert_right("x")


def test_a_disk_that_is_full_in_a_layer_leaves_the_layers_before(layered: Layered, tmp_path: Path) -> None:
    project, fills = layered.project, "head -c 3000000000 /dev/zero > /data/2"
    layered.manifest("x", (TWO[0], f"{TWO[1]}; {fills}"))
    with staying(on_tmpfs("size=2g", project.cache, tmp_path / "left"), project.root) as machine:
        done = project.run("build", "x", within=machine.within)
        done.expect(8, "layer 2", "filled the disk")
        assert layered.ran() == ["1"]
        assert list(machine.view(project.work).iterdir()) == []
        layered.manifest("x", TWO)
        layered.say("x", within=machine.within)
        assert layered.ran() == ["2"]
    layered.assert_right("x")


def test_trees_that_can_not_be_written_are_said_and_builds_work(layered: Layered) -> None:
    project = layered.project
    layered.manifest("x", TWO)
    layered.say("x")
    assert layered.ran() == ["1", "2"]
    within = read_only(project.cache / "v1/trees")
    project.run("plan", "x", within=within).expect(0, "can't be written")
    layered.say("x", "--no-cache", within=within)
    assert layered.ran() == ["1", "2"]
    layered.assert_right("x")


FILLED = r"mkdir .*stack/new-|rename .*(/new-|/layers/)"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_disk_that_is_full_when_a_layer_is_committed(layered: Layered, tmp_path: Path, count: int) -> None:
    project = layered.project
    layered.manifest("x", TWO)
    with staying(on_tmpfs("size=2g", project.cache, tmp_path / "left"), project.root) as machine:
        filler = project.cache / "filler"
        within = [*machine.within, *full(filler, count, FILLED, MAKING)]
        done = project.run("build", "x", within=within)
        assert machine.view(filler).exists(), "it came to its end before the point"
        done.expect(8, "no space left")
        machine.view(filler).unlink()
        layered.say("x", within=machine.within)
    layered.assert_right("x")


def test_a_clock_that_jumps_makes_no_build_wrong(layered: Layered) -> None:
    """Layers of the future are taken; one that is old runs again where it doesn't name exact versions."""
    year = 365 * 86_400.0
    layered.project.site("stale", layers={"stale_after": "7d"})
    layered.manifest("x", TWO)
    layered.say("x", "--site", "stale", within=later(year))
    layered.unpublish("x")
    done = layered.say("x", "--site", "stale")
    assert "reused, made 0 s ago" in done.err
    layered.unpublish("x")
    layered.say("x", "--site", "stale", within=later(2 * year))
    assert layered.ran() == ["1", "2"]
    layered.assert_right("x")


APT = f"#!/bin/sh\ncase $* in *install*) echo apt >> {DIARY}/ran; echo installed > /root/apt;; esac\n"


def test_an_old_layer_runs_again_unless_it_names_exact_versions(layered: Layered) -> None:
    """The image's apt-get is one that notes its calls: what counts here is when it is called."""
    project = layered.project
    project.file("apt-get", APT.encode())
    # Here is no sed, with which packages are kept.
    (project.cache / "v1").mkdir(parents=True)
    (project.cache / "v1/packages").touch()
    project.site("stale", layers={"stale_after": "7d"})
    args = ("--site", "stale")
    tool = {"copy": {"from": "apt-get", "to": "/bin/apt-get", "mode": "0755"}}
    layered.manifest("loose", (tool, {"apt": ["git"]}, "cat /root/apt"))
    layered.manifest("exact", (tool, {"apt": ["git=1"]}, "cat /root/apt"))
    for name in ("loose", "exact"):
        layered.say(name, *args)
    layered.ran()
    for days, ran in ((6, []), (8, ["apt", "3"])):
        for name in ("loose", "exact"):
            clock = later(days * 86_400.0)
            done = project.run("build", name, *args, within=clock).expect(0)
            wanted = ran if name == "loose" else []
            assert (name, days, layered.ran()) == (name, days, wanted)
            assert ("doesn't name exact versions" in done.err) == bool(wanted)


def test_two_builds_that_need_one_layer_make_it_once(layered: Layered) -> None:
    project = layered.project
    os.mkfifo(layered.diary / "gate")
    same = f"echo same > /root/same; echo ready; read -r _ < {DIARY}/gate"
    for name in ("a", "b"):
        layered.manifest(name, (same, f"echo {name} > /root/{name}"))
    first = project.start("build", "a", "--json")
    first.until('"line": "ready"')
    second = project.start("build", "b")
    second.until("another build makes this layer; waiting for")
    (layered.diary / "gate").write_text("go\n")
    first.end().expect(0)
    second.end().expect(0, "reused, made")
    assert sorted(layered.ran()) == ["1", "2", "2"]


def test_one_of_two_is_killed_and_the_other_makes_the_layer(layered: Layered) -> None:
    project = layered.project
    os.mkfifo(layered.diary / "gate")
    same = f"echo same > /root/same; echo ready; read -r _ < {DIARY}/gate"
    for name in ("a", "b"):
        layered.manifest(name, (same, f"echo {name} > /root/{name}"))
    first = project.start("build", "a", "--json")
    first.until('"line": "ready"')
    second = project.start("build", "b", "--json")
    second.until("another build makes this layer")
    family = Family(first.pid)
    first.send(signal.SIGKILL)
    first.end()
    family.assert_ended()
    second.until('"line": "ready"')
    (layered.diary / "gate").write_text("go\n")
    second.end().expect(0)
    assert layered.ran() == ["1", "2"]


def test_two_builds_that_need_one_base_make_it_once(layered: Layered, tmp_path: Path) -> None:
    project = layered.project
    for name in ("a", "b"):
        layered.manifest(name, (f"echo {name} > /root/{name}",))
    first = project.start("build", "a", within=held(tmp_path / "point", r"Popen .*unsquashfs.*containers"))
    await_held(first.pid)
    second = project.start("build", "b")
    second.until("another build makes this base; waiting for")
    first.send(signal.SIGCONT)
    first.end().expect(0)
    second.end().expect(0, "reused, made")
    assert len(layered.trees("base")) == 1


def test_builds_of_different_images_run_side_by_side(layered: Layered) -> None:
    """Each waits for the other: one after the other would never end."""
    project = layered.project
    layered.manifest("base", ("true",))
    layered.say("base")
    for name in ("ab", "ba"):
        os.mkfifo(layered.diary / name)
    layered.manifest("a", (f"echo x > {DIARY}/ab; read -r _ < {DIARY}/ba",))
    layered.manifest("b", (f"read -r _ < {DIARY}/ab; echo x > {DIARY}/ba",))
    running = [project.start("build", name) for name in ("a", "b")]
    for each in running:
        each.end().expect(0)


def test_a_layer_made_anew_elsewhere_stays_what_it_was_for_a_build_that_has_it(layered: Layered) -> None:
    project = layered.project
    os.mkfifo(layered.diary / "gate")
    first = "echo $$ > /root/first"
    waits = f"echo ready; read -r _ < {DIARY}/gate; cp /root/first /root/second"
    layered.manifest("a", (first, waits, "[[ $(< /root/first) == $(< /root/second) ]]"))
    layered.manifest("b", (first,))
    running = project.start("build", "a", "--json")
    running.until('"line": "ready"')
    layered.say("b", "--no-cache")
    (layered.diary / "gate").write_text("go\n")
    running.end().expect(0)
    assert layered.ran() == ["1", "1", "2", "3"]
    assert list((project.cache / "v1/trees").glob("*/trash/*")) != []
    project.run("gc").expect(0)
    assert list((project.cache / "v1/trees").glob("*/trash/*")) == []


def test_sixty_layers_in_one_image(layered: Layered) -> None:
    work = "mkdir -p /data; echo {0} > /data/{0}; rm -f /data/{1}"
    scripts = [work.format(number, number - 2) for number in range(60)]
    layered.manifest("x", scripts)
    layered.say("x")
    assert len(layered.ran()) == 60
    layered.manifest("x", (*scripts[:-1], "ls /data > /data/list"))
    layered.say("x")
    assert layered.ran() == ["60"]
    built = layered.current("x")
    assert {path for path in trees.listing(built) if path.startswith("/data/")} == {
        f"/data/{name}" for name in ("57", "58", "list")
    }
    assert trees.content(built, "/data/list") == "57\n58\nlist\n"
    trees.assert_same(built, layered.build("x", "--no-cache"))


def test_a_name_of_a_hard_link_that_is_changed_in_place_leaves_the_other_as_it_was(layered: Layered) -> None:
    """As an overlay has it, with the store; without, both names are one file."""
    layered.manifest("x", ("echo 1 > /root/a; ln /root/a /root/b", "echo 2 >> /root/a"))
    kept = layered.build("x")
    assert [trees.content(kept, f"/root/{name}") for name in "ab"] == ["1\n2\n", "1\n"]
    trees.assert_same(kept, layered.build("x", "--no-cache"))
    plain = layered.plain("x")
    assert [trees.content(plain, f"/root/{name}") for name in "ab"] == ["1\n2\n"] * 2
