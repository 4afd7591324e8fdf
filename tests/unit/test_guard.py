"""The guard: what breaks the base's own packages, what doesn't, and what a layer changed besides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln import guard as guards
from kiln import inventory
from kiln.constraints import Pin
from kiln.files import remove_tree
from kiln.guard import Guard
from kiln.inventory import Package
from kiln.manifest import AptLayer, CopyItem, CopyLayer, Layer, PipLayer, RunLayer, UvLayer
from kiln.protection import Protection
from kiln.pythonenv import Environment
from kiln.record import PackageChange
from tests.unit import packagetrees
from tests.unit.packagetrees import DEBIAN, NV, PIP_SAYS, SYSTEM, UV_SAYS, install, replace

PATH = "/usr/local/bin:/usr/bin"
USR = Environment("/usr", "3.12")
RUN = RunLayer(script="true")
OLD = PipLayer(packages=("torch==2.6.0",))
COPIED = CopyItem.model_validate({"from": "a", "to": "/a"})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return packagetrees.nvidia(tmp_path / "tree")


def broken(
    tree: Path, change: Callable[[], object], layer: Layer = RUN, **said: tuple[str, ...]
) -> list[str]:
    """What a layer that makes `change` breaks."""
    guard = guards.of_base(tree, Protection(**cast(Any, said)))
    before = inventory.take(tree)
    change()
    found = guard.broken(layer, tree, before, inventory.take(tree), tree.parent)
    return [str(each) for each in found]


# --- what breaks it ----------------------------------------------------------------------------


def test_another_version_in_its_place(tree: Path) -> None:
    assert broken(tree, replace(tree, "torch", NV, "2.6.0"), OLD) == [
        f"torch: {NV} in the base, 2.6.0 after the layer in {SYSTEM}; the layer asks for torch==2.6.0"
    ]


def test_its_removal(tree: Path) -> None:
    assert broken(tree, replace(tree, "torch", NV, "")) == [
        f"torch: {NV} in the base, gone after the layer; the layer's script did it"
    ]


def test_what_the_constraint_file_names_is_protected(tree: Path) -> None:
    [said] = broken(tree, replace(tree, "numpy", "1.26.4", "1.26.5"))
    assert said.startswith("numpy: 1.26.4 in the base, 1.26.5")


def test_what_a_manifest_adds_is_protected(tree: Path) -> None:
    change = replace(tree, "humanize", "4.12.0", "4.13.0")
    [said] = broken(tree, change, protect=("human*",))
    assert said.startswith("humanize: 4.12.0 in the base, 4.13.0")


def test_remains_of_the_bases_beside_another(tree: Path) -> None:
    [said] = broken(tree, lambda: install(tree, "torch", "2.6.0"))
    assert said.startswith(f"torch: {NV} in the base, 2.6.0, {NV} after the layer")


def test_a_copy_that_comes_before_the_bases(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    install(tree, "torch", NV, DEBIAN)
    [said] = broken(tree, lambda: install(tree, "torch", "2.6.0", SYSTEM))
    assert said.startswith(f"torch: {NV} in the base, 2.6.0 after the layer in {SYSTEM}")
    user = "/root/.local/lib/python3.12/site-packages"
    remove_tree(tree / SYSTEM.strip("/"))
    assert len(broken(tree, lambda: install(tree, "torch", "2.6.0", user))) == 1


def test_a_copy_in_an_environment_that_sees_the_system(tree: Path) -> None:
    place = packagetrees.venv(tree, "/opt/v", system=True)
    [said] = broken(tree, lambda: install(tree, "torch", "2.6.0", place))
    assert said.startswith(f"torch: {NV} in the base, 2.6.0 after the layer in {place}")


def test_a_change_in_an_environment_that_the_base_brought(tree: Path) -> None:
    place = packagetrees.venv(tree, "/opt/v", system=False)
    install(tree, "torch", "2.5.0", place)
    [said] = broken(tree, replace(tree, "torch", "2.5.0", "2.6.0", place))
    assert said.startswith(f"torch: 2.5.0 in the base, 2.6.0 after the layer in {place}")
    install(tree, "torch", "2.5.0", place)
    [said] = broken(tree, lambda: remove_tree(tree / "opt/v"))
    assert "gone after the layer" in said


def test_packages_of_apt(tree: Path) -> None:
    def upgraded() -> None:
        packagetrees.debian(
            tree, ("libnccl2", "2.27"), ("vim", "9"), ("nccl-tools", "1", "libc6, libnccl2 (>= 2)")
        )

    assert broken(tree, upgraded, AptLayer(packages=("nccl-tools",))) == [
        "libnccl2: 2.26 in the base, 2.27 after the layer; nccl-tools depends on libnccl2,"
        " the layer asks for nccl-tools"
    ]
    [said] = broken(tree, lambda: packagetrees.debian(tree, ("vim", "9")))
    assert said.startswith("libnccl2: 2.27 in the base, gone after the layer")
    assert broken(tree, lambda: packagetrees.debian(tree)) == []


def test_each_is_told_once(tree: Path) -> None:
    install(tree, "torch", NV, DEBIAN)

    def change() -> None:
        replace(tree, "torch", NV, "2.6.0", SYSTEM)()
        replace(tree, "torch", NV, "2.6.0", DEBIAN)()

    assert len(broken(tree, change)) == 1


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (RunLayer(script="true"), "; the layer's script did it"),
        (CopyLayer(items=(COPIED,)), "; the layer's files brought it"),
        (AptLayer(packages=("vim",)), "; a package of apt brought it"),
        (PipLayer(packages=("vim",)), "gone after the layer"),
    ],
)
def test_a_cause_that_no_requirement_tells(tree: Path, layer: Layer, words: str) -> None:
    [said] = broken(tree, replace(tree, "torch", NV, ""), layer)
    assert said.endswith(words)


# --- what doesn't ------------------------------------------------------------------------------


def test_what_isnt_protected_may_change(tree: Path) -> None:
    assert broken(tree, replace(tree, "humanize", "4.12.0", "4.13.0")) == []


def test_what_the_manifest_allows_may_change(tree: Path) -> None:
    assert broken(tree, replace(tree, "torch", NV, "2.6.0"), allow=("Torch",)) == []
    assert broken(tree, lambda: packagetrees.debian(tree, ("vim", "9")), allow=("libnccl2",)) == []


def test_what_the_base_hasnt_got_may_come_and_change(tree: Path) -> None:
    guard = guards.of_base(tree, Protection())
    for version in ("1", "2"):
        before = inventory.take(tree)
        remove_tree(tree / f"{SYSTEM}/triton-1.dist-info".strip("/"))
        install(tree, "triton", version)
        assert guard.broken(RUN, tree, before, inventory.take(tree), tree) == ()


def test_an_environment_that_sees_nothing_of_the_system_is_its_own(tree: Path) -> None:
    place = packagetrees.venv(tree, "/opt/v", system=False)
    assert broken(tree, lambda: install(tree, "torch", "2.6.0", place)) == []
    assert (
        broken(tree, lambda: install(tree, "torch", "2.6.0", "/opt/conda/lib/python3.12/site-packages")) == []
    )
    assert broken(tree, lambda: install(tree, "torch", "2.6.0", "/srv/app")) == []


def test_a_copy_that_comes_after_the_bases(tree: Path) -> None:
    # As 'apt: [python3-gdal]' brings Debian's numpy to an image with one of pip's.
    assert broken(tree, lambda: install(tree, "numpy", "1.24.2", DEBIAN)) == []


def test_the_same_version_elsewhere(tree: Path) -> None:
    place = packagetrees.venv(tree, "/opt/v", system=True)
    assert broken(tree, lambda: install(tree, "torch", NV, place)) == []

    def moved() -> None:
        replace(tree, "torch", NV, "")()
        install(tree, "torch", NV, DEBIAN)

    assert broken(tree, moved) == []


def test_a_base_with_neither_dpkg_nor_python(tmp_path: Path) -> None:
    (tmp_path / "tree/bin").mkdir(parents=True)
    guard = guards.of_base(tmp_path / "tree", Protection())
    assert guard == Guard(inventory.Inventory(), Protection())
    assert guard.hand(OLD, tmp_path / "tree", {"PATH": PATH}, tmp_path, tmp_path).env == {}
    install(tmp_path / "tree", "torch", "2.6.0")
    packagetrees.debian(tmp_path / "tree", ("libnccl2", "2"))
    after = inventory.take(tmp_path / "tree")
    assert guard.broken(RUN, tmp_path / "tree", guard.base, after, tmp_path) == ()
    assert [change.name for change in guard.changes(guard.base, after)] == ["libnccl2", "torch"]


# --- what pip and uv get -----------------------------------------------------------------------


def handed(tree: Path, layer: Layer, environ: dict[str, str] | None = None, **said: Any) -> dict[str, str]:
    """The text of each file that a layer gets, by the variable that names it."""
    guard = guards.of_base(tree, Protection(**said))
    found = guard.hand(layer, tree, {"PATH": PATH, **(environ or {})}, tree.parent, tree.parent)
    texts = {mount.target: mount.source.read_text() for mount in found.mounts}
    return {name: texts[value.split()[-1]] for name, value in found.env.items()}


def test_pip_is_held_to_what_the_base_has_of_the_protected(tree: Path) -> None:
    assert handed(tree, OLD) == {"PIP_CONSTRAINT": f"numpy==1.26.4\ntorch=={NV}\n"}
    assert handed(tree, OLD, allow=("torch",)) == {"PIP_CONSTRAINT": "numpy==1.26.4\n"}
    assert handed(tree, OLD, {"PATH": "/nothing"}) == {}


def test_uv_is_held_to_it_in_the_system(tree: Path) -> None:
    assert handed(tree, UvLayer(packages=("a",))) == {"UV_CONSTRAINT": f"numpy==1.26.4\ntorch=={NV}\n"}
    assert handed(tree, UvLayer(packages=("a",), python="python3.11")) == {}


def test_uv_is_free_in_an_environment_of_its_own(tree: Path) -> None:
    assert handed(tree, UvLayer(venv="/opt/v", packages=("a",))) == {}
    packagetrees.venv(tree, "/opt/v", system=False)
    assert handed(tree, UvLayer(venv="/opt/v", packages=("a",), system_site_packages=True)) == {}
    assert handed(tree, OLD, {"PATH": f"/opt/v/bin:{PATH}"}) == {}


def test_uv_leaves_the_bases_to_the_system_where_an_environment_sees_it(tree: Path) -> None:
    layer = UvLayer(venv="/opt/v", packages=("a", "numpy<2"), system_site_packages=True)
    expected = {"UV_CONSTRAINT": "numpy==1.26.4\n", "UV_EXCLUDE": "torch\n"}
    assert handed(tree, layer) == expected
    packagetrees.venv(tree, "/opt/v", system=True)
    assert handed(tree, UvLayer(venv="/opt/v", packages=("a", "numpy<2"))) == expected
    assert handed(tree, UvLayer(venv="/opt/v", packages=("numpy",)), allow=("torch",)) == {
        "UV_CONSTRAINT": "numpy==1.26.4\n"
    }


def test_other_layers_get_nothing(tree: Path) -> None:
    for layer in (RUN, AptLayer(packages=("vim",)), CopyLayer(items=(COPIED,))):
        assert handed(tree, layer) == {}


def test_of_several_copies_the_one_that_is_found_counts(tree: Path) -> None:
    install(tree, "numpy", "1.24.2", DEBIAN)
    install(tree, "torch", "2.5.0", "/opt/conda/lib/python3.12/site-packages")
    pins = guards.of_base(tree, Protection()).pins(USR)
    assert pins == (Pin("numpy", "1.26.4"), Pin("torch", NV))
    conda = guards.of_base(tree, Protection()).pins(Environment("/opt/conda", "3.12"))
    assert conda == (Pin("torch", "2.5.0"),)


def test_what_uv_left_to_the_system_must_suit_what_it_installed(tree: Path) -> None:
    place = packagetrees.venv(tree, "/opt/v", system=True)
    layer = UvLayer(venv="/opt/v", packages=("outer[x]",))

    def installed() -> None:
        install(tree, "outer", "1.0", place, ('needs-old; extra == "x"',))
        install(tree, "needs-old", "1.0", place, ("torch==2.6.0",))

    assert broken(tree, installed, layer) == [
        f"torch: {NV} in the base, which /opt/v sees too; needs-old 1.0 requires torch==2.6.0,"
        " outer 1.0 requires needs-old, the layer asks for outer[x]"
    ]
    assert broken(tree, lambda: None, layer, allow=("torch",)) == []
    # An environment of its own has its own torch, or none.
    (tree / "opt/v/pyvenv.cfg").write_text("home = /usr/bin\n")
    assert broken(tree, lambda: None, layer) == []


@pytest.mark.parametrize("said", [PIP_SAYS, UV_SAYS])
def test_a_conflict_of_pip_or_uv_with_the_base_is_recognised(said: str) -> None:
    pins = (Pin("torch", NV), Pin("numpy", "1.26.4"))
    assert guards.refused(pins, said) == pins[:1]


@pytest.mark.parametrize(
    "said",
    [
        f"Requirement already satisfied: torch=={NV} in /usr\nERROR: no space left",
        "error: No solution found when resolving dependencies\n"
        "  torch==2.7.0a0+nv25.44, x-torch==2.7.0a0+nv25.4",
        "The user requested (constraint) torchvision==1",
        "",
    ],
)
def test_other_failures_are_not(said: str) -> None:
    assert guards.refused((Pin("torch", NV),), said) == ()


# --- what a layer changed besides ---------------------------------------------------------------


def test_what_a_layer_changed_is_listed(tree: Path) -> None:
    guard = guards.of_base(tree, Protection(allow=("torch",)))
    replace(tree, "torch", NV, "2.6.0")()
    replace(tree, "humanize", "4.12.0", "")()
    install(tree, "six", "1.0", "/opt/v/lib/python3.12/site-packages")
    packagetrees.debian(tree, ("libnccl2", "2.26"), ("vim", "10"), ("nccl-tools", "1"))
    assert guard.changes(guard.base, inventory.take(tree)) == (
        PackageChange("apt", "vim", "amd64", "9", "10"),
        PackageChange("python", "humanize", SYSTEM, "4.12.0", ""),
        PackageChange("python", "six", "/opt/v/lib/python3.12/site-packages", "", "1.0"),
        PackageChange("python", "torch", SYSTEM, NV, "2.6.0", allowed=True),
    )
    assert guard.changes(guard.base, guard.base) == ()


# --- whatever metadata say -----------------------------------------------------------------------

WORDS = st.sampled_from(
    ["torch", "needs-old", "==2.6.0", ">=2", ";", "extra == 'x'", "python_version", "[x]", " "]
)
REQUIRES = st.lists(st.lists(WORDS, max_size=5).map("".join) | st.text(max_size=12), max_size=4).map(tuple)


@given(REQUIRES, REQUIRES, st.text(min_size=1, max_size=8) | st.just("2.6.0"))
def test_no_metadata_stop_the_guard(one: tuple[str, ...], other: tuple[str, ...], version: str) -> None:
    base = inventory.Inventory(
        (Package("python", "torch", NV, SYSTEM), Package("apt", "libnccl2", "1", "amd64"))
    )
    after = inventory.Inventory(
        (
            Package("python", "needs-old", "1.0", SYSTEM, requires=one),
            Package("python", "torch", version, SYSTEM, requires=other),
        )
    )
    guard = Guard(base, Protection())
    layer = PipLayer(packages=("needs-old[x]",))
    found = guard.broken(layer, Path("/nowhere"), base, after, Path("/nowhere"))
    assert sorted(each.name for each in found) == ["libnccl2", "torch"]
    assert [change.name for change in guard.changes(base, after)] == ["libnccl2", "needs-old", "torch"]
