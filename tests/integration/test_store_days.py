"""The images folder on bad days: missing, read-only, full; and several who use it at once."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from kiln import files
from tests.integration import trees
from tests.integration.namespaces import AS_USER, on_tmpfs, read_only
from tests.integration.project import Project


def test_missing_images_root_is_made(project: Project) -> None:
    project.manifest("x")
    place = project.root / "not/yet/there"
    project.run("build", "x", "--images", str(place)).expect(0)
    assert (place / "x/current.sqsh").is_file()
    project.nothing_published()


def test_listing_a_missing_images_root_names_it(project: Project) -> None:
    project.run("list").expect(11, str(project.images), "KILN_IMAGES")
    assert not project.images.exists()


def test_read_only_images_root_is_told_before_any_work(project: Project) -> None:
    project.manifest("x")
    project.images.mkdir()
    done = project.run("build", "x", within=read_only(project.images))
    done.expect(11, f"you may not write to {project.images}", "KILN_IMAGES=~/images invoke build x")
    assert "base sqsh" not in done.err
    assert not project.cache.exists()


def test_folder_of_somebody_else_is_told_before_any_work(project: Project) -> None:
    project.manifest("x")
    project.build("x")
    (project.images / "x").chmod(0o555)
    done = project.run("build", "x", "--no-cache", within=AS_USER)
    (project.images / "x").chmod(0o755)
    done.expect(11, f"you may not write to {project.images}/x")
    assert project.store.versions("x") == ["small-r1"]


def test_images_root_that_is_a_file_is_told(project: Project) -> None:
    project.manifest("x")
    project.images.write_text("")
    project.run("build", "x").expect(11, str(project.images))


def test_full_images_root_publishes_nothing_and_leaves_nothing(project: Project, tmp_path: Path) -> None:
    big = project.file("big", os.urandom(45_000_000))
    project.manifest("x", [{"copy": {big: "/big"}}])
    done = project.run("build", "x", within=on_tmpfs("size=40m", project.images, tmp_path / "left"))
    done.expect(8, "no space left while writing", "df -h")
    left = (tmp_path / "left").read_text().split()
    assert [path for path in left if path.endswith((".sqsh", ".staging", ".json", ".sha256"))] == []
    assert project.workspaces() == []


def test_file_is_copied_to_another_file_system_whole(project: Project, tmp_path: Path) -> None:
    project.manifest("x")
    within = on_tmpfs("size=400m", project.images, tmp_path / "left")
    project.run("build", "x", within=within).expect(0, "Published x small-r1")
    left = (tmp_path / "left").read_text()
    assert "x-small-r1.sqsh" in left and ".staging" not in left


class Reader(threading.Thread):
    """Looks at the store again and again, as users do, and keeps what no user may see."""

    def __init__(self, project: Project) -> None:
        super().__init__()
        self.project, self.over = project, threading.Event()
        self.problems: list[str] = []
        self.rounds = 0

    def run(self) -> None:
        while not self.over.is_set():
            self.rounds += 1
            self.problems += self._problems()

    def _problems(self) -> Iterator[str]:
        store = self.project.store
        for channel in ("current", "candidate"):
            link = store.channel("x", channel)
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(link)
                if not (link.parent / target).is_file():
                    yield f"{channel} leads to {target}, which isn't there"
        for version in store.versions("x"):
            entry = store.entry("x", version)
            if entry.record is None:
                yield entry.problem
            elif entry.path.stat().st_size != entry.record.size:
                yield f"{entry.path} is not whole"
        with contextlib.suppress(FileNotFoundError):
            json.loads(store.catalog.read_text())


def test_two_builds_at_once_get_different_numbers_and_readers_see_whole_images(project: Project) -> None:
    project.hook("fine", "exit 0")
    project.manifest("x", smoke=["fine"])
    reader = Reader(project)
    reader.start()
    try:
        (project.images / "x").mkdir(parents=True)
        with files.locked(project.images / "x/.lock", wait=0):
            builds = [project.start("build", "x", "--no-cache") for _ in range(2)]
            for running in builds:
                running.until("which holds")
        done = [running.end().expect(0) for running in builds]
        project.build("x", "--no-cache")
    finally:
        reader.over.set()
        reader.join()
    assert reader.problems == []
    assert reader.rounds > 1
    versions = project.store.versions("x")
    assert versions == ["small-r1", "small-r2", "small-r3"]
    assert sorted(text.out.split("Published x ")[1].split()[0] for text in done) == versions[:2]
    catalog = json.loads(project.store.catalog.read_text())["images"]["x"]
    assert [version["version"] for version in catalog["versions"]] == versions
    assert catalog["channels"] == project.store.channels("x") == {"current": "small-r3"}


def test_builds_of_different_images_do_not_lose_each_other_in_the_catalog(project: Project) -> None:
    project.images.mkdir()
    names = [project.manifest(name) for name in ("a", "b", "c")]
    with files.locked(project.images / ".lock", wait=0):
        builds = [project.start("build", name) for name in names]
        for running in builds:
            running.until("which holds")
    for running in builds:
        running.end().expect(0)
    assert sorted(json.loads(project.store.catalog.read_text())["images"]) == names


def test_image_of_ours_as_a_base_is_pinned_by_its_digest(project: Project) -> None:
    project.manifest("below", [{"run": "echo one > /root/level"}])
    project.manifest("above", [{"run": "cat /root/level; echo two > /root/level"}], base="image:below")
    below = project.build("below")
    above = project.build("above")
    assert (above.base, above.base_digest, above.version) == ("image:below", below.digest, "small-r1-r1")
    assert trees.content(project.store.image("above", above.version), "/root/level") == "two\n"
    assert trees.content(project.store.image("below", below.version), "/root/level") == "one\n"


def test_what_a_killed_publish_left_is_written_over(project: Project) -> None:
    project.manifest("x")
    folder = project.images / "x"
    (folder / ".staging").mkdir(parents=True)
    (folder / ".staging/half.sqsh").write_text("half")
    (folder / "x-small-r1.json").write_text("{}")
    (folder / "x-small-r1.json").chmod(0o444)
    assert project.build("x").version == "small-r1"
    assert not (folder / ".staging").exists()
