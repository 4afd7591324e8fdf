"""One layer under guard: the words for a breach, and what is told of a layer without one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from kiln import guard as guards
from kiln import inventory, manifest
from kiln.errors import GuardError
from kiln.manifest import Manifest
from kiln.plan import PlannedLayer
from kiln.protection import Protection
from kiln.record import PackageChange
from kiln.run import Result
from kiln.watch import Watch
from tests.unit import packagetrees
from tests.unit.packagetrees import NV, PIP_SAYS, SYSTEM, install, replace

PATH = "/usr/local/bin:/usr/bin"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return packagetrees.nvidia(tmp_path / "tree")


MANIFEST = """\
format: 1
name: x
base: debian:12
guard: {allow: [numpy]}
layers:
  - apt: [vim]
  - pip: [torch==2.6.0]
"""


@pytest.fixture
def watch(tree: Path) -> Watch:
    folder = tree.parent / "manifests"
    folder.mkdir()
    (folder / "x.yaml").write_text(MANIFEST)
    loaded: Manifest = manifest.load(folder / "x.yaml")
    guard = guards.of_base(tree, loaded.guard)
    item = PlannedLayer(2, loaded.layers[1], cast(Any, None), cast(Any, None))
    return Watch(guard, loaded, item, tree, guard.base)


def test_a_breach_names_file_line_layer_and_what_to_write(watch: Watch, tree: Path) -> None:
    replace(tree, "torch", NV, "2.6.0")()
    with pytest.raises(GuardError) as caught:
        watch.changes(inventory.take(tree), Path("/logs/2"))
    error, path = caught.value, watch.manifest.folder / "x.yaml"
    assert error.exit_code == 13
    assert error.message == (
        f"layer 2 (pip torch==2.6.0) of x changes what its base protects: torch {NV} -> 2.6.0"
    )
    assert f"{path.name}:7 " in error.hint
    assert error.hint.endswith("x.yaml: guard: {allow: [numpy, torch]}")
    assert error.details == (
        f"torch: {NV} in the base, 2.6.0 after the layer in {SYSTEM}; the layer asks for torch==2.6.0",
        "the whole log: /logs/2",
    )


def test_what_to_write_holds_what_is_written_already(watch: Watch, tree: Path) -> None:
    said = watch.manifest.model_copy(update={"guard": Protection(protect=("a", "*b"), allow=("c",))})
    replace(tree, "torch", NV, "")()
    with pytest.raises(GuardError) as caught:
        dataclasses.replace(watch, manifest=said).changes(inventory.take(tree), Path("/logs/2"))
    assert caught.value.hint.endswith('guard: {protect: [a, "*b"], allow: [c, torch]}')


def test_the_file_alone_is_named_where_the_layer_isnt_in_it_any_more(watch: Watch, tree: Path) -> None:
    replace(tree, "torch", NV, "2.6.0")()
    for text in ("format: 1\n", "layers: [a]\n", "\t]["):
        (watch.manifest.folder / "x.yaml").write_text(text)
        with pytest.raises(GuardError, match="changes what its base protects") as caught:
            watch.changes(inventory.take(tree), Path("/logs/2"))
        assert "x.yaml ask for" in caught.value.hint


def test_a_layer_that_breaks_nothing_tells_its_changes(watch: Watch, tree: Path) -> None:
    install(tree, "six", "1.0")
    found = watch.changes(inventory.take(tree), Path("/logs/2"))
    assert found == (PackageChange("python", "six", SYSTEM, "", "1.0"),)


def test_a_refusal_of_pip_becomes_the_guards(watch: Watch, tmp_path: Path) -> None:
    got = watch.hand({"PATH": PATH}, tmp_path)
    error = watch.refusal(got, Result("pip", (), 1, PIP_SAYS, 1.0), Path("/logs/2"))
    assert error
    assert error.message == (
        f"layer 2 (pip torch==2.6.0) of x can't be made with what its base protects: torch {NV}"
    )
    assert "|     needs-old 1.0 depends on torch==2.6.0" in error.details
    assert "x.yaml:7 " in error.hint
    assert watch.refusal(got, Result("pip", (), 1, "no network", 1.0), Path("/logs/2")) is None
