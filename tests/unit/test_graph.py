"""The order of images that are built on images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kiln import graph
from kiln.errors import ManifestError
from kiln.graph import Graph

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def add(**bases: str) -> None:
        for name, base in bases.items():
            text = f"format: 1\nname: {name}\n# what it is made from\nbase: {base}\n"
            (tmp_path / f"{name}.yaml").write_text(text)

    return add


def made(folder: Path, *published: str) -> Graph:
    return graph.of(folder, lambda name: name in published)


def test_parents_come_before_what_is_built_on_them(tmp_path: Path, write: Write) -> None:
    write(a="debootstrap:bookworm", b="image:a", c="image:b:candidate", d="image:a", e="oci:x")
    found = made(tmp_path)
    assert found.order(["c", "e", "b", "d", "a"]) == ["a", "b", "c", "e", "d"]
    assert found.order(["d", "c", "c"]) == ["d", "c"]
    assert found.needs(["e", "c", "b"]) == {"e": (), "b": (), "c": ("b",)}
    assert found.parents("c") == ("b",)
    assert found.ancestors("c") == ("b", "a")
    assert found.children("a") == ("b", "d")


def test_what_was_never_published_is_built_too(tmp_path: Path, write: Write) -> None:
    write(a="debootstrap:bookworm", b="image:a", c="image:b")
    assert made(tmp_path).with_unpublished(["c"]) == ["a", "b", "c"]
    assert made(tmp_path, "a").with_unpublished(["c"]) == ["b", "c"]
    assert made(tmp_path, "a", "b").with_unpublished(["c"]) == ["c"]
    # What `c` is built on is there, whatever that was built on once.
    assert made(tmp_path, "b").with_unpublished(["c"]) == ["c"]


def test_a_version_is_waited_for_by_nobody(tmp_path: Path, write: Write) -> None:
    write(a="debootstrap:bookworm", b="image:a:bookworm-r1", c="image:c:bookworm-r2")
    found = made(tmp_path, "a")
    assert found.needs(["b", "a", "c"]) == {"b": (), "a": (), "c": ()}
    assert found.nodes["b"].pinned and found.nodes["b"].parent == "a"
    assert found.children("a") == ()


def test_a_cycle_is_a_mistake_with_file_and_line(tmp_path: Path, write: Write) -> None:
    write(a="image:c", b="image:a", c="image:b", d="image:c", e="oci:x")
    found = made(tmp_path)
    with pytest.raises(ManifestError) as caught:
        found.order(["a"])
    assert caught.value.message == f"{tmp_path}/a.yaml:4: images are built on each other: a -> c -> b -> a"
    assert [line for line in caught.value.details if ".yaml:" in line] == [
        f"{tmp_path}/a.yaml:4:7: a is built on c",
        f"{tmp_path}/c.yaml:4:7: c is built on b",
        f"{tmp_path}/b.yaml:4:7: b is built on a",
    ]
    # `d` is built on the cycle, and no part of it.
    with pytest.raises(ManifestError, match=r"c\.yaml:4: images are built on each other: c -> b -> a -> c"):
        found.order(["d"])
    assert found.order(["e"]) == ["e"]
    with pytest.raises(ManifestError):
        found.check()


def test_an_image_on_itself_is_a_cycle(tmp_path: Path, write: Write) -> None:
    write(a="image:a")
    with pytest.raises(ManifestError, match="a -> a"):
        made(tmp_path).ancestors("a")


def test_an_unknown_parent_is_a_mistake_with_file_and_line(tmp_path: Path, write: Write) -> None:
    write(torch="oci:x", geo="image:torhc", other="image:foreign")
    with pytest.raises(ManifestError) as caught:
        made(tmp_path, "foreign").order(["geo"])
    assert caught.value.message == f"{tmp_path}/geo.yaml:4: the base of geo is an unknown image"
    assert caught.value.details[0].startswith(f"{tmp_path}/geo.yaml:4:7: there is no manifest of 'torhc'")
    assert "did you mean 'torch'?" in caught.value.details[0]
    assert "base: image:torhc" in caught.value.details[1]
    # An image of another site needs no manifest here.
    assert made(tmp_path, "foreign").order(["other"]) == ["other"]


def test_a_broken_manifest_is_in_the_way_of_what_is_built_on_it(tmp_path: Path, write: Write) -> None:
    write(a="oci:x", b="image:broken", broken="latest and greatest")
    found = made(tmp_path)
    assert found.order(["a"]) == ["a"]
    assert found.names == ["a", "b", "broken"]
    for name in ("b", "broken"):
        with pytest.raises(ManifestError, match=r"broken\.yaml has a mistake"):
            found.order([name])
