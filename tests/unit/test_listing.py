"""An image's listing as data, its links, and the reading of files in it."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from kiln import listing
from kiln.listing import Entry, Listing
from kiln.run import CommandFailed, host_environment, run
from kiln.squashfs import arguments

LINE = "-rw-r--r-- 0/0                       0 2026-11-25 10:08 squashfs-root/usr/lib/{}/module_{}.py"


AS_ROOT = ("unshare", "--user", "--map-root-user")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def env() -> dict[str, str]:
    return host_environment(os.environ)


def packed(tree: Path) -> Path:
    image = tree.with_name("x.sqsh")
    # As in a build: there the caller is root, and reads every file.
    run([*AS_ROOT, "mksquashfs", str(tree), str(image), *arguments(())], what="pack", env=env(), timeout=60)
    return image


def everything(_: Entry) -> bool:
    return True


def nothing(_: Entry) -> bool:
    return False


def listed(tree: Path) -> Listing:
    return listing.of(packed(tree), env(), everything)


def test_kinds_modes_sizes_and_targets(tree: Path) -> None:
    (tree / "a b").mkdir()
    (tree / "a b").chmod(0o3777)
    (tree / "su").write_text("four")
    (tree / "su").chmod(0o6755)
    (tree / "odd").touch()
    (tree / "odd").chmod(0o7000)
    (tree / "link").symlink_to("a b/../su")
    os.mkfifo(tree / "pipe", 0o600)
    assert set(listed(tree)) - {listed(tree).entries["/"]} == {
        Entry("/a b", "d", 0o3777, 0, 0, 3),
        Entry("/su", "-", 0o6755, 0, 0, 4),
        Entry("/odd", "-", 0o7000, 0, 0, 0),
        Entry("/link", "l", 0o777, 0, 0, 9, "a b/../su"),
        Entry("/pipe", "p", 0o600, 0, 0, 0),
    }


def test_devices_and_other_owners_are_read() -> None:
    found = map(
        listing.parse,
        [
            "crw-rw-rw- 0/5                  10,229 2026-11-25 10:08 squashfs-root/dev/fuse",
            "brw-rw---- 1000/6                8,  0 2026-11-25 10:08 squashfs-root/dev/sda",
        ],
    )
    assert [entry and entry[1:5] for entry in found] == [("c", 0o666, 0, 5), ("b", 0o660, 1000, 6)]


def test_names_with_a_line_break_are_found_and_hide_nothing(tree: Path) -> None:
    (tree / "one\nline").write_text("")
    (tree / "one\nline").chmod(0o4755)
    (tree / "two").touch()
    entries = listed(tree).entries
    assert entries["/one"].mode == 0o4755
    assert "/two" in entries


def test_links_are_followed_as_in_the_image(tree: Path) -> None:
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/python3.11").touch()
    (tree / "usr/bin/python3").symlink_to("python3.11")
    (tree / "bin").symlink_to("usr/bin")
    (tree / "opt").mkdir()
    (tree / "opt/python").symlink_to("/bin/python3")
    (tree / "opt/up").symlink_to("../../../bin/python3")
    (tree / "opt/gone").symlink_to("/usr/bin/python4")
    (tree / "opt/round").symlink_to("round")
    found = listing.of(packed(tree), env(), nothing)
    places = {name: found.find(f"/opt/{name}") for name in ("python", "up", "gone", "round")}
    assert list(places.values()) == ["/usr/bin/python3.11"] * 2 + [None, None]


def test_small_files_are_read_whatever_their_names_and_modes(tree: Path) -> None:
    texts = {"/[a]*?\\b c": b"one", "/closed": b"two", "/deep/er/file": b"three", "/empty": b""}
    for path, text in texts.items():
        place = tree / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text)
    (tree / "large").write_bytes(bytes(listing.LARGEST_READ + 1))
    (tree / "link").symlink_to("closed")
    (tree / "closed").chmod(0)
    image = packed(tree)
    private = tree.with_name("private")
    private.mkdir()
    assert listing.read(image, listing.of(image, env(), everything), private, env()) == texts
    assert list(private.iterdir()) == []


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.sqsh").write_bytes(b"hsqs" + bytes(200))
    with pytest.raises(CommandFailed):
        listing.of(tmp_path / "x.sqsh", env(), everything)


def test_a_large_image_is_listed_quickly_and_in_little_memory() -> None:
    count = 82_000
    found = Listing(nothing)
    tracemalloc.start()
    for number in range(count):
        entry = listing.parse(LINE.format(number % 400, number))
        assert entry
        found.add(entry)
    assert entry and found.has(entry.path)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 16 * count
    assert not found.entries
    assert not found.has("/no")
    started = time.process_time()
    for number in range(count):
        listing.parse(LINE.format(number % 400, number))
    assert time.process_time() - started < 2
