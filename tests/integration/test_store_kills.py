"""Publish, promote, roll back and gc: killed at every step, on a full disk, at one moment, at a wrong time.

A reader looks at the store all the while, and must never see a missing `current`, half a file, a record that
can't be read, or a broken catalogue.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kiln import channels
from kiln.store import Store
from tests.integration.namespaces import Machine, on_tmpfs, staying
from tests.integration.points import full, killed, later, listed, one_of_each
from tests.integration.project import Project

VERSION = "small-r1"
COMMANDS = {
    "promote": ("promote", "x:small-r1"),
    "rollback": ("rollback", "x"),
    "deprecate": (
        "deprecate",
        "x:small-r1",
        "--until",
        "9999-01-01",
        "--use",
        "x:small-r3",
        "--because",
        "old",
    ),
    "gc": ("gc", "--store", "--site", "strict"),
    "undelete": ("gc", "--undelete", "x:small-r1", "--site", "strict"),
}
POINTS = r"(rename|symlink|mkdir|remove) .*images"


class Reader(threading.Thread):
    """Looks at the image x again and again, and keeps what no user may see."""

    def __init__(self, store: Store, *sizes: int) -> None:
        super().__init__(daemon=True)
        self.store, self.over = store, threading.Event()
        self.sizes = sizes or (store.image("x", "small-r3").stat().st_size,)
        self.problems: list[str] = []
        self.rounds = 0

    def run(self) -> None:
        while not self.over.is_set():
            self.problems += self.look()
            self.rounds += 1

    def look(self) -> Iterator[str]:
        # The catalogue first: what it names must be there afterwards, too, but for what a gc takes meanwhile.
        catalog = json.loads(self.store.catalog.read_text())["images"]["x"]
        channel = self.store.channel("x", "current")
        try:
            size = channel.stat().st_size
        except FileNotFoundError:
            yield "current leads nowhere"
        else:
            if size not in self.sizes:
                yield f"current has {size} bytes"
        if "current" not in catalog["channels"]:
            yield "the catalogue has no current"
        for version in self.store.versions("x"):
            entry = self.store.entry("x", version)
            try:
                whole = entry.path.stat().st_size in self.sizes
            except FileNotFoundError:
                continue  # it went between two looks
            if entry.record is None and entry.path.exists():
                yield f"{version}: {entry.problem}"
            if not whole:
                yield f"{version} is not whole"
        if not (self.store.folder("x") / "index.html").stat().st_size:
            yield "an empty page"


@pytest.fixture
def three(user: Project) -> Project:
    """Three versions of one file; `current` leads to the last, and the first may go."""
    store = user.store
    about = store.record("x", VERSION)
    about.chmod(0o644)
    about.write_text(re.sub(r'"built": ".*?"', '"built": "2026-01-02T03:04:05Z"', about.read_text()))
    for number in (2, 3):
        for path in list(store.folder("x").glob(f"x-{VERSION}.*")):
            other = path.with_name(path.name.replace(VERSION, f"small-r{number}"))
            shutil.copy2(path, other)
        record = store.record("x", f"small-r{number}")
        record.chmod(0o644)
        record.write_text(record.read_text().replace(VERSION, f"small-r{number}"))
    user.site("strict", store={"keep_last": 2, "grace": "1h", "trash": "1d"})
    user.run("promote", "x:small-r2").expect(0)
    user.run("promote", "x:small-r3").expect(0)
    return user


def settled(project: Project) -> None:
    """What the links, the history and the catalogue say is one thing, and all of it can be read."""
    store = project.store
    catalog = json.loads(store.catalog.read_text())["images"]["x"]
    assert catalog["channels"] == store.channels("x")
    assert [each["version"] for each in catalog["versions"]] == store.versions("x")
    for version in store.versions("x"):
        assert store.entry("x", version).record


def steps(
    project: Project, folder: Path, words: Sequence[str], pattern: str, within: Sequence[str] = ()
) -> list[int]:
    """The points of a command at which to disturb it, one of each kind; it is run to its end for that."""
    place = folder / "points"
    place.unlink(missing_ok=True)
    project.run(*words, within=[*within, *listed(place, pattern)]).expect(0)
    return one_of_each(place)


@contextlib.contextmanager
def reading(reader: Reader) -> Iterator[None]:
    reader.start()
    yield
    reader.over.set()
    reader.join()
    assert reader.problems == [] and reader.rounds


def anew(machine: Machine, kept: Path, images: Path) -> None:
    """The store as it was, in the machine where it lies on a disk of its own."""
    script = 'rm -rf "$2"/* "$2"/.[!.]*; cp -a "$1"/. "$2"'
    subprocess.run([*machine.within, "sh", "-c", script, "sh", str(kept), str(images)], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_point_is_never_seen(three: Project, tmp_path: Path, name: str) -> None:
    if name == "undelete":
        three.run(*COMMANDS["gc"]).expect(0, "goes     x:small-r1")
    start = tmp_path / "start"
    shutil.copytree(three.images, start, symlinks=True)
    points = steps(three, tmp_path, COMMANDS[name], POINTS)
    assert len(points) >= 4
    for count in points:
        shutil.rmtree(three.images)
        shutil.copytree(start, three.images, symlinks=True)
        with reading(Reader(three.store)):
            done = three.run(*COMMANDS[name], within=killed(tmp_path / "point", count, POINTS))
        assert list(Reader(three.store).look()) == []
        assert done.code == -signal.SIGKILL
        # The next one finds all as if nothing had been, and mends it.
        channels.promote(three.store, "x:small-r2", "current", "", lambda text: None)
        settled(three)


BUILD = ("build", "x", "--no-cache")
# Before each mode is set nothing is otherwise than before the rename that follows.
PUBLISH = (
    r"(link|rename|symlink|mkdir|rmtree) .*images.*(\.staging|x-small|current|history|catalog|index\.html)"
)


@pytest.fixture
def built(three: Project) -> Project:
    """With the layers of x there, so that a build is little more than a publish."""
    three.hook("fine", "exit 0")
    three.manifest("x", smoke=["fine"])
    three.build("x")
    return three


def test_a_kill_at_any_point_of_a_publish_is_never_seen(built: Project, tmp_path: Path) -> None:
    both = [built.store.find(each).path.stat().st_size for each in ("x:small-r1", "x:current")]
    points = steps(built, tmp_path, BUILD, PUBLISH)
    assert len(points) >= 8
    for count in points:
        with reading(Reader(built.store, *both)):
            done = built.run(*BUILD, within=killed(tmp_path / "point", count, PUBLISH))
        assert done.code == -signal.SIGKILL
    built.build("x", "--no-cache")
    settled(built)
    numbers = [int(version.rpartition("-r")[2]) for version in built.store.versions("x")]
    assert numbers == sorted(set(numbers))


def test_a_disk_that_is_full_at_each_step_of_a_publish(built: Project, tmp_path: Path) -> None:
    """Either nothing is published and that is said, or the version is whole; the next build finds its way."""
    both = [built.store.find(each).path.stat().st_size for each in ("x:small-r1", "x:current")]
    kept, codes = tmp_path / "kept", list[int]()
    shutil.copytree(built.images, kept, symlinks=True)
    points = steps(built, tmp_path, BUILD, PUBLISH)[::2]
    with staying(on_tmpfs("size=48m", built.images, tmp_path / "left"), built.root) as machine:
        store, filler = Store(machine.view(built.images)), built.images / "filler"
        for count in points:
            anew(machine, kept, built.images)
            before = store.versions("x")
            done = built.run(*BUILD, within=[*machine.within, *full(filler, count, PUBLISH)])
            assert done.code in (0, 8) and "Traceback" not in done.said, (count, done.said)
            assert machine.view(filler).exists(), count
            assert list(Reader(store, *both).look()) == [], count
            assert done.code or store.versions("x") != before
            machine.view(filler).unlink()
            codes.append(done.code)
        built.run(*BUILD, within=machine.within).expect(0, "Published x")
        assert list(Reader(store, *both).look()) == []
    assert 8 in codes


def test_promote_and_rollback_at_the_same_moment(three: Project) -> None:
    reader = Reader(three.store)
    reader.start()
    running = [
        three.start(*words)
        for _ in range(2)
        for words in (("promote", "x:small-r1"), ("rollback", "x"), ("promote", "x:small-r2"))
    ]
    codes = [each.end().code for each in running]
    reader.over.set()
    reader.join()
    assert reader.problems == [] and set(codes) <= {0, 11}
    last = [json.loads(line) for line in (three.images / "x/history.jsonl").read_text().splitlines()][-1]
    assert three.store.channels("x")["current"] == last["version"]
    settled(three)


def test_a_disk_that_is_full_at_each_step(three: Project, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(three.images, kept, symlinks=True)
    writes = r"(rename|symlink|mkdir|chmod) .*images"
    with staying(on_tmpfs("size=32m", three.images, tmp_path / "left"), three.root) as machine:
        store, filler = Store(machine.view(three.images)), three.images / "filler"
        for name, words in COMMANDS.items():
            anew(machine, kept, three.images)
            if name == "undelete":
                three.run(*COMMANDS["gc"], within=machine.within).expect(0)
            begin = tmp_path / name
            shutil.copytree(machine.view(three.images), begin, symlinks=True)
            for count in steps(three, tmp_path, words, writes, machine.within)[::3]:
                anew(machine, begin, three.images)
                done = three.run(*words, within=[*machine.within, *full(filler, count, writes)])
                assert done.code in (0, 8), done.said
                assert "Traceback" not in done.said
                assert list(Reader(store).look()) == [], (name, count)
                machine.view(filler).unlink()
            three.run("promote", "x:small-r2", within=machine.within).expect(0)
            assert list(Reader(store).look()) == []


@pytest.mark.parametrize("shift", [-400 * 86_400.0, 400 * 86_400.0])
def test_a_clock_that_goes_back(three: Project, shift: float) -> None:
    """What counts is the order of the lines; nothing of the future is old."""
    clock = later(shift)
    three.run("promote", "x:small-r1", within=clock).expect(0)
    three.run("rollback", "x").expect(0, "small-r3")
    three.run("rollback", "x", within=clock).expect(0, "small-r2")
    assert three.store.channels("x")["current"] == "small-r2"
    three.run("gc", "--store", "--site", "strict", within=later(-400 * 86_400.0)).expect(0, "built ")
    three.run("gc", "--store", "--site", "strict", within=clock)
    three.run("gc", "--store", "--site", "strict", within=later(-400 * 86_400.0)).expect(0)
    settled(three)


def test_gc_says_what_and_why_and_has_a_way_back(three: Project) -> None:
    dry = three.run("gc", "--store", "--site", "strict", "--dry-run").expect(0, "nothing was changed")
    assert "goes     x:small-r1" in dry.out and "x:small-r3  (current leads to it)" in dry.out
    assert three.store.versions("x") == ["small-r1", "small-r2", "small-r3"]
    three.run("gc", "--store", "--site", "strict").expect(0, "invoke gc --undelete x:small-r1")
    assert three.store.versions("x") == ["small-r2", "small-r3"]
    note = (three.images / "x/x-small-r1.removed").read_text()
    assert "Use instead: x:small-r3" in note
    settled(three)
    three.run("gc", "--undelete", "x:small-r1").expect(0, "back     x:small-r1")
    three.run("pull", "x:small-r1", "--to", "pulled").expect(0)
    settled(three)


def test_smoke_moves_a_candidate_and_keeps_what_it_saw(user: Project) -> None:
    """The hook skips, as on a node without GPUs; then it is there what it needs."""
    user.hook("needs", 'if [ -e /proc/1/never ]; then exit 0; fi; echo "nothing here"; exit 77')
    user.manifest("y", smoke=["needs"])
    user.run("build", "y").expect(0, "channel  candidate")
    assert user.store.channels("y") == {"candidate": VERSION}
    user.run("smoke", "y").expect(0)
    assert user.store.channels("y") == {"candidate": VERSION}
    user.hook("needs", "exit 0")
    done = user.run("smoke", "y:candidate").expect(0, "passed", "current leads to it now")
    assert "layer" not in done.err, "a changed hook means testing again, not building again"
    assert user.store.channels("y") == {"current": VERSION, "candidate": VERSION}
    record = user.store.find("y").record
    assert record and record.smoke[0].state == "passed" and record.smoke[0].hardware
    user.hook("needs", "echo broken; exit 1")
    user.run("smoke", "y").expect(10, "channels stay as they are")
    assert user.store.channels("y")["current"] == VERSION
    user.run("show", "y").expect(0, "failed", "kernel")
