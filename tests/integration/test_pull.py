"""Taking images as a user does: from a folder and from a web server, on good days and on bad ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiln.store import Store
from tests.imageserver import Server
from tests.integration.namespaces import on_tmpfs, read_only
from tests.integration.points import await_held, held, killed
from tests.integration.project import Project, tree_state

VERSION = "small-r1"


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / 'Iñaki\'s "big" $HOME; 箱'


@pytest.fixture
def server(user: Project) -> Iterator[Server]:
    with Server(user.images) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def image(project: Project) -> Path:
    return Store(project.images).image("x", VERSION)


def right(project: Project, folder: Path) -> None:
    """The image is there, whole, and nothing beside it."""
    assert [path.name for path in folder.iterdir()] == [f"x-{VERSION}.sqsh"]
    assert (folder / f"x-{VERSION}.sqsh").read_bytes() == image(project).read_bytes()


def change(path: Path) -> None:
    """One bit in the middle, with the same size and time."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_from_a_folder_and_again(user: Project, to: Path) -> None:
    done = user.run("pull", "x", "--to", str(to)).expect(0, "sha256 verified", "free", str(to))
    assert f"x {VERSION} is at" in done.out
    right(user, to)
    user.run("pull", "x", "--to", str(to)).expect(0, "is there already, unchanged")
    [result] = user.run("pull", "x", "--to", str(to), "--json").expect(0).events("result")
    assert (result["brought"], result["path"]) == (False, str(to / f"x-{VERSION}.sqsh"))


@pytest.mark.parametrize("ranges", [True, False])
def test_from_a_web_server(user: Project, server: Server, to: Path, ranges: bool) -> None:
    server.ranges = ranges
    user.run("pull", "x", "--images", server.url, "--to", str(to)).expect(0, "sha256 verified")
    right(user, to)


def test_from_pythons_own_web_server_without_a_checkout(user: Project, to: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen([*argv, "-d", str(user.images)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = process.stdout.readline().split(" port ")[1].split()[0]
        env = {"KILN_IMAGES": f"http://127.0.0.1:{port}", "KILN_ROOT": str(tmp_path)}
        kiln = Path(sys.executable).parent / "kiln"
        argv = [str(kiln), "pull", "x", "--to", str(to)]
        done = subprocess.run(argv, env={**user.environ, **env}, cwd=tmp_path, check=False)
        said = subprocess.run(
            [str(kiln), "list"], env={**user.environ, **env}, cwd=tmp_path, check=False, capture_output=True
        )
        process.kill()
    assert done.returncode == 0
    assert said.returncode == 2 and b"in a browser: http://127.0.0.1" in said.stderr
    right(user, to)


def test_readers_need_an_images_folder_and_nothing_else(user: Project, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = tree_state(user.images)
    for words in (["list"], ["search", "x"], ["show", "x"], ["history", "x"]):
        done = subprocess.run(
            [*read_only(tmp_path), str(Path(sys.executable).parent / "kiln"), *words],
            env={**user.environ, "KILN_ROOT": str(tmp_path / "empty")},
            cwd=tmp_path / "empty",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert VERSION in done.stdout, words
    assert tree_state(user.images) == before


def test_killed_at_a_third_and_gone_on_with(user: Project, server: Server, to: Path) -> None:
    server.cut = 1_000_000
    argv = ("pull", "x", "--images", server.url, "--to", str(to))
    running = user.start(*argv)
    running.until("trying again")
    running.send(signal.SIGKILL)
    running.end()
    [part] = to.glob(".*.part")
    there = part.stat().st_size
    assert 0 < there < image(user).stat().st_size
    server.cut = 0
    server.asked.clear()
    user.run(*argv).expect(0, "sha256 verified")
    assert [ranged for path, ranged in server.asked if path.endswith(".sqsh")] == [f"bytes={there}-"]
    right(user, to)


def test_a_server_that_is_gone(user: Project, to: Path) -> None:
    env = {"KILN_IMAGES": "http://127.0.0.1:9"}
    running = user.start("pull", "x", "--to", str(to), env=env)
    running.until("trying again")
    running.send(signal.SIGTERM)
    running.end().expect(143)
    assert not to.exists()


@pytest.mark.parametrize("web", [False, True])
def test_bytes_that_were_changed_on_their_disk(user: Project, server: Server, to: Path, web: bool) -> None:
    change(image(user))
    more = ("--images", server.url) if web else ()
    user.run("pull", "x", "--to", str(to), *more).expect(16, "has other bytes than its record says")
    assert list(to.iterdir()) == []


def test_a_file_that_is_half_there(user: Project, to: Path) -> None:
    image(user).chmod(0o644)
    os.truncate(image(user), 1_000_000)
    user.run("pull", "x", "--to", str(to)).expect(16, "has 1,000,000 bytes, by its record")
    assert not to.exists()


def test_a_file_that_is_replaced_during_a_pull(user: Project, to: Path, tmp_path: Path) -> None:
    whole = image(user).read_bytes()
    running = user.start("pull", "x", "--to", str(to), within=held(tmp_path / "point", r"os\.utime .*part"))
    await_held(running.pid)
    (tmp_path / "other").write_bytes(b"another")
    (tmp_path / "other").rename(image(user))
    running.send(signal.SIGCONT)
    running.end().expect(0)
    assert (to / f"x-{VERSION}.sqsh").read_bytes() == whole


def test_another_file_is_never_written_over(user: Project, to: Path) -> None:
    to.mkdir()
    (to / f"x-{VERSION}.sqsh").write_text("mine")
    user.run("pull", "x", "--to", str(to)).expect(11, "is another file")
    assert (to / f"x-{VERSION}.sqsh").read_text() == "mine"


def test_twenty_nodes_make_one_copy(user: Project, to: Path) -> None:
    every = [user.start("pull", "x", "--to", str(to), "--json") for _ in range(20)]
    results = [running.end().expect(0).events("result")[0] for running in every]
    assert sum(result["brought"] for result in results) == 1
    right(user, to)


def test_a_kill_at_any_point_is_gone_on_from(user: Project, to: Path, tmp_path: Path) -> None:
    for count in range(1, 30):
        mark = tmp_path / f"point-{count}"
        pattern = "fcntl.lockf|os.mkdir .*箱|os.utime|os.chmod|os.link|os.remove"
        within = killed(mark, count, pattern, "fcntl.lockf")
        done = user.run("pull", "x", "--to", str(to), within=within)
        assert [path.name for path in to.glob("x-*")] in ([], [f"x-{VERSION}.sqsh"])
        user.run("pull", "x", "--to", str(to)).expect(0)
        assert (to / f"x-{VERSION}.sqsh").read_bytes() == image(user).read_bytes()
        shutil.rmtree(to)
        if not mark.exists():
            assert done.code == 0
            break
        assert done.code == -signal.SIGKILL
    assert count > 3


def test_a_full_disk_is_told_before_anything_comes(user: Project, tmp_path: Path) -> None:
    within = on_tmpfs("size=4m", tmp_path / "small", tmp_path / "left")
    done = user.run("pull", "x", "--to", str(tmp_path / "small"), within=within)
    done.expect(8, "free", "--to DIR")
    assert (tmp_path / "left").read_text().split() == [str(tmp_path / "small")]


def test_onto_another_file_system_and_into_a_read_only_one(user: Project, tmp_path: Path) -> None:
    within = on_tmpfs("size=400m", tmp_path / "other", tmp_path / "left")
    user.run("pull", "x", "--to", str(tmp_path / "other"), within=within).expect(0, "sha256 verified")
    assert f"x-{VERSION}.sqsh" in (tmp_path / "left").read_text()
    (tmp_path / "mine").mkdir()
    within = read_only(tmp_path / "mine")
    user.run("pull", "x", "--to", str(tmp_path / "mine/new"), within=within).expect(11, "Read-only")


def test_a_read_only_store_is_pulled_from(user: Project, to: Path) -> None:
    user.run("pull", "x", "--to", str(to), within=read_only(user.images)).expect(0)
    right(user, to)
    done = user.run("promote", f"x:{VERSION}", "--channel", "lts", within=read_only(user.images))
    done.expect(11, "you may not write to", "owner: ")


def test_deprecated_is_said_and_revoked_is_not_pulled(user: Project, to: Path, server: Server) -> None:
    (user.images / "x").rename(user.images / "y")
    (user.images / "y").rename(user.images / "x")
    words = ("--until", "9999-01-31", "--use", "x", "--because", "old CUDA")
    user.run("deprecate", f"x:{VERSION}", *words).expect(2, "is x:")
    assert user.run("history", "x").expect(0, f"published {VERSION}").out
    user.run("revoke", f"x:{VERSION}", "--because", "a token in it").expect(0, "invoke rollback x")
    for more in ((), ("--images", server.url)):
        user.run("pull", "x", "--to", str(to), *more).expect(17, "it is revoked: a token in it")
    user.run("promote", f"x:{VERSION}", "--channel", "lts", "--because", "x").expect(17, "is revoked")
    user.run("list").expect(0, "revoked: a token in it")
    user.run("show", "x").expect(0, "is revoked: a token in it", "small-r1 revoked")
    [data] = user.run("list", "--json").expect(0).events("result")
    assert data["images"][0]["revoked"] == {"because": "a token in it"}
    assert not to.exists()


def test_a_record_of_the_first_kiln_works(user: Project, to: Path) -> None:
    path = user.store.record("x", VERSION)
    kept = ("name", "version", "file", "digest", "size", "base", "base_digest", "platform_digest", "built")
    data = json.loads(path.read_text())
    path.chmod(0o644)
    path.write_text(json.dumps({"format": 1, **{name: data[name] for name in kept}}))
    (user.images / "x/history.jsonl").unlink()
    user.run("list").expect(0, VERSION)
    user.run("show", "x").expect(0, "an older Kiln published this")
    user.run("history", "x").expect(0, "nothing is known")
    user.run("pull", "x", "--to", str(to)).expect(0)
    user.run("promote", f"x:{VERSION}", "--channel", "lts").expect(11, "--because")
    user.run("promote", f"x:{VERSION}", "--channel", "lts", "--because", "it works").expect(0)
    right(user, to)


def test_a_damaged_record_makes_one_image_doubtful(user: Project, to: Path) -> None:
    shutil.copytree(user.images / "x", user.images / "y", symlinks=True)
    for path in (user.images / "y").glob("x-*"):
        path.rename(path.with_name(path.name.replace("x-", "y-", 1)))
    for channel in (user.images / "y").glob("current.sqsh"):
        channel.unlink()
        channel.symlink_to(f"y-{VERSION}.sqsh")
    path = user.store.record("y", VERSION)
    for text in ("{", json.dumps({**json.loads(user.store.record("x", VERSION).read_text()), "size": "x"})):
        path.chmod(0o644)
        path.write_text(text)
        user.run("list").expect(0, f"y      {VERSION}", "can't be read as a record", "sqsh:")
        user.run("pull", "y", "--to", str(to)).expect(11, "has no sound record")
        user.run("search", "small").expect(0, "x")
        user.run("pull", "x", "--to", str(to)).expect(0)
        user.run("gc", "--store", "--dry-run").expect(0, "its record is damaged")


ENROOT = '#!/bin/sh\necho "$ENROOT_DATA_PATH|$*" >> "$HOME/said"\n'


def test_create_makes_the_container_in_the_jobs_place(user: Project, to: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/enroot").write_text(ENROOT)
    (tmp_path / "bin/enroot").chmod(0o755)
    (tmp_path / "job-7").mkdir()
    user.site("cluster", containers=f"{tmp_path}/job-${{PBS_JOBID:-none}}")
    path = {"PATH": f"{tmp_path / 'bin'}:{user.environ['PATH']}"}
    argv = ("pull", "x", "--to", str(to), "--create", "--site", "cluster")
    for env in (path, {**path, "PBS_JOBID": "7"}, {**path, "PBS_JOBID": "7", "ENROOT_DATA_PATH": "/mine"}):
        user.run(*argv, env=env).expect(0, "Start it: enroot start --rw x")
    said = (user.root / "home/said").read_text().splitlines()
    file = to / f"x-{VERSION}.sqsh"
    assert said == [f"{place}|create --name x -- {file}" for place in ("", f"{tmp_path}/job-7", "/mine")]
