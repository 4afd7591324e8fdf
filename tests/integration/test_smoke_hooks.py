"""Smoke hooks in the exported file: what their outcomes do to publishing, and what they may."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration import trees
from tests.integration.processes import Family, traces
from tests.integration.project import Project


def test_failing_required_hook_publishes_nothing_and_leaves_a_way_back_in(project: Project) -> None:
    project.hook("broken", "echo 'the GPU is on fire'; exit 1")
    project.manifest("x", [{"run": "touch /root/mine"}], smoke=["broken", {"commands": ["ls /"]}])
    done = project.run("build", "x")
    done.expect(
        10,
        "error: smoke hook broken failed in x-small-r1.sqsh: the GPU is on fire",
        "nothing was published. To look inside: invoke shell x --user",
        # One failure doesn't keep the others from being told.
        "smoke commands ls /",
    )
    project.nothing_published()
    tested = done.err.split("the tested file: ")[1].splitlines()[0]
    assert trees.content(Path(tested), "/etc/environment")
    said = done.err.split("what the hook said: ")[1].splitlines()[0]
    assert Path(said).read_text() == "the GPU is on fire\n"
    project.run("shell", "x", "--user", stdin="ls -d /root; touch /new || echo refused\n").expect(
        0, "refused"
    )
    project.run("gc").expect(0)
    assert project.workspaces() == []


def test_failing_hook_that_is_not_required_is_told_and_published(project: Project) -> None:
    project.hook("broken", "echo 'a pity'; exit 4")
    project.manifest("x", smoke=[{"hook": "broken", "required": False}])
    record = project.build("x")
    assert [(result.state, result.reason) for result in record.smoke] == [("failed", "a pity")]
    assert project.store.channels("x") == {"current": record.version}


def test_skipped_required_hook_makes_a_candidate_and_leaves_current(project: Project) -> None:
    project.hook("gpu", "exit 0")
    project.manifest("x", smoke=["gpu"])
    first = project.build("x")
    project.hook("gpu", "echo 'no GPU on this node'; exit 77")
    done = project.run("build", "x").expect(
        0, "candidate", "no GPU on this node", "To finish, build on a node"
    )
    assert "x-small-r2.sqsh" in done.out
    assert project.store.channels("x") == {"current": first.version, "candidate": "small-r2"}
    assert project.record("x", "small-r2").smoke[0].state == "skipped"
    project.run("show", "x").expect(0, "small-r1")
    project.run("show", "x:candidate").expect(0, "small-r2")


def test_hook_past_its_limit_fails_and_is_ended_with_its_children(project: Project) -> None:
    project.hook("slow", "setsid sleep 1005 & echo ready; sleep 1006", timeout=2)
    project.manifest("x", smoke=["slow"])
    running = project.start("build", "x", "--json")
    running.until('"line": "ready"')
    family = Family(running.pid)
    done = running.end().expect(10)
    assert "stopped after its time limit (2 s)" in done.events("error")[0]["message"]
    family.assert_ended()
    assert traces(project.root) == []
    project.nothing_published()


def test_hooks_are_nobody_special_and_change_nothing(project: Project) -> None:
    attempts = "; ".join(
        f"touch {place}/by-a-hook" for place in ("", "/etc", "/root", "/run/kiln/hooks", "/tmp")
    )
    project.hook("nosy", f"{attempts}; echo uid $(id -u) $(env | sort | tr '\\n' ' ')")
    project.manifest("x", [{"run": "chmod 1777 /root"}], smoke=["nosy"], env={"GREETING": "hello"})
    environ = {"http_proxy": "http://curator:Sesame-8@127.0.0.1:9", "SECRET_OF_MINE": "yes"}
    record = project.build("x", env=environ)
    [result] = record.smoke
    uid, variables = result.reason.removeprefix("uid ").split(" ", 1)
    assert int(uid) == (os.getuid() or 1000)
    assert "GREETING=hello" in variables and "FROM_BASE=yes" in variables
    # A user of the image has none of the site's settings, nor a hook.
    assert not [word for word in ("proxy", "SSL_", "SECRET_OF_MINE", "KILN_") if word in variables]
    listed = trees.listing(project.store.image("x", record.version))
    assert [path for path in listed if "by-a-hook" in path] == []
    assert not (project.root / "hooks/by-a-hook").exists()


def test_image_without_hooks_is_published_with_a_warning(project: Project) -> None:
    project.manifest("x")
    project.run("build", "x").expect(0, "warning: x has no smoke hooks")
    assert list(project.store.channels("x")) == ["current"]


def test_hook_arguments_arrive_as_they_are(project: Project) -> None:
    project.hook("count", 'echo "$# <$1> <$2>"')
    project.manifest("x", smoke=[{"count": ["two  words $HOME", "--flag=*"]}])
    assert project.build("x").smoke[0].reason == "2 <two  words $HOME> <--flag=*>"
