"""What a rebuild costs: what is reused, what runs again and why, and where a failed build starts anew."""

from __future__ import annotations

import os

import pytest

from tests.integration import trees
from tests.integration.layered import Layered
from tests.integration.project import Done, Project

THREE = ("mkdir /data; echo 1 > /data/1", "echo 2 > /data/2", "echo 3 > /data/3")


@pytest.fixture
def built(layered: Layered) -> Layered:
    """With the image `x` of three layers, built once."""
    layered.manifest("x", THREE)
    layered.say("x")
    assert layered.ran() == ["1", "2", "3"]
    return layered


def reused(done: Done) -> list[bool]:
    """For the base and each layer of a plan: whether it is taken from the store."""
    [plan] = done.expect(0).events("result")
    return [plan["base"]["reused"], *(layer["reused"] for layer in plan["layers"])]


def reasons(done: Done) -> list[str]:
    [plan] = done.expect(0).events("result")
    return [plan["base"]["reason"], *(layer["reason"] for layer in plan["layers"])]


def test_nothing_changed_is_said_and_nothing_is_done(built: Layered) -> None:
    before = built.project.published()
    done = built.project.run("build", "x").expect(0, "x small-r1 is up to date", "invoke build x --no-cache")
    assert "layer 1/3" not in done.err
    [result] = built.project.run("build", "x", "--json").expect(0).events("result")
    assert (result["up_to_date"], result["version"], result["logs"]) == (True, "small-r1", None)
    assert (built.ran(), built.project.published()) == ([], before)


def test_only_what_changed_runs_on_both_runtimes(
    layered: Layered, runtime: tuple[str, dict[str, str]]
) -> None:
    name, env = runtime
    for number, last in enumerate(("echo 3 > /data/3", "rm /data/1; echo 4 > /data/3")):
        layered.manifest("x", (*THREE[:2], last))
        done = layered.say("x", "--runtime", name, env=env)
        assert layered.ran() == (["3"] if number else ["1", "2", "3"])
    assert done.err.count("reused, made") == 3
    assert "changed: script" in done.err
    version = layered.project.store.versions("x")[-1]
    assert [layer.reused for layer in layered.project.record("x", version).layers] == [True, True, False]
    trees.assert_same(layered.current("x"), layered.build("x", "--no-cache", "--runtime", name, env=env))


def test_a_first_layer_that_changed_makes_all_above_it_anew(built: Layered) -> None:
    built.manifest("x", ("mkdir /data; echo other > /data/1", *THREE[1:]))
    plan = built.project.run("plan", "x", "--json")
    assert reused(plan) == [True, False, False, False]
    assert reasons(plan)[1:] == ["changed: script", *["layer 1 below it is made anew"] * 2]
    built.say("x")
    assert built.ran() == ["1", "2", "3"]
    built.assert_right("x")
    # The way back costs nothing but the packing: nothing is lost by a try.
    built.manifest("x", THREE)
    built.say("x")
    assert built.ran() == []


def test_a_changed_order_and_a_shared_beginning(built: Layered) -> None:
    built.manifest("x", (THREE[0], THREE[2], THREE[1]))
    built.say("x")
    assert built.ran() == ["2", "3"]
    built.manifest("y", THREE[:2], env={})
    built.say("y")
    assert built.ran() == []


def test_a_changed_base_makes_everything_anew(built: Layered) -> None:
    project = built.project
    tree = trees.unpack(project.base, project.root / "other")
    (tree / "etc/other").touch()
    image = trees.pack(tree, project.root / "manifests/small.sqsh")
    built.manifest("x", THREE, base=f"sqsh:{image}")
    plan = project.run("plan", "x", "--json")
    assert reused(plan) == [False] * 4
    assert reasons(plan) == ["changed: base", *["the base below it is made anew"] * 3]
    built.say("x")
    assert built.ran() == ["1", "2", "3"]
    assert "/etc/other" in trees.listing(built.current("x"))


def test_no_cache_and_from_run_what_they_say(built: Layered) -> None:
    for args, number in ((("--no-cache",), 1), (("--from", "2"), 2)):
        said = reasons(built.project.run("plan", "x", "--json", *args))
        assert said[number:] == [" ".join(args)] * (4 - number)
        done = built.say("x", *args)
        assert built.ran() == ["1", "2", "3"][number - 1 :]
        assert " ".join(args) in done.err
    built.project.run("build", "x", "--from", "4").expect(2, "x has no layer 4", "it has 3")
    # What was made anew is what is taken from then on.
    built.project.run("build", "x").expect(0, "small-r3 is up to date")


def test_plan_says_which_input_changed(layered: Layered) -> None:
    project = layered.project
    project.file("part", b"1")
    project.file("pins.txt", b"a==1\n")
    before = [{"copy": {"part": "/part"}}, {"apt": ["git", "curl"]}, {"uv": {"requirements": ["pins.txt"]}}]
    project.manifest("x", before, env={"A": "1", "B": "2"})
    project.run("build", "x").expect(6, "no apt-get")
    for layers, env, wanted in (
        (before, {"A": "1", "B": "3"}, "changed: env B"),
        ([before[0], {"apt": ["git", "wget"]}], {"A": "1", "B": "2"}, "changed: packages +wget -curl"),
        ([before[0], {"apt": ["curl", "git"]}], {"A": "1", "B": "2"}, "changed: the order of packages"),
        ([{"copy": {"part": "/other"}}], {"A": "1", "B": "2"}, "changed: items"),
    ):
        project.manifest("x", layers, env=env)
        assert wanted in reasons(project.run("plan", "x", "--json"))
    project.manifest("x", before, env={"A": "1", "B": "2"})
    project.file("part", b"2")
    project.file("pins.txt", b"a==2\n")
    said = reasons(project.run("plan", "x", "--json"))
    assert said[1] == "changed: files part"
    assert said[3] == "changed: files pins.txt"
    project.run("plan", "x").expect(0, "reused", "runs", "changed: files part")


def test_changed_hooks_test_the_image_again_and_run_no_layer(layered: Layered) -> None:
    project = layered.project
    project.hook("fine", "exit 0")
    layered.manifest("x", THREE[:1], smoke=["fine"])
    layered.say("x")
    project.run("build", "x").expect(0, "up to date")
    project.hook("fine", "echo again; exit 0")
    layered.say("x")
    assert layered.ran() == ["1"]
    assert project.store.versions("x") == ["small-r1", "small-r2"]
    project.hook("fine", "exit 1")
    project.run("build", "x").expect(10, "smoke hook fine")
    assert layered.ran() == []


def test_a_published_file_that_is_gone_or_cut_is_made_again(built: Layered) -> None:
    project, first = built.project, built.current("x")
    whole = first.read_bytes()
    first.unlink()
    built.say("x")
    assert built.current("x").read_bytes() == whole
    second = built.current("x")
    second.chmod(0o644)
    second.write_bytes(whole[:-4096])
    built.say("x")
    assert built.current("x").read_bytes() == whole
    assert built.ran() == []
    assert project.store.channels("x")["current"] != second.stem.removeprefix("x-")


def test_a_build_that_failed_at_its_fifth_layer_starts_there(layered: Layered) -> None:
    four = [f"echo {number} > /root/{number}" for number in range(1, 5)]
    layered.manifest("x", (*four, "exit 3", "true"))
    layered.project.run("build", "x").expect(6, "layer 5 (run exit 3")
    assert layered.ran() == ["1", "2", "3", "4"]
    layered.manifest("x", (*four, "cat /root/4", "true"))
    plan = layered.project.run("plan", "x", "--json")
    assert reused(plan) == [True] * 5 + [False] * 2
    layered.say("x")
    assert layered.ran() == ["5", "6"]
    trees.assert_same(layered.current("x"), layered.build("x", "--no-cache"))


def test_shell_opens_at_any_layer_and_leaves_it_as_it_was(
    layered: Layered, runtime: tuple[str, dict[str, str]]
) -> None:
    name, env = runtime
    args, project = ("--runtime", name), layered.project
    layered.manifest("x", THREE)
    layered.say("x", *args, env=env)
    look = "ls -m /data || echo none; touch /data/mine; rm -rf /data; exit 7\n"
    for number, seen in enumerate(("none", "1", "1, 2", "1, 2, 3")):
        done = project.run("shell", "x", "--layer", str(number), *args, env=env, stdin=look)
        done.expect(7, f"{seen}\n", f"at layer {number}; nothing done here stays")
    project.run("shell", "x", "--layer", "4", *args, env=env).expect(2, "x has no layer 4")
    project.run("shell", "x", "--layer", "one", *args, env=env).expect(2, "'one' is not the number")
    layered.manifest("x", (*THREE[:2], "echo new > /data/3"))
    missing = project.run("shell", "x", "--layer", "3", *args, env=env)
    missing.expect(2, "not in the layer store as it is now", "invoke build x")
    assert project.workspaces() == []
    layered.ran()
    layered.say("x", *args, env=env)
    assert layered.ran() == ["3"]


def test_a_kept_build_is_entered_where_it_stopped_on_both_runtimes(
    layered: Layered, runtime: tuple[str, dict[str, str]]
) -> None:
    name, env = runtime
    args, project = ("--runtime", name), layered.project
    layered.manifest("x", (*THREE[:2], "rm /data/1; echo half > /data/3; exit 3"))
    project.run("build", "x", "--keep", *args, env=env).expect(6, "invoke shell x")
    for words in ("cat /data/3; echo whole > /data/3; rm /data/2", "cat /data/3"):
        done = project.run("shell", "x", *args, env=env, stdin=f"{words}; ls -m /data; exit 7\n")
        done.expect(7, "at layer 3")
    assert "whole\n3\n" in done.out
    # What is done in it is in no layer.
    layered.manifest("x", THREE)
    layered.ran()
    layered.say("x", *args, env=env)
    assert layered.ran() == ["3"]
    trees.assert_same(layered.current("x"), layered.build("x", "--no-cache", *args, env=env))


def age_of_store(project: Project, days: float) -> None:
    """Have everything in the local tier be last used so long ago."""
    for lease in project.cache.glob("v1/trees/*/*s/*/lease"):
        moment = lease.stat().st_mtime - days * 86_400
        os.utime(lease, (moment, moment))


def collected(project: Project, *args: str) -> tuple[list[str], list[str]]:
    """The workspaces and the titles of the things that went, or would go."""
    [result] = project.run("gc", "--json", *args).expect(0).events("result")
    return result["workspaces"], sorted(thing["title"].split(" > ")[0] for thing in result["things"])


def test_gc_removes_what_is_old_and_never_what_a_running_build_holds(layered: Layered) -> None:
    project = layered.project
    layered.manifest("kept", ("echo kept > /root/kept", "exit 3"))
    project.run("build", "kept", "--keep").expect(6)
    layered.manifest("idle", ("echo idle > /root/idle",))
    layered.say("idle")
    os.mkfifo(layered.diary / "gate")
    waits = "echo ready; read -r _ < /mnt/diary/gate; cat /root/runs"
    layered.manifest("runs", ("echo runs > /root/runs", waits))
    running = project.start("build", "runs", "--json")
    running.until('"line": "ready"')
    age_of_store(project, 60)
    kept = [name for name in project.workspaces() if name.startswith("kept")]
    would = collected(project, "--dry-run")
    # The base is in use, and so is the lower layer of what runs; a kept build goes with what it held.
    assert would == (kept, ["run echo idle", "run echo kept"])
    assert len(layered.trees("layer")) == 3
    assert collected(project) == would
    assert (len(layered.trees("base")), len(layered.trees("layer"))) == (1, 1)
    (layered.diary / "gate").write_text("go\n")
    running.end().expect(0)
    layered.ran()
    project.run("build", "idle").expect(0, "up to date")
    project.build("idle", "--from", "1")
    assert layered.ran() == ["1"]


def test_gc_of_one_image_leaves_the_kept_build_of_another_whole(layered: Layered) -> None:
    project = layered.project
    for name in ("a", "b"):
        layered.manifest(name, (f"echo {name} > /root/{name}", "exit 3"))
        project.run("build", name, "--keep").expect(6)
    age_of_store(project, 60)
    project.run("gc", "--name", "b").expect(0)
    project.run("shell", "a", stdin="cat /root/a; exit 7\n").expect(7, "a\n", "at layer 2")
    # Nothing is mounted on another tree than the one on which it was kept.
    [lower] = layered.trees("layer")[:1]
    (lower / "tree/root/a").write_text("changed\n")
    project.run("shell", "a", stdin="true\n").expect(11, "not as they were made")
