"""Several images with one command: their order, what a failure blocks, what is seen, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.namespaces import on_tmpfs
from tests.integration.processes import Family, traces
from tests.integration.project import Done, Project


@pytest.fixture
def family(project: Project) -> Project:
    """A parent, two children, a grandchild, and one that is nobody's."""
    project.manifest("parent", [{"run": "echo one > /root/parent"}])
    project.manifest("left", [{"run": "cat /root/parent > /root/left"}], base="image:parent")
    project.manifest("right", [{"run": "cat /root/parent > /root/right"}], base="image:parent")
    project.manifest("leaf", [{"run": "cat /root/left > /root/leaf"}], base="image:left")
    project.manifest("other", [{"run": "true"}])
    return project


def states(done: Done) -> dict[str, str]:
    """What the summary says of each image."""
    [summary] = [event for event in done.events("result") if "images" in event]
    return {each["name"]: each["state"] for each in summary["images"]}


def at(events: list[dict[str, Any]], kind: str, image: str) -> int:
    return next(i for i, event in enumerate(events) if event["event"] == kind and event["image"] == image)


def test_all_are_built_in_order_several_at_once(family: Project) -> None:
    done = family.run("build", "all", "--jobs", "3", "--json").expect(0)
    assert done.err == ""
    events = done.events()
    for child, parent in (("left", "parent"), ("right", "parent"), ("leaf", "left")):
        assert at(events, "image-started", child) > at(events, "image-ended", parent)
    assert states(done) == dict.fromkeys(("leaf", "left", "other", "parent", "right"), "built")
    assert (events[-1]["built"], events[-1]["failed"]) == (5, 0)
    # Each was built on the version that its parent had got just before.
    built = family.store.find("parent").record
    assert built
    for name in ("left", "right"):
        record = family.store.find(name).record
        assert record and record.base_digest == built.digest
    # Whatever one build says comes with its name.
    assert all("image" in event for event in events if event["event"] in ("step-started", "output", "note"))
    again = family.run("build", "all", "--jobs", "3", "--json").expect(0)
    assert set(states(again).values()) == {"reused"}


def test_a_failure_blocks_only_what_is_built_on_it(family: Project) -> None:
    family.manifest("left", [{"run": "echo lost; exit 3"}], base="image:parent")
    done = family.run("build", "all", "--jobs", "2", "--json").expect(19)
    assert states(done) == {
        "parent": "built",
        "left": "failed",
        "leaf": "blocked",
        "right": "built",
        "other": "built",
    }
    [leaf] = [event for event in done.events("image-ended") if event["image"] == "leaf"]
    assert (leaf["state"], leaf["by"]) == ("blocked", "left")
    [left] = [event for event in done.events("image-ended") if event["image"] == "left"]
    assert left["error"]["id"] == "layer"
    log = Path(left["log"]).read_text()
    assert "  | lost" in log and "error: layer 1" in log
    assert (
        done.events()[-1]["message"] == "2 of 5 images were not built: left (failed), leaf (blocked by left)"
    )


def test_plain_lines_off_a_terminal(family: Project) -> None:
    family.manifest("other", [{"run": "exit 3"}])
    done = family.run("build", "parent,left,other", "--jobs", "2").expect(19)
    assert "3 images, 2 at once" in done.err
    assert re.search(r"^parent: export: .* s$", done.err, re.MULTILINE)
    assert re.search(r"^\[\d/3\] ✗ other failed", done.err, re.MULTILINE)
    assert "2 built, 1 failed" in done.out
    assert "\x1b" not in done.said
    logs = re.findall(r"its log: (\S+)", done.err)
    assert sorted(Path(log).name for log in logs) == ["left.log", "other.log", "parent.log"]
    assert all(Path(log).read_text() for log in logs)


def test_what_an_image_needs_and_was_never_built_is_built_first(family: Project) -> None:
    done = family.run("build", "leaf", "--json").expect(0)
    assert list(states(done)) == ["parent", "left", "leaf"]
    # What is published is not built again for that.
    family.manifest("leaf", [{"run": "cat /root/left /root/parent > /root/leaf"}], base="image:left")
    assert family.build("leaf").base == "image:left"


def test_a_manifest_with_mistakes_blocks_nobody_else(family: Project) -> None:
    family.file("left.yaml", b"format: 1\nname: left\nbase: latest and greatest\n")
    family.manifest("right", base="image:left")
    done = family.run("build", "all", "--json").expect(19)
    assert states(done) == {
        "leaf": "failed", "left": "failed", "right": "failed", "parent": "built", "other": "built"
    }  # fmt: skip
    [left] = [event for event in done.events("image-ended") if event["image"] == "left"]
    assert left["error"]["id"] == "manifest" and "left.yaml:3" in "".join(left["error"]["details"])
    family.run("build", "left").expect(3)


def test_a_cycle_is_told_with_file_and_line(family: Project) -> None:
    family.manifest("parent", base="image:leaf")
    family.run("build", "leaf").expect(
        3, "manifests/leaf.yaml:3: images are built on each other: leaf -> left -> parent -> leaf"
    )
    family.manifest("parent", base="image:paren")
    family.run("build", "leaf").expect(3, "manifests/parent.yaml:3: the base of parent is an unknown image")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_builds_and_leaves_nothing(family: Project, number: signal.Signals) -> None:
    for name in ("right", "other"):
        # Two that are the same would be made once, one waiting for the other.
        script = f"setsid sleep 1008 & trap '' TERM INT; echo ready {name}; sleep 1010; wait"
        family.manifest(name, [{"run": script}])
    running = family.start("build", "right,other,leaf", "--jobs", "2", "--json")
    for _ in range(2):
        running.until('"line": "ready ')
    ended = Family(running.pid)
    running.send(number)
    done = running.end()
    assert done.code == 128 + number
    ended.assert_ended()
    assert states(done) == {"right": "stopped", "other": "stopped", "parent": "stopped", "left": "stopped",
                            "leaf": "stopped"}  # fmt: skip
    assert family.workspaces() == []
    assert traces(family.root) == []
    family.nothing_published()


def test_killed_at_once_it_takes_its_builds_along(family: Project) -> None:
    for name in ("right", "other"):
        family.manifest(name, [{"run": f"setsid sleep 1011 & echo ready {name}; sleep 1010; wait"}])
    running = family.start("build", "right,other", "--jobs", "2", "--json")
    for _ in range(2):
        running.until('"line": "ready ')
    ended = Family(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    assert running.end().code == -signal.SIGKILL
    ended.assert_ended()
    # Each build was told to end, and removed what it had.
    assert family.workspaces() == []
    assert traces(family.root) == []
    family.nothing_published()


def test_a_disk_that_fills_in_one_of_four(project: Project, tmp_path: Path) -> None:
    full = project.root / "full"
    full.mkdir()
    project.manifest("greedy", [{"run": "head -c 3000000 /dev/zero > /mnt/x"}], mounts=[f"{full}:/mnt:rw"])
    names = ["a", "b", "c"]
    for name in names:
        project.manifest(name, [{"run": f"echo {name} > /root/{name}"}])
    within = on_tmpfs("size=1m", full, tmp_path / "left")
    done = project.run("build", "all", "--jobs", "4", "--json", within=within).expect(19)
    assert states(done) == {"greedy": "failed", **dict.fromkeys(names, "built")}
    [greedy] = [event for event in done.events("image-ended") if event["image"] == "greedy"]
    assert "No space left on device" in json.dumps(greedy["error"])
    assert project.workspaces() == []


def test_the_graph_as_text_and_dot(project: Project) -> None:
    for name, base in (("parent", "r.io/a:1.0"), ("left", "image:parent"), ("alone", "oci:x")):
        project.manifest(name, base=base)
    project.manifest("right", base="image:parent:1.0-r1")
    text = project.run("graph").expect(0).out
    assert "r.io/a:1.0\n└── parent\n    └── left\n" in text and "image:parent:1.0-r1\n└── right\n" in text
    dot = project.run("graph", "--dot").expect(0).out
    assert '"parent" -> "left";' in dot and '"r.io/a:1.0" -> "parent";' in dot
    assert '"parent" -> "right" [style=dashed, label="1.0-r1"];' in dot
    assert "alone" not in project.run("graph", "--name", "left").expect(0).out
    project.manifest("parent", base="image:left")
    project.run("graph").expect(3, "images are built on each other")
