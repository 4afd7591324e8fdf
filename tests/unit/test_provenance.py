"""/.kiln: the same bytes for the same inputs, whoever builds; what a base brings stays below base/."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kiln import inventory, provenance
from kiln.inventory import Inventory, Package
from kiln.provenance import Tools
from tests.unit.layertiers import listing
from tests.unit.test_plan import planned

TOOLS = Tools("0.1.0", "embedded bubblewrap 0.8.0", "4.5.1")
FOUND = Inventory(
    (Package("apt", "bash", "5.2", "amd64", "bash 5.2"), Package("python", "pip", "24.0", "/usr"))
)


def write(tree: Path, name: str = "hello", commit: str = "c0ffee", lock: str = "") -> Path:
    tree.mkdir(exist_ok=True)
    provenance.write(tree, planned(name), FOUND, TOOLS, commit, lock)
    return tree / ".kiln"


def test_what_is_in_it(tmp_path: Path) -> None:
    place, made = write(tmp_path, lock="a: lock\n"), planned("hello")
    assert (place / "manifest.yaml").read_text() == made.manifest.text
    assert "base: debootstrap:bookworm" in made.manifest.text
    assert (place / "manifest.lock").read_text() == "a: lock\n"
    said = json.loads((place / "provenance.json").read_text())
    assert said["base"]["text"] == "debootstrap:bookworm" and said["base"]["digest"] == made.base.digest
    assert [layer["key"] for layer in said["layers"]] == [item.wanted.key.digest for item in made.layers]
    assert (said["commit"], said["runtime"], said["squashfs_tools"]) == ("c0ffee", TOOLS.runtime, "4.5.1")
    packages = json.loads((place / "packages.json").read_text())["packages"]
    assert packages[0] == {
        "kind": "apt", "name": "bash", "version": "5.2", "place": "amd64", "source": "bash 5.2"
    }  # fmt: skip


def test_the_same_inputs_give_the_same_bytes_and_modes(tmp_path: Path) -> None:
    write(tmp_path / "one")
    before = os.umask(0o077)
    try:
        write(tmp_path / "two")
    finally:
        os.umask(before)
    assert listing(tmp_path / "one") == listing(tmp_path / "two")
    assert not (tmp_path / "one/.kiln/manifest.lock").exists()


def test_no_package_manager_no_python_no_package(tmp_path: Path) -> None:
    provenance.write(tmp_path, planned("hello"), inventory.take(tmp_path), TOOLS, "", "")
    assert json.loads((tmp_path / ".kiln/packages.json").read_text())["packages"] == []


def test_a_base_of_kilns_keeps_its_own_below(tmp_path: Path) -> None:
    write(tmp_path, "hello", lock="a: lock\n")
    first = listing(tmp_path / ".kiln")
    write(tmp_path, "workshop")
    second = listing(tmp_path / ".kiln")
    assert listing(tmp_path / ".kiln/base") == first
    write(tmp_path, "sglang")
    assert listing(tmp_path / ".kiln/base") == second
    assert json.loads((tmp_path / ".kiln/base/base/provenance.json").read_text())["name"] == "hello"


def test_what_a_foreign_base_has_there_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside)
    before = listing(outside)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/.kiln").symlink_to(outside / ".kiln")
    assert not (write(tmp_path / "linked") / "base").exists()
    # A folder with links in it: what they lead to is no part of this image.
    folder = tmp_path / "within/.kiln"
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text("{}")
    (folder / "manifest.yaml").symlink_to(outside / ".kiln/manifest.yaml")
    (folder / "base").symlink_to(outside / ".kiln")
    os.mkfifo(folder / "packages.json")
    write(tmp_path / "within")
    assert [path.name for path in (folder / "base").iterdir()] == ["provenance.json"]
    assert listing(outside) == before


def test_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/opt/\xff/site-packages/a-1.dist-info"
    os.makedirs(place)
    with open(place + b"/METADATA", "wb") as stream:
        stream.write(b"Name: a\xff\nVersion: 1\n")
    found = inventory.take(tmp_path)
    provenance.write(tmp_path, planned("hello"), found, TOOLS, "", "")
    [package] = json.loads((tmp_path / ".kiln/packages.json").read_text())["packages"]
    assert package["place"] == "/opt/\\xff/site-packages"


def test_stock_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/environment").write_bytes(b"PATH=/bin\nCUDA_VERSION=12.9.0.043\nODD=\xff\n")
    found = provenance.look(tmp_path)
    assert found.environment == {"PATH": "/bin", "CUDA_VERSION": "12.9.0.043", "ODD": "\ufffd"}
    assert (found.inventory, found.system) == (Inventory(), "")
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text(
        'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n'
    )
    (tmp_path / "etc/os-release").symlink_to("../usr/lib/os-release")
    assert provenance.look(tmp_path).system == "ubuntu-24.04"
