"""Which requirement brought a package: the chain from what a layer asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kiln import cause
from kiln.inventory import Package
from kiln.manifest import AptLayer, PipLayer, RunLayer, UvLayer
from tests.unit.packagetrees import NV


def package(name: str, *requires: str, version: str = "1.0") -> Package:
    return Package("python", name, version, "/lib", requires=requires)


def why(asked: list[str], *there: Package, name: str = "torch", python: str = "3.12") -> str:
    packages = {each.name: each for each in there}
    wanted = [Requirement(text) for text in asked]
    return cause.of_python(name, NV, wanted, packages, there, python)


def test_the_layer_itself() -> None:
    assert why(["torch==2.6.0"]) == "the layer asks for torch==2.6.0"
    assert why(["Torch[opt]>=2.8"]) == "the layer asks for Torch[opt]>=2.8"


def test_a_requirement_of_what_the_layer_asks_for() -> None:
    found = why(["outer"], package("outer", "needs_old>=1"), package("needs-old", "torch==2.6.0"))
    assert found == (
        "needs-old 1.0 requires torch==2.6.0, outer 1.0 requires needs_old>=1, the layer asks for outer"
    )


def test_the_one_that_refuses_the_bases_is_named_before_one_that_takes_it() -> None:
    there = (package("any", "torch"), package("deep", "old"), package("old", "torch<2.7"))
    assert why(["any", "deep"], *there).startswith("old 1.0 requires torch<2.7, deep 1.0")
    # Where none refuses it, one that asks for it at all.
    assert why(["any"], *there[:1]) == "any 1.0 requires torch, the layer asks for any"


def test_extras_and_markers_count_as_they_hold() -> None:
    there = (
        package(
            "sgl", 'sgl[srt]; extra == "all"', 'torch==2.6.0; extra == "srt"', 'torch==1; extra == "old"'
        ),
    )
    assert why(["sgl[all]"], *there).startswith("sgl 1.0 requires torch==2.6.0, sgl 1.0 requires sgl[srt],")
    assert why(["sgl"], *there) == ""
    old = package("old", 'torch==1; python_version < "3.12"')
    assert why(["old"], old) == ""
    assert why(["old"], old, python="3.11").startswith("old 1.0 requires torch==1")


@pytest.mark.parametrize("marker", ['os_name ~= "x"', 'platform_release >= "a.b"', 'python_version > "x.y"'])
def test_a_marker_that_cant_be_judged_stops_nothing(marker: str) -> None:
    assert why(["odd"], package("odd", f"torch==1; {marker}")) in (
        "",
        "odd 1.0 requires torch==1, the layer asks for odd",
    )


def test_packages_that_require_each_other_are_no_trap() -> None:
    assert why(["a"], package("a", "b"), package("b", "a")) == ""


def test_a_script_leaves_only_what_it_installed_to_ask() -> None:
    there = (package("needs-old", "torch==2.6.0", "bad requirement ]["), package("any", "torch"))
    assert why([], *there) == "needs-old 1.0 requires torch==2.6.0"
    assert why([], there[1]) == ""


def test_versions_that_are_none_are_refused() -> None:
    assert cause.refuses(Requirement("torch>=1"), "1.0-r5-gdeadbeef")
    assert not cause.refuses(Requirement("torch>=2.6"), NV)
    # What surprises many: an alpha comes before what it is the alpha of.
    assert cause.refuses(Requirement("torch>=2.7"), NV)


def test_what_a_layer_asks_for(tmp_path: Path) -> None:
    (tmp_path / "needs.txt").write_text("a==1 # why\n-r more.txt\n--index-url https://x.example\n")
    (tmp_path / "more.txt").write_text("b\n")
    layer = UvLayer(packages=("c>=1",), requirements=("needs.txt",))
    assert [str(each) for each in cause.asked(layer, tmp_path)] == ["c>=1", "a==1", "b"]
    assert cause.asked(PipLayer(upgrade_pip=True), tmp_path) == []
    assert cause.asked(RunLayer(script="pip install torch"), tmp_path) == []


DEPENDS = {"tools": ("libnccl-dev", "tools"), "libnccl-dev": ("libc6", "libnccl2")}


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (AptLayer(packages=("libnccl2:amd64=2.27",)), "the layer asks for libnccl2"),
        (
            AptLayer(packages=("vim", "tools")),
            "libnccl-dev depends on libnccl2, tools depends on libnccl-dev, the layer asks for tools",
        ),
        (AptLayer(packages=("vim",), upgrade=True), "the layer says 'upgrade: true'"),
        (AptLayer(packages=("vim",)), ""),
    ],
)
def test_apt(layer: AptLayer, words: str) -> None:
    assert cause.of_apt("libnccl2", layer, DEPENDS) == words
