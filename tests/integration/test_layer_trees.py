"""What overlays make hard: the published tree is that of layers which ran one after the other in one tree."""

from __future__ import annotations

from tests.integration import trees
from tests.integration.layered import HARD, SETUID, Layered


def test_published_tree_is_the_same_with_the_store_and_without(
    layered: Layered, runtime: tuple[str, dict[str, str]]
) -> None:
    name, env = runtime
    args = ("--runtime", name)
    layered.manifest("x", HARD, allow_setuid=list(SETUID))
    built = layered.build("x", *args, env=env)
    trees.assert_same(built, layered.build("x", "--no-cache", *args, env=env))
    trees.assert_same(built, layered.plain("x", env, *args))
    # A layer of its own on what was kept, whose base is three of the four.
    layered.manifest("x", HARD[:3], allow_setuid=list(SETUID))
    layered.ran()
    trees.assert_same(layered.build("x", *args, env=env), layered.plain("x", env, *args))
    # What is compared holds what is hard.
    found = trees.whole(built)
    assert found["data/kept"][-1] == sorted(("data/kept", "data/odd \u00e9 name"))
    assert "data/opaque/old" not in found and "data/renamed/1" not in found
    assert [path for path in found if "data/" in path and "security.capability" in str(found[path])] == [
        "data/able"
    ]
