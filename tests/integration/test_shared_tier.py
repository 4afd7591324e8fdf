"""Two nodes with a disk each and one shared folder: what is taken up there, from whom, and what is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration import trees
from tests.integration.layered import HARD, SETUID, Layered
from tests.integration.namespaces import AS_USER
from tests.integration.project import Done, Project

TWO = ("mkdir /data; echo 1 > /data/1", "rm -r /data; mkdir /data; echo 2 > /data/2")
STRANGER = 12_345
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to somebody else")


@dataclass(frozen=True)
class Cluster:
    """Nodes by their numbers. Each has a local disk; `shared` and the cache are seen by all."""

    layered: Layered
    shared: Path

    @property
    def project(self) -> Project:
        return self.layered.project

    def node(self, number: int) -> Path:
        return self.project.root / f"node{number}"

    def env(self, number: int) -> dict[str, str]:
        return {"NODE": str(self.node(number)), "KILN_SITE": "cluster"}

    def say(self, number: int, name: str = "x", *args: str, within: tuple[str, ...] = ()) -> Done:
        return self.layered.say(name, *args, env=self.env(number), within=within)

    def reasons(self, number: int) -> list[str]:
        done = self.project.run("plan", "x", "--json", env=self.env(number)).expect(0)
        [plan] = done.events("result")
        return [plan["base"]["reason"], *(layer["reason"] for layer in plan["layers"])]

    def entries(self, kind: str = "layer") -> list[Path]:
        """The folders of the shared entries of a kind, the oldest first."""
        found = (self.shared / f"v1/{kind}s").iterdir()
        return sorted(found, key=lambda path: json.loads((path / "entry.json").read_text())["made"])

    def trust(self, *names: str) -> None:
        self.project.site(
            "cluster", scratch="${NODE}", layers={"shared": str(self.shared), "trusted": list(names)}
        )


@pytest.fixture
def cluster(layered: Layered, tmp_path: Path) -> Cluster:
    """With the image `x` of two layers, built on node 1 and not published any more."""
    made = Cluster(layered, tmp_path / "shared")
    made.trust()
    layered.manifest("x", TWO)
    made.say(1)
    assert layered.ran() == ["1", "2"]
    layered.current("x").rename(tmp_path / "first.sqsh")
    layered.unpublish("x")
    return made


def first(cluster: Cluster) -> Path:
    return cluster.shared.with_name("first.sqsh")


def test_the_next_node_takes_up_what_the_first_made_and_runs_nothing(
    layered: Layered, tmp_path: Path, runtime: tuple[str, dict[str, str]]
) -> None:
    name, env = runtime
    cluster = Cluster(layered, tmp_path / "shared")
    cluster.trust()
    layered.manifest("x", HARD, allow_setuid=list(SETUID))
    layered.say("x", "--runtime", name, env={**env, **cluster.env(1)})
    image = layered.current("x").rename(tmp_path / "first.sqsh")
    layered.unpublish("x")
    assert layered.ran() == ["1", "2", "3", "4"]
    shutil.rmtree(cluster.node(1))
    done = layered.say("x", "--runtime", name, env={**env, **cluster.env(2)})
    assert layered.ran() == []
    assert done.err.count("unpacking it from the shared tier") == done.err.count("reused, made") == 5
    trees.assert_same(image, layered.current("x"))
    # The second time it is there.
    layered.unpublish("x")
    assert "unpacking it" not in layered.say("x", "--runtime", name, env={**env, **cluster.env(2)}).err
    assert sorted(path.name for path in cluster.shared.rglob(".*")) == []


def test_a_reader_takes_up_and_puts_nothing_there(cluster: Cluster) -> None:
    project, layered = cluster.project, cluster.layered
    layered.manifest("x", (*TWO, "echo 3 > /data/3"))
    folders = [cluster.shared, *(path for path in cluster.shared.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    before = sorted(cluster.shared.rglob("*"))
    project.run("doctor", env=cluster.env(2), within=AS_USER).expect(0, "shared tier", "read only")
    done = cluster.say(2, within=AS_USER)
    for path in folders:
        path.chmod(0o755)
    assert layered.ran() == ["3"]
    assert done.err.count("unpacking it from the shared tier") == 3
    assert "not put into" not in done.err
    assert sorted(cluster.shared.rglob("*")) == before
    trees.assert_same(layered.current("x"), layered.build("x", "--no-cache"))


def test_a_shared_folder_that_fails_in_the_middle_is_no_reason_to_fail(cluster: Cluster) -> None:
    """The folder may be written, those in it may not: seen only when something is put there."""
    cluster.layered.manifest("x", (*TWO, "echo 3 > /data/3"))
    (cluster.shared / "v1/layers").chmod(0o555)
    done = cluster.say(2, within=AS_USER)
    (cluster.shared / "v1/layers").chmod(0o755)
    assert cluster.layered.ran() == ["3"]
    assert "not put into the shared tier" in done.err
    assert [path.name for path in (cluster.shared / "v1").glob(".*")] == []


@as_root
def test_entries_of_others_are_taken_only_from_those_who_are_named(cluster: Cluster) -> None:
    lower, upper = cluster.entries()
    for path in (upper, *upper.iterdir()):
        os.chown(path, STRANGER, STRANGER)
    told = f"belongs to uid {STRANGER}, who is not named in the site's 'trusted'"
    assert told in cluster.reasons(2)[2]
    cluster.trust("nobody-of-that-name", str(STRANGER))
    cluster.project.run("doctor", env=cluster.env(2)).expect(0, "nobody here is called nobody-of-that-name")
    assert "in the shared tier" in cluster.reasons(2)[2]
    # One file of it that is somebody else's is enough.
    os.chown(lower / "tree.sqsh", 54_321, 54_321)
    assert "tree.sqsh belongs to uid 54321" in cluster.reasons(2)[1]
    done = cluster.say(2)
    assert cluster.layered.ran() == ["1", "2"]
    assert "belongs to uid 54321" in done.err
    trees.assert_same(first(cluster), cluster.layered.current("x"))
    # What is another's is not written over.
    assert upper.stat().st_uid == STRANGER


@as_root
def test_an_entry_of_one_who_is_named_is_taken_up(cluster: Cluster) -> None:
    for path in (cluster.shared, *cluster.shared.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    cluster.trust(str(STRANGER))
    cluster.say(2)
    assert cluster.layered.ran() == []
    trees.assert_same(first(cluster), cluster.layered.current("x"))


def test_an_entry_that_others_can_write_is_not_taken(cluster: Cluster) -> None:
    entry = cluster.entries()[1]
    for path in (entry, entry / "entry.json", entry / "tree.sqsh"):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        assert f"{path.name} can be written by others than its owner" in cluster.reasons(2)[2]
        path.chmod(mode)
    assert "in the shared tier" in cluster.reasons(2)[2]
    path.chmod(mode | 0o002)
    cluster.say(2)
    assert cluster.layered.ran() == ["2"]


def swap(entry: Path, other: Path) -> None:
    """Put another entry in the place of this one."""
    shutil.rmtree(entry)
    shutil.copytree(other, entry)


def hurt(entry: Path, other: Path) -> None:
    """Change a byte, with the size as it was."""
    packed = entry / "tree.sqsh"
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 255
    packed.chmod(0o644)
    packed.write_bytes(data)
    packed.chmod(0o444)


def cut(entry: Path, other: Path) -> None:
    (entry / "tree.sqsh").chmod(0o644)
    os.truncate(entry / "tree.sqsh", 96)
    (entry / "tree.sqsh").chmod(0o444)


def half(entry: Path, other: Path) -> None:
    (entry / "tree.sqsh").unlink()


def linked(entry: Path, other: Path) -> None:
    """A link to another's file: what is checked must be what is read."""
    (entry / "tree.sqsh").unlink()
    (entry / "tree.sqsh").symlink_to(other / "tree.sqsh")


def garbled(entry: Path, other: Path) -> None:
    (entry / "entry.json").chmod(0o644)
    (entry / "entry.json").write_text("{}")


def newer(entry: Path, other: Path) -> None:
    said = json.loads((entry / "entry.json").read_text())
    (entry / "entry.json").chmod(0o644)
    (entry / "entry.json").write_text(json.dumps({**said, "format": said["format"] + 1}))


DAMAGES: tuple[tuple[Callable[[Path, Path], None], str], ...] = (
    (swap, "it is another entry, moved there"),
    (hurt, "its bytes have the digest"),
    (cut, "its bytes have the digest"),
    (half, ""),
    (linked, "isn't taken"),
    (garbled, "can't be read"),
    (newer, "made by a newer Kiln"),
)


def test_an_unsound_entry_is_said_and_made_anew(cluster: Cluster) -> None:
    """And put there again, sound: the next node takes it, until it is damaged in another way."""
    for number, (damage, words) in enumerate(DAMAGES, 2):
        lower, upper = cluster.entries()
        damage(upper, lower)
        done = cluster.say(number)
        assert (damage, cluster.layered.ran()) == (damage, ["2"])
        assert words in done.err, (damage, done.err)
        trees.assert_same(first(cluster), cluster.layered.current("x"))
        cluster.layered.unpublish("x")
        shutil.rmtree(cluster.node(number))
    cluster.say(2)
    assert cluster.layered.ran() == []


def test_a_lower_layer_made_anew_leaves_none_above_it_fit(cluster: Cluster) -> None:
    cut(cluster.entries()[0], Path())
    cluster.say(2)
    assert cluster.layered.ran() == ["1", "2"]
    cluster.layered.unpublish("x")
    cluster.say(1)
    # Node 1 has its own, which still fits.
    assert cluster.layered.ran() == []


def test_a_newer_layout_is_refused_and_left_as_it_is(cluster: Cluster) -> None:
    project = cluster.project
    for place, words in (
        (cluster.shared / "v1/format", "the shared layer store"),
        (cluster.node(1) / f"trees/{os.getuid()}/format", "the layer store"),
    ):
        known = place.read_text()
        place.write_text("2\n")
        before = sorted(path for path in place.parent.rglob("*") if "trash" not in str(path))
        for command in (("build", "x"), ("gc",)):
            project.run(*command, env=cluster.env(1)).expect(11, words, "has format", "update this Kiln")
        project.run("doctor", env=cluster.env(1)).expect(4, words, "update this Kiln")
        assert sorted(path for path in place.parent.rglob("*") if "trash" not in str(path)) == before
        place.write_text(known)
    assert cluster.layered.ran() == []


def test_gc_removes_the_callers_own_from_the_shared_tier_too(cluster: Cluster) -> None:
    for path in cluster.shared.rglob("tree.sqsh"):
        os.utime(path, (0, 0))
    [done] = cluster.project.run("gc", "--json", env=cluster.env(2)).expect(0).events("result")
    assert sorted(thing["kind"] for thing in done["things"]) == ["shared base", *["shared layer"] * 2]
    assert cluster.entries("base") + cluster.entries() == []
