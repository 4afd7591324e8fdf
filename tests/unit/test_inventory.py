from __future__ import annotations

import os
from pathlib import Path

from kiln import inventory
from kiln.inventory import Package

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u10
Description: a library
 Version: not this

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: libstdc++6
Status: install ok installed
Architecture: amd64
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+b1
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def distribution(tree: Path, place: str, name: str, text: str) -> None:
    write(tree / place / name / "METADATA", text)


def test_debian_packages_that_are_installed(tmp_path: Path) -> None:
    write(tmp_path / "var/lib/dpkg/status", STATUS)
    assert inventory.take(tmp_path).packages == (
        Package("apt", "libc6", "2.36-9+deb12u10", "amd64", "glibc 2.36-9+deb12u10"),
        Package("apt", "libstdc++6", "12.2.0-14+b1", "amd64", "gcc-12 12.2.0-14"),
    )


def test_debian_packages_as_distroless_has_them(tmp_path: Path) -> None:
    write(tmp_path / "var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2025a\nArchitecture: all\n")
    write(tmp_path / "var/lib/dpkg/status.d/tzdata.md5sums", "0 x\n")
    assert inventory.take(tmp_path).packages == (Package("apt", "tzdata", "2025a", "all", "tzdata 2025a"),)


def test_python_distributions_wherever_they_lie(tmp_path: Path) -> None:
    text = (
        "Metadata-Version: 2.1\nName: Typing_Extensions\nVersion: 4.12\nLicense: PSF\n and more\n\nName: no\n"
    )
    distribution(tmp_path, "usr/lib/python3/dist-packages", "typing_extensions-4.12.dist-info", text)
    needs = "Name: torch\nVersion: 2.7.0a0+nv\nRequires-Dist: sympy\nRequires-Dist: filelock>=3\n"
    distribution(tmp_path, "opt/venv/lib/python3.11/site-packages", "torch-2.7.0a0+nv.dist-info", needs)
    write(tmp_path / "srv/app/old-1.0-py3.11.egg-info", "Name: old\nVersion: 1.0\n")
    write(tmp_path / "srv/app/older.egg-info/PKG-INFO", "Name: older\nVersion: 0.1\n")
    place = "/usr/lib/python3/dist-packages"
    assert inventory.take(tmp_path) == inventory.Inventory(
        (
            Package("python", "old", "1.0", "/srv/app"),
            Package("python", "older", "0.1", "/srv/app"),
            Package(
                "python",
                "torch",
                "2.7.0a0+nv",
                "/opt/venv/lib/python3.11/site-packages",
                requires=("filelock>=3", "sympy"),
            ),
            Package("python", "typing-extensions", "4.12", place, licence="PSF"),
        )
    )


def test_what_a_distribution_brought_for_itself_is_not_installed(tmp_path: Path) -> None:
    place = "usr/lib/python3/dist-packages"
    distribution(
        tmp_path, f"{place}/setuptools/_vendor", "wheel-0.43.dist-info", "Name: wheel\nVersion: 0.43\n"
    )
    assert inventory.take(tmp_path).packages == ()


def test_the_folder_name_serves_where_the_metadata_are_poor(tmp_path: Path) -> None:
    distribution(tmp_path, "lib", "odd.name-1.5+local.dist-info", "Summary: nothing\n")
    distribution(tmp_path, "lib", "nameless.dist-info", "")
    found = inventory.take(tmp_path)
    assert found.packages == (Package("python", "odd-name", "1.5+local", "/lib"),)
    assert found.problems == ("/lib/nameless.dist-info names no distribution and version",)


def test_a_hostile_tree_leads_nowhere_and_stops_nothing(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    distribution(outside, "lib", "secret-1.dist-info", "Name: secret\nVersion: 1\n")
    write(outside / "status", STATUS)
    (tree / "lib").mkdir(parents=True)
    (tree / "linked").symlink_to(outside)
    (tree / "lib/x-1.dist-info").symlink_to(outside / "lib/secret-1.dist-info")
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/status").symlink_to(outside / "status")
    (tree / "pipe-1.dist-info").mkdir()
    os.mkfifo(tree / "pipe-1.dist-info/METADATA")
    (tree / "bytes-1.dist-info").mkdir()
    (tree / "bytes-1.dist-info/METADATA").write_bytes(b"Name: \xff\x00\nVersion: 2\n")
    found = inventory.take(tree)
    assert [package.version for package in found.packages] == ["2"]
    assert found.problems == (
        "/pipe-1.dist-info names no distribution and version",
        "/lib/x-1.dist-info names no distribution and version",
    )


def test_folders_whose_names_are_no_text(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"odd\xff")
    distribution(place, "lib", "six-1.dist-info", "Name: six\nVersion: 1\n")
    distribution(place, "lib", os.fsdecode(b"\xfe.dist-info"), "")
    found = inventory.take(tmp_path)
    assert [package.place for package in found.packages] == ["/odd\\xff/lib"]
    assert found.problems == ("/odd\\xff/lib/\\xfe.dist-info names no distribution and version",)


def test_what_debian_packages_depend_on(tmp_path: Path) -> None:
    text = "Package: a\nPre-Depends: libc6 (>= 2)\nDepends: bb | cc:any, d++ (= 1) [amd64]\n\nPackage: b\n"
    write(tmp_path / "var/lib/dpkg/status", text)
    assert inventory.depends(tmp_path) == {"a": ("libc6", "bb", "cc", "d++"), "b": ()}
    assert inventory.depends(tmp_path / "none") == {}


def test_an_empty_tree_has_nothing(tmp_path: Path) -> None:
    assert inventory.take(tmp_path) == inventory.Inventory()
