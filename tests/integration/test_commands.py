"""plan, list, show and JSON output: for people, for programs, and for those who may only read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.namespaces import AS_USER
from tests.integration.project import Project, tree_state


@pytest.fixture
def stocked(project: Project) -> Project:
    project.manifest(
        "x", [{"run": "touch /root/mine"}], description="An image for tests", smoke=[{"commands": ["ls /"]}]
    )
    project.build("x")
    return project


def only_readable(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir():
            path.chmod(0o555)
    root.chmod(0o555)


def test_plan_touches_nothing(stocked: Project) -> None:
    before = tree_state(stocked.root)
    stocked.run("plan", "x").expect(0, "x  small-r2", "run touch /root/mine", "nothing was changed")
    done = stocked.run("plan", "x", "--json").expect(0)
    after = tree_state(stocked.root)
    # An overlay is tried there, in a folder that is gone by then.
    assert before.pop("cache/v1/trees")[:2] == after.pop("cache/v1/trees")[:2]
    assert after == before
    [result] = done.events("result")
    assert (result["name"], result["version"]) == ("x", "small-r2")
    assert result["target"] == str(stocked.images / "x/x-small-r2.sqsh")
    assert [layer["kind"] for layer in result["layers"]] == ["run"]


def test_plan_makes_no_folder_on_a_fresh_machine(project: Project) -> None:
    project.manifest("x", [{"run": "true"}])
    before = tree_state(project.root)
    project.run("plan", "x").expect(0, "x  small-r1")
    assert tree_state(project.root) == before
    assert not project.images.exists() and not project.cache.exists()


def test_second_build_gets_the_next_number_and_the_first_stays(stocked: Project) -> None:
    first = stocked.store.image("x", "small-r1").stat()
    assert stocked.build("x", "--no-cache").version == "small-r2"
    assert stocked.store.channels("x") == {"current": "small-r2"}
    assert stocked.store.image("x", "small-r1").stat().st_ino == first.st_ino


@pytest.mark.parametrize("command", [["list"], ["show", "x"], ["plan", "x"]])
def test_reading_needs_no_right_to_write(stocked: Project, command: list[str]) -> None:
    only_readable(stocked.root)
    try:
        stocked.run(*command, within=AS_USER).expect(0, "small-r", "x")
        done = stocked.run(*command, "--json", within=AS_USER).expect(0)
    finally:
        for path in (stocked.root, *stocked.root.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
    assert done.events()[-1]["event"] == "result"


def test_list_and_show_say_what_is_there(stocked: Project) -> None:
    stocked.run("list").expect(0, "x", "small-r1", "current", "passed")
    [result] = stocked.run("list", "--json").expect(0).events()
    [image] = result["images"]
    assert (image["name"], image["version"], image["smoke"]) == ("x", "small-r1", "passed")
    stocked.run("show", "x:small-r1").expect(
        0, "An image for tests", "enroot create --name x", "commands ls /"
    )
    [shown] = stocked.run("show", "x", "--json").expect(0).events()
    assert shown["record"]["digest"] == image["digest"]
    stocked.run("show", "x:small-r9").expect(11, "no version 'small-r9'", "small-r1")
    stocked.run("show", "y").expect(11, "no image 'y'")


def test_a_damaged_record_hides_nothing_and_stops_nobody(stocked: Project) -> None:
    record = stocked.store.record("x", "small-r1")
    record.chmod(0o644)
    record.write_text("{half")
    stocked.run("list").expect(0, "small-r1", "can't be read as a record")
    stocked.run("show", "x").expect(0, "can't be read as a record")
    assert stocked.build("x", "--no-cache").version == "small-r2"
    versions = json.loads(stocked.store.catalog.read_text())["images"]["x"]["versions"]
    assert [("problem" in version) for version in versions] == [True, False]


def test_json_has_one_object_a_line_and_ends_with_the_result(project: Project) -> None:
    project.manifest(
        "x", [{"run": 'echo hello; echo \'{"event": "result"}\''}], smoke=[{"commands": ["ls /"]}]
    )
    done = project.run("build", "x", "--json").expect(0)
    events = done.events()
    kinds = [event["event"] for event in events]
    assert set(kinds) <= {"step-started", "step-ended", "progress", "output", "note", "warning", "result"}
    assert kinds.count("result") == 1 and kinds[-1] == "result"
    assert kinds.count("step-started") == kinds.count("step-ended")
    assert events[-1]["version"] == "small-r1"
    assert done.err == ""


def test_json_ends_with_the_error(project: Project) -> None:
    project.manifest("x", [{"run": "exit 3"}])
    events = project.run("build", "x", "--json").expect(6).events()
    assert events[-1]["event"] == "error"
    assert (events[-1]["id"], events[-1]["exit_code"]) == ("layer", 6)
    assert events[-1]["hint"] and events[-1]["details"]


def test_results_go_to_stdout_and_progress_to_stderr(project: Project) -> None:
    project.manifest("x")
    done = project.run("build", "x").expect(0)
    assert "Published x small-r1" in done.out
    assert "export ..." in done.err and "export ..." not in done.out
    assert "\x1b" not in done.said


def test_several_names_are_built_in_their_order(project: Project) -> None:
    for name in ("a", "b", "c"):
        project.manifest(name)
    done = project.run("build", "b,[ac]", "--jobs", "1").expect(0)
    places = [done.err.index(f"{name}: started") for name in ("b", "a", "c")]
    assert places == sorted(places)


def test_one_failure_of_several_stops_no_other(project: Project) -> None:
    project.manifest("a", [{"run": "exit 3"}])
    project.manifest("b")
    project.run("build", "a,b").expect(19, "of a failed", "b built  small-r1", "1 built, 1 failed")


def test_a_reader_that_goes_away_is_no_error(stocked: Project) -> None:
    # The pipe's end is closed before the program starts, so that it can't come too soon.
    within = ["bash", "-c", 'set -o pipefail; "$@" | exec true', "bash"]
    done = stocked.run("list", within=within)
    assert done.code == 141
    assert done.err == ""


@pytest.mark.parametrize(
    "asked", [("show", "--help"), ("pull", "-h"), ("build", "x", "--help"), ("shell", "-h")]
)
def test_a_command_explains_itself(project: Project, asked: list[str]) -> None:
    wanted = project.run("--help", asked[0]).expect(0, "Docstring:", "the site profile").out
    assert project.run(*asked).expect(0).out.split("\n", 1)[1] == wanted.split("\n", 1)[1]
