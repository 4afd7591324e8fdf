"""Layers on layers: what is mounted over what, and what is kept of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kiln import workspace
from kiln.assembly import CONTAINER, Flat, Stacked
from kiln.errors import RuntimeFailure, UsageError
from kiln.layers.local import Gone
from kiln.layers.store import LayerStore
from kiln.plan import PlannedLayer
from kiln.runtime import namespace
from kiln.runtime.namespace import Namespace
from kiln.workspace import Workspace
from tests.unit import layertiers
from tests.unit.layertiers import ENV, Heard, put, wanted

BASE = wanted("0" * 64, "base")


class Trees:
    """As much of a runtime as has trees."""

    def __init__(self, private: Workspace, space: namespace.Space) -> None:
        self._private, self._space = private, space

    def rootfs(self, container: str) -> Path:
        return self._space.view(self._private.containers / container)

    def remove(self, container: str) -> None:
        self.removed = container


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(layertiers.local(tmp_path), None, None)


@pytest.fixture
def space(overlays: None) -> Iterator[Namespace]:
    with namespace.opened(ENV) as opened:
        yield opened


@pytest.fixture
def stacked(tmp_path: Path, store: LayerStore, space: Namespace) -> Iterator[Stacked]:
    with workspace.opened(tmp_path / "work", "demo", {}) as private, contextlib.ExitStack() as leases:
        inside, outside = cast(Any, Trees(private, space)), cast(Any, Trees(private, namespace.HOST))
        yield Stacked(store, space, private, inside, outside, leases)


def base(stacked: Stacked) -> None:
    """Have a base with a file of its own."""

    def make(container: str) -> None:
        layertiers.tree(stacked._outside.rootfs(container), "base\n")

    stacked.base(BASE, make, Heard().silent_step)


def layer(stacked: Stacked, digit: str, script: Any) -> bool:
    """Have a layer that is what `script` does to the tree; whether it was reused."""
    item = PlannedLayer(int(digit), cast(Any, None), wanted(digit * 64), cast(Any, None))
    rootfs = stacked.runtime.rootfs(CONTAINER)

    def run() -> Sequence[Mapping[str, Any]]:
        script(rootfs)
        return [{"kind": "apt", "name": f"of-{digit}"}]

    return stacked.layer(item, run, Path("/none"), Heard().silent_step) is not None


def never(_: Path) -> None:
    pytest.fail("it was to be reused")


def test_each_layer_is_what_it_changed_and_is_made_once(stacked: Stacked, store: LayerStore) -> None:
    base(stacked)
    assert not layer(stacked, "1", lambda tree: (tree / "etc/motd").write_text("one\n"))
    assert not layer(stacked, "2", lambda tree: (tree / "etc/motd").unlink())
    assert not layer(stacked, "3", lambda tree: (tree / "new").touch())
    trees = [store.local.tree(entry) for entry in stacked.entries]
    assert (trees[0] / "etc/motd").read_text() == "base\n"
    assert (trees[1] / "etc/motd").read_text() == "one\n"
    assert [path.name for path in trees[3].iterdir() if path.name != "etc"] == ["new"]
    assert [list(entry.changes) for entry in stacked.entries[1:]] == [
        [{"kind": "apt", "name": f"of-{digit}"}] for digit in "123"
    ]
    assert store.local.tree(stacked.entries[0]) == stacked.bottom
    assert [entry.parent for entry in stacked.entries] == ["", *(entry.id for entry in stacked.entries[:3])]
    stacked.complete()
    rootfs = stacked.runtime.rootfs(CONTAINER)
    assert sorted(path.name for path in rootfs.iterdir()) == ["etc", "motd", "new"]
    assert not (rootfs / "etc/motd").exists()
    stacked.release()
    for entry in stacked.entries:
        with store.local.leased(entry):
            pass


def test_a_second_build_mounts_what_the_first_made(
    stacked: Stacked, store: LayerStore, space: Namespace, tmp_path: Path
) -> None:
    base(stacked)
    layer(stacked, "1", lambda tree: (tree / "etc/motd").write_text("one\n"))
    with workspace.opened(tmp_path / "second", "demo", {}) as private, contextlib.ExitStack() as leases:
        inside, outside = cast(Any, Trees(private, space)), cast(Any, Trees(private, namespace.HOST))
        second = Stacked(store, space, private, inside, outside, leases)
        base(second)
        assert layer(second, "1", never)
        second.complete()
        assert (second.runtime.rootfs(CONTAINER) / "etc/motd").read_text() == "one\n"
        said = json.loads((private.stack / "entries.json").read_text())
        assert said == [[entry.kind, entry.key, entry.id] for entry in stacked.entries]
        # What is mounted can't go.
        assert not any(store.local.remove(entry, frozenset()) for entry in second.entries)
        second.release()


def test_a_layer_that_fails_leaves_nothing_and_keeps_those_below(stacked: Stacked, store: LayerStore) -> None:
    base(stacked)
    layer(stacked, "1", lambda tree: (tree / "one").touch())

    def fail(tree: Path) -> None:
        (tree / "half").touch()
        raise RuntimeFailure("it broke")

    with pytest.raises(RuntimeFailure):
        layer(stacked, "2", fail)
    assert [entry.key[0] for entry in store.local.entries()] == ["0", "1"]
    assert store.look(wanted("1" * 64), stacked.entries[0].id, None).entry == stacked.entries[1]


def test_what_another_build_has_replaced_meanwhile_is_not_mounted(
    stacked: Stacked, store: LayerStore, tmp_path: Path
) -> None:
    base(stacked)
    layer(stacked, "1", lambda tree: (tree / "one").touch())
    put(store.local, tmp_path, "theirs", key="1" * 64)
    with pytest.raises(RuntimeFailure, match="made a layer below anew") as caught:
        stacked.mount()
    assert caught.value.hint == "run it again"


def test_a_kept_build_is_mounted_again_as_it_was(
    stacked: Stacked, store: LayerStore, space: Namespace
) -> None:
    base(stacked)
    layer(stacked, "1", lambda tree: (tree / "one").touch())
    stacked.mount()
    (stacked.runtime.rootfs(CONTAINER) / "under-way").touch()
    stacked._space.unmount(stacked._target)
    private = stacked._workspace
    with contextlib.ExitStack() as leases:
        again = Stacked(store, space, private, stacked.runtime, stacked._outside, leases)
        again.take_again()
        again.mount(anew=False)
        assert {"one", "under-way"} <= {path.name for path in again.runtime.rootfs(CONTAINER).iterdir()}
        space.unmount(again._target)


def test_a_kept_build_on_a_layer_that_is_gone_is_told(
    stacked: Stacked, store: LayerStore, tmp_path: Path
) -> None:
    base(stacked)
    layer(stacked, "1", lambda tree: (tree / "one").touch())
    stacked.mount()
    put(store.local, tmp_path, "theirs", key="1" * 64)
    with pytest.raises(UsageError, match="no longer in the layer store"):
        stacked.take_again()
    store.local.drop(stacked.entries[0])
    with pytest.raises((UsageError, Gone)):
        stacked.take_again()


def test_without_overlays_there_is_one_tree(tmp_path: Path) -> None:
    with workspace.opened(tmp_path, "demo", {}) as private:
        runtime = Trees(private, namespace.HOST)
        flat = Flat(cast(Any, runtime), private)
        ran: list[str] = []

        def make(container: str) -> None:
            ran.append(container)
            layertiers.tree(runtime.rootfs(container))

        flat.base(BASE, make, Heard().silent_step)
        item = cast(Any, None)
        assert flat.bottom == runtime.rootfs(CONTAINER)

        def run() -> Sequence[Mapping[str, Any]]:
            ran.append("layer")
            return []

        assert flat.layer(item, run, Path("/none"), Heard().silent_step) is None
        flat.complete()
        flat.release()
        assert (ran, runtime.removed) == ([CONTAINER, "layer"], CONTAINER)
