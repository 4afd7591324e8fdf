"""What is due on a real registry, what is done about it, and the report that it leaves."""

from __future__ import annotations

import contextlib
import http.server
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kiln import files
from tests import registry_fixture
from tests.integration.processes import Family, traces
from tests.integration.project import Project
from tests.integration.relay import Relay
from tests.integration.upstream import Upstream

pytestmark = pytest.mark.skipif(
    not registry_fixture.available(), reason="docker-registry is not installed: ./bootstrap test says how"
)


@pytest.fixture
def fleet(project: Project, upstream: Upstream) -> Project:
    """A parent on a registry's base, two children, and one that stands alone: all published."""
    upstream.push("1.0-py3", "one")
    project.manifest("parent", [{"run": "echo made > /root/parent"}], base=f"{upstream.base}:1.0-py3")
    project.manifest("left", [{"run": "cat /root/upstream > /root/left"}], base="image:parent")
    project.manifest("right", [{"run": "echo right > /root/right"}], base="image:parent")
    project.manifest("alone", [{"run": "true"}])
    project.run("build", "all", "--jobs", "2").expect(0)
    return project


def states(project: Project, *args: str, code: int = 20) -> dict[str, dict[str, Any]]:
    done = project.run("outdated", *args, "--json").expect(code)
    [result] = done.events("result")
    return {each["name"]: each for each in result["images"]}


def kinds(state: dict[str, Any]) -> list[str]:
    return [reason["kind"] for reason in state["reasons"]]


def summary(project: Project, *args: str, code: int = 0) -> dict[str, str]:
    done = project.run("rebuild", *args, "--jobs", "2", "--json").expect(code)
    [result] = [event for event in done.events("result") if "report" in event]
    return {each["name"]: each["state"] for each in result["images"]}


def report(project: Project) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((project.cache / "v1/reports/last.json").read_text())
    return data


def test_a_moved_tag_rebuilds_the_parent_and_what_is_built_on_it_and_nothing_else(
    fleet: Project, upstream: Upstream
) -> None:
    found = states(fleet, code=0)
    assert all(not each["reasons"] and not each["not_known"] for each in found.values())
    assert summary(fleet) == {}
    assert report(fleet)["state"] == "done"
    fleet.run("rebuild", "--dry-run").expect(0, "nothing is due", "nothing was changed")
    before = fleet.store.find("parent").record
    digest = upstream.push("1.0-py3", "two")
    found = states(fleet)
    assert before
    [moved] = found["parent"]["reasons"]
    assert moved["kind"] == "base-moved"
    assert moved["evidence"] == {"tag": "1.0-py3", "from": before.base_digest, "to": digest}
    assert kinds(found["left"]) == kinds(found["right"]) == ["parent"]
    assert not found["alone"]["reasons"]
    planned = fleet.run("rebuild", "--dry-run", "--json").expect(0).events("result")[0]
    assert [(each["name"], each["after"]) for each in planned["images"]] == [
        ("parent", []), ("left", ["parent"]), ("right", ["parent"])
    ]  # fmt: skip
    assert planned["seconds"] > 0 and planned["store_bytes"] > 0 and planned["scratch_bytes"] > 0
    assert len(fleet.store.versions("parent")) == 1
    assert summary(fleet) == {"parent": "built", "left": "built", "right": "built"}
    assert fleet.store.channels("left") == {"current": "1.0-py3-r2-r1"}
    assert fleet.store.versions("alone") == ["small-r1"]
    states(fleet, code=0)


def test_a_failed_rebuild_blocks_its_children_and_leaves_current(fleet: Project, upstream: Upstream) -> None:
    fleet.hook("never", "echo broken; exit 1")
    fleet.manifest("left", [{"run": "false"}], base="image:parent")
    fleet.manifest("leaf", [{"run": "true"}], base="image:left")
    before = fleet.store.channels("left")
    upstream.push("1.0-py3", "two")
    assert summary(fleet, code=19) == {"parent": "built", "left": "failed", "right": "built"}
    assert fleet.store.channels("left") == before
    told = report(fleet)
    assert (told["state"], told["failed"], told["built"]) == ("done", 1, 2)
    [left] = [each for each in told["images"] if each["name"] == "left"]
    assert left["error"]["id"] == "layer" and Path(left["log"]).is_file()
    assert {reason["kind"] for each in told["due"] for reason in each["reasons"]} >= {"base-moved", "parent"}


def commit(project: Project, message: str) -> None:
    me = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for argv in (["init", "-q"], ["add", "manifests"], [*me, "commit", "-q", "--allow-empty", "-m", message]):
        subprocess.run(["git", *argv], cwd=project.root, check=True)


def test_what_comes_out_the_same_is_not_published(project: Project, upstream: Upstream) -> None:
    upstream.push("1.0", "one")
    project.manifest("x", [{"run": "true"}], base=f"{upstream.base}:1.0", smoke=[{"commands": ["ls /"]}])
    commit(project, "one")
    project.build("x")
    # The commit is in the image, so that its bytes differ, and nothing else does.
    commit(project, "two")
    done = project.run("build", "x", "--renew", "--no-cache", "--json").expect(0)
    [result] = done.events("result")
    assert result["unchanged"] is True
    assert project.store.versions("x") == ["1.0-r1"]
    # It was tested all the same, and that counts.
    assert (project.images / "x/x-1.0-r1.tests.jsonl").is_file()


def test_a_newer_tag_of_the_series(project: Project, upstream: Upstream) -> None:
    for tag in ("24.12-py3", "25.04-py3", "25.05-py3-igpu", "latest"):
        upstream.push(tag, tag, CUDA_VERSION="12.9")
    project.site("old", driver="535.54.03")
    project.manifest("x", base=f"{upstream.base}:24.12-py3")
    project.run("build", "x", "--site", "old").expect(0)
    [newer] = states(project, "--site", "old")["x"]["reasons"]
    assert newer["kind"] == "newer-tag" and newer["remedy"] == "bump"
    assert newer["evidence"]["to"] == "25.04-py3"
    assert newer["evidence"]["driver"]["state"] == "fits with limits"
    # Another base is for a person to choose.
    assert summary(project, "--site", "old") == {}
    path = project.root / "manifests/x.yaml"
    text = f'# top\nformat: 1\nname: x\nbase:   "{upstream.base}:24.12-py3"  # why\r\n\nlayers: []\n'
    path.write_bytes(text.encode())
    project.run("bump", "x").expect(0, "manifests/x.yaml:4: 24.12-py3 -> 25.04-py3")
    assert path.read_bytes() == text.replace("24.12-py3", "25.04-py3").encode()
    project.run("bump", "x").expect(0, "x stays at 25.04-py3: it is the newest of its series")


def test_a_driver_that_does_not_carry_the_newer_tag(project: Project, upstream: Upstream) -> None:
    upstream.push("1.0", "one")
    upstream.push("2.0", "two", CUDA_VERSION="13.0")
    project.site("old", driver="525.60.13")
    project.manifest("x", base=f"{upstream.base}:1.0")
    project.run("build", "x").expect(0)
    [newer] = states(project, "--site", "old")["x"]["reasons"]
    assert newer["evidence"]["driver"]["state"] == "too old"
    before = (project.root / "manifests/x.yaml").read_text()
    project.run("bump", "x", "--site", "old").expect(16, "would not run", "--to 2.0")
    assert (project.root / "manifests/x.yaml").read_text() == before


def test_own_inputs_that_changed(project: Project) -> None:
    name = project.file("x/note", b"one\n")
    project.hook("look", "true")
    project.manifest("x", [{"copy": {name: "/root/note"}}, {"run": "true"}], smoke=["look"])
    project.run("build", "x").expect(0)
    path = project.root / "manifests/x.yaml"
    path.write_text("# a comment changes nothing\n" + path.read_text())
    states(project, code=0)
    project.file("x/note", b"two\n")
    project.hook("look", "true # otherwise")
    assert kinds(states(project)["x"]) == ["files", "hook"]
    project.run("rebuild").expect(0)
    states(project, code=0)
    project.manifest("x", [{"copy": {name: "/root/note"}}, {"run": "echo"}], smoke=["look"])
    [reason] = states(project)["x"]["reasons"]
    assert reason["kind"] == "manifest" and "layer 2 (run echo)" in reason["text"]


def test_a_smoke_run_that_is_too_old_is_run_again(project: Project) -> None:
    project.site("strict", rebuild={"smoke_after": "24h"})
    project.hook("look", "true")
    project.manifest("x", smoke=["look"])
    project.build("x")
    path = project.images / "x/x-small-r1.json"
    path.chmod(0o644)
    text = json.loads(path.read_text())
    path.write_text(json.dumps({**text, "built": "2026-01-01T00:00:00Z"}, indent=2))
    [reason] = states(project, "--site", "strict")["x"]["reasons"]
    assert (reason["kind"], reason["remedy"]) == ("smoke", "smoke")
    assert summary(project, "--site", "strict") == {"x": "reused"}
    assert project.store.versions("x") == ["small-r1"]
    states(project, "--site", "strict", code=0)


def test_a_registry_that_is_gone_is_not_known(fleet: Project, upstream: Upstream, tmp_path: Path) -> None:
    with registry_fixture.start_registry(tmp_path / "other") as registry:
        other = Upstream(registry, upstream.tree)
        other.push("1.0", "one")
        other.push("1.0", "one", repository="base2")
        fleet.manifest("lost", base=f"{other.base}:1.0")
        fleet.manifest("lost2", base=f"{other.base}2:1.0")
        fleet.run("build", "lost,lost2").expect(0)
    found = states(fleet, code=21)
    for name in ("lost", "lost2"):
        assert not found[name]["reasons"] and registry.host in found[name]["not_known"][0]
    assert not found["parent"]["not_known"]
    upstream.push("1.0-py3", "two")
    # What is known is done, and what isn't is told.
    assert summary(fleet, code=21) == {"parent": "built", "left": "built", "right": "built"}
    assert list(report(fleet)["not_known"]) == ["lost", "lost2"]


def test_a_registry_that_goes_away_halfway_is_not_known_from_there_on(
    project: Project, upstream: Upstream
) -> None:
    names = [f"x{number}" for number in range(12)]
    with Relay(upstream.registry.host).running() as relay:
        for name in names:
            upstream.push("1.0", name, repository=name)
            project.manifest(name, base=f"{relay.host}/{name}:1.0")
        project.run("build", "all", "--jobs", "2").expect(0)
        relay.requests = 0
        states(project, code=0)
        asked = relay.requests
        assert asked >= len(names)
        for name in names:
            upstream.push("1.0", "moved", repository=name)
        relay.requests, relay.allowed = 0, asked // 2
        found = states(project)
        due = {name for name in names if kinds(found[name]) == ["base-moved"]}
        lost = {name for name in names if found[name]["not_known"]}
        assert due and lost and due | lost == set(names)
        assert all(relay.host in found[name]["not_known"][0] for name in lost)
    # Nothing can be built now, and that is told of each: nothing counts as up to date.
    states(project, code=21)
    assert summary(project, code=21) == {}
    assert sorted(report(project)["not_known"]) == sorted(names)


@dataclass
class Hearer:
    """A web server that keeps what is posted."""

    bodies: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def hearer() -> Iterator[tuple[str, Hearer]]:
    heard = Hearer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/s3cret", heard
    server.shutdown()


def test_the_webhook_gets_the_report(project: Project, hearer: tuple[str, Hearer]) -> None:
    url, heard = hearer
    project.site("told", rebuild={"webhook": url, "mail": ["ops@example.org"], "mail_server": "127.0.0.1:9"})
    project.manifest("x")
    project.build("x")
    project.manifest("x", [{"run": "false"}])
    done = project.run("rebuild", "--site", "told").expect(19, "no mail was sent by 127.0.0.1:9")
    [body] = heard.bodies
    assert (body["failed"], body["images"][0]["name"], body["images"][0]["error"]["id"]) == (1, "x", "layer")
    assert "s3cret" not in done.said


def test_two_at_once(project: Project) -> None:
    project.manifest("x")
    project.build("x")
    with files.locked(project.images / ".rebuild", wait=0):
        project.run("rebuild").expect(12, ".rebuild is held by")


@pytest.mark.parametrize(
    ("phase", "number", "told"),
    [("layer", signal.SIGKILL, "running"), ("smoke", signal.SIGKILL, "running"),
     ("layer", signal.SIGTERM, "interrupted")],
)  # fmt: skip
def test_ended_in_a_phase_it_goes_on_the_next_time(
    project: Project, phase: str, number: signal.Signals, told: str
) -> None:
    project.hook("wait", "[ ! -e /root/slow ] || { echo ready; sleep 1013; }")
    project.manifest("x", smoke=["wait"])
    project.build("x")
    slow = "echo ready; sleep 1014" if phase == "layer" else "touch /root/slow; chmod 755 /root"
    project.manifest("x", [{"run": slow}], smoke=["wait"])
    running = project.start("rebuild", "--json")
    running.until('"line": "ready"')
    ended = Family(running.pid)
    running.send(number)
    running.end()
    ended.assert_ended()
    assert traces(project.root) == [] and project.workspaces() == []
    assert report(project)["state"] == told
    assert project.store.channels("x") == {"current": "small-r1"}
    project.manifest("x", [{"run": "true"}], smoke=["wait"])
    assert summary(project) == {"x": "built"}
    assert report(project)["state"] == "done"


@pytest.mark.parametrize("phase", ["export", "publish"])
def test_killed_where_its_result_is_written_nothing_of_it_is_seen(project: Project, phase: str) -> None:
    project.site("slow", squashfs={"level": 22})
    project.manifest("x")
    project.run("build", "x", "--site", "slow").expect(0)
    noise = "head -c 40000000 /dev/urandom > /root/noise" if phase == "export" else "true"
    project.manifest("x", [{"run": noise}])
    lock = project.images / "x/.lock"
    with files.locked(lock, wait=0) if phase == "publish" else contextlib.nullcontext():
        running = project.start("rebuild", "--site", "slow", "--json")
        running.until("which holds" if phase == "publish" else '"step": "export"')
        ended = Family(running.pid)
        running.send(signal.SIGKILL)
        running.end()
        ended.assert_ended()
    assert traces(project.root) == []
    assert project.store.channels("x") == {"current": "small-r1"}
    assert project.store.versions("x") == ["small-r1"]
    assert report(project)["state"] == "running"
    project.manifest("x", [{"run": "true"}])
    project.run("rebuild", "--site", "slow").expect(0, "1 built")
    assert project.store.channels("x") == {"current": "small-r2"}


def test_a_manifest_that_is_removed_meanwhile(fleet: Project, upstream: Upstream) -> None:
    upstream.push("1.0-py3", "two")
    fleet.hook("gone", f"rm -f {fleet.root}/manifests/left.yaml")
    running = fleet.start("rebuild", "--jobs", "1", "--json")
    running.until('"image-started"')
    (fleet.root / "manifests/left.yaml").unlink()
    done = running.end().expect(19)
    [result] = [event for event in done.events("result") if "report" in event]
    assert {each["name"]: each["state"] for each in result["images"]} == {
        "parent": "built", "left": "failed", "right": "built"
    }  # fmt: skip
    [left] = [each for each in result["images"] if each["name"] == "left"]
    assert left["error"]["id"] == "usage"


def test_a_lock_is_resolved_anew_and_put_back_where_the_build_fails(
    project: Project, upstream: Upstream
) -> None:
    first = upstream.push("1.0", "one")
    project.manifest("x", [{"run": '[ "$(cat /root/upstream)" != two ]'}], base=f"{upstream.base}:1.0")
    project.run("lock", "x").expect(0)
    project.build("x")
    lock = project.root / "manifests/x.lock"
    before = lock.read_text()
    assert first in before
    upstream.push("1.0", "two")
    assert kinds(states(project)["x"]) == ["base-moved"]
    # A build keeps to its lock; only a rebuild looks anew.
    project.run("build", "x").expect(0, "is up to date")
    assert summary(project, code=19) == {"x": "failed"}
    assert lock.read_text() == before
    assert project.store.channels("x") == {"current": "1.0-r1"}
    third = upstream.push("1.0", "three")
    assert summary(project) == {"x": "built"}
    assert third in lock.read_text()
    record = project.store.find("x").record
    assert record and (record.version, record.base_digest) == ("1.0-r2", third)
    states(project, code=0)


def test_killed_while_the_lock_is_resolved_it_goes_on_the_next_time(
    project: Project, upstream: Upstream
) -> None:
    upstream.push("1.0", "one")
    project.manifest("x", [{"run": "true"}], base=f"{upstream.base}:1.0")
    project.run("lock", "x").expect(0)
    project.build("x")
    second = upstream.push("1.0", "two")
    running = project.start("rebuild", "--json")
    running.until("resolve x.lock anew")
    ended = Family(running.pid)
    running.send(signal.SIGKILL)
    running.end()
    ended.assert_ended()
    assert traces(project.root) == []
    assert project.store.versions("x") == ["1.0-r1"]
    assert report(project)["state"] == "running"
    assert summary(project) == {"x": "built"}
    assert second in (project.root / "manifests/x.lock").read_text()
    states(project, code=0)
