"""Layers that fail, hang, fill the disk or write strange things; and the way back in."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from tests.integration import trees
from tests.integration.namespaces import on_tmpfs
from tests.integration.processes import Family, traces
from tests.integration.project import Project


def test_failing_layer_tells_the_whole_story(project: Project) -> None:
    project.manifest("x", [{"run": "true"}, {"run": "echo one\necho two >&2\nexit 3"}])
    done = project.run("build", "x")
    done.expect(
        6,
        "layer 2/2 run echo one",
        "error: layer 2 (run echo one) of x failed: exit code 3",
        "command: bash -euo pipefail /run/kiln/layer/script",
        "| one",
        "| two",
        "-> to look inside: invoke build x --keep, then: invoke shell x",
    )
    log = Path(done.err.split("the whole log: ")[1].splitlines()[0])
    assert log.read_text() == "one\ntwo\n"
    assert project.workspaces() == []
    project.nothing_published()


def test_an_unset_variable_or_a_broken_pipe_fails_a_run_layer(project: Project) -> None:
    project.manifest("unset", [{"run": "echo $NO_SUCH_NAME"}])
    project.manifest("piped", [{"run": "false | cat"}])
    project.run("build", "unset").expect(6, "NO_SUCH_NAME: unbound variable")
    project.run("build", "piped").expect(6, "exit code 1")


def test_kept_layer_is_entered_as_it_was_and_removed_by_gc(project: Project) -> None:
    project.manifest("x", [{"run": "touch /root/mine; exit 3"}], env={"GREETING": "hello"})
    project.run("build", "x", "--keep").expect(6, "-> to look inside: invoke shell x")
    [kept] = project.workspaces()
    words = "cat /run/kiln/tmp/x; ls /root; echo $GREETING $KILN_BUILD $(id -u); exit 7\n"
    done = project.run("shell", "x", stdin=words)
    done.expect(7, "mine", f"hello {kept} 0", "at layer 1")
    # What is done there is there the next time.
    project.run("shell", "x", stdin="rm /root/mine; touch /root/other\n").expect(0)
    project.run("shell", "x", stdin="ls /root\n").expect(0, "other")
    project.run("gc").expect(0, kept)
    assert project.workspaces() == []
    project.run("shell", "x", stdin="").expect(11, "no image 'x'" if project.images.exists() else "images")


def test_a_second_kept_build_takes_the_place_of_the_first(project: Project) -> None:
    project.manifest("x", [{"run": "exit 3"}])
    project.run("build", "x", "--keep").expect(6)
    [first] = project.workspaces()
    project.run("build", "x", "--keep").expect(6)
    [second] = project.workspaces()
    assert first != second


def test_shell_works_on_a_terminal(project: Project) -> None:
    project.manifest("x", [{"run": "touch /root/mine; exit 3"}])
    project.run("build", "x", "--keep").expect(6)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(project.root)
        os.execve(project.invoke, ["invoke", "shell", "x"], dict(project.environ))  # noqa: S606
    said = b""
    os.write(terminal, b"ls /root; tty; exit 9\n")
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        said += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9, said
    assert b"mine" in said
    assert b"no job control" not in said


def test_shell_in_a_published_image_changes_nothing(project: Project) -> None:
    project.manifest("x", [{"run": "touch /root/mine"}])
    project.build("x")
    before = project.published()
    project.run("shell", "x", stdin="id -u; ls /root; rm /root/mine; exit 5\n").expect(5, "mine")
    done = project.run(
        "shell", "x:current", "--user", stdin="echo uid=$(id -u); touch /mine || echo refused\n"
    )
    done.expect(0, "refused")
    assert "uid=0" not in done.out
    assert project.published() == before
    assert project.workspaces() == []


def test_layer_past_its_limit_is_ended_with_all_its_children(project: Project) -> None:
    script = "sleep 1001 & setsid sleep 1002 & (setsid sleep 1003 &) ; echo ready; wait"
    project.manifest("x", [{"run": {"script": script, "timeout": "2s"}}])
    running = project.start("build", "x", "--json")
    running.until('"line": "ready"')
    family = Family(running.pid)
    done = running.end().expect(6)
    [error] = done.events("error")
    assert "stopped after its time limit (2 s)" in error["message"]
    family.assert_ended()
    assert traces(project.root) == []
    project.nothing_published()


def test_daemon_that_a_layer_leaves_running_does_not_hold_the_build(project: Project) -> None:
    project.manifest("x", [{"run": "setsid sleep 1004 & echo started"}])
    project.build("x")
    assert traces(project.root) == []


def test_layer_that_fills_the_disk_is_a_matter_of_space(project: Project, tmp_path: Path) -> None:
    fill = "i=0; while :; do : > /root/$i; i=$((i + 1)); done"
    project.manifest("x", [{"run": fill}])
    within = on_tmpfs("size=4g,nr_inodes=1000", project.cache, tmp_path / "left")
    project.run("build", "x", within=within).expect(
        8, f"layer 1 (run {fill[:35]}", "filled the disk", "No space left on device", "free space at"
    )
    left = (tmp_path / "left").read_text().splitlines()
    assert [line for line in left if "/work/" in line] == []
    project.nothing_published()


def test_layer_that_fills_the_disk_of_its_own_log_too(project: Project, tmp_path: Path) -> None:
    big = project.file("big", b"\0" * 200_000_000)
    project.manifest("x", [{"copy": {big: "/big"}}])
    within = on_tmpfs("size=170m", project.cache, tmp_path / "left")
    project.run("build", "x", within=within).expect(8, "layer 1 (copy big) of x filled the disk")
    assert [line for line in (tmp_path / "left").read_text().splitlines() if "/work/" in line] == []
    project.nothing_published()


def test_disk_too_small_for_the_estimate_stops_before_any_work(project: Project, tmp_path: Path) -> None:
    project.manifest("x", [{"run": "true"}])
    within = on_tmpfs("size=50m", project.cache, tmp_path / "left")
    done = project.run("build", "x", within=within)
    done.expect(8, "not enough space to build x", "for the trees and the finished file", "are free")
    assert "base sqsh" not in done.err
    project.nothing_published()


@pytest.mark.parametrize("json", [False, True])
def test_long_lines_and_binary_output_pass(project: Project, json: bool) -> None:
    script = """\
    head -c 3000000 /dev/zero | tr '\\0' x; echo
    head -c 300000 /dev/urandom
    printf 'carriage\\rreturn\\033[31m\\007\\n'
    echo "the end"
    """
    project.manifest("x", [{"run": script}])
    done = project.run("build", "x", *(["--json"] if json else [])).expect(0)
    log = project.log("*/01-run.log")
    assert log.endswith("the end\n")
    if json:
        assert done.events()[-1]["event"] == "result"
        assert done.events("output")[-1]["line"] == "the end"


def test_layers_have_nothing_on_their_standard_input(project: Project) -> None:
    project.manifest("x", [{"run": 'read -r line || echo "nothing to read"'}])
    project.build("x", stdin="something\n")
    assert "nothing to read" in project.log("*/01-run.log")


def test_mounts_of_the_manifest_are_seen_by_layers_and_leave_no_trace(
    project: Project, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "data").write_text("from the host\n")
    script = "cat /mnt/deep/in/data; ! touch /mnt/deep/in/new; touch /mnt/other/made"
    mounts = [f"{shared}:/mnt/deep/in", f"{shared}:/mnt/other:rw"]
    project.manifest("x", [{"run": script}], mounts=mounts)
    project.build("x")
    assert "from the host" in project.log("*/01-run.log")
    assert (shared / "made").exists()
    listed = trees.listing(project.store.image("x", "small-r1"))
    assert [path for path in listed if path.startswith("/mnt/")] == []


def test_a_missing_mount_is_told_before_any_work(project: Project, tmp_path: Path) -> None:
    project.manifest("x", [{"run": "true"}], mounts=[f"{tmp_path}/none:/mnt/none"])
    project.run("build", "x").expect(4, f"mount {tmp_path}/none", "does not exist")
