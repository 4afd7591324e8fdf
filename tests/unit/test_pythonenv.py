"""What a Python of a tree sees, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln import pythonenv
from kiln.pythonenv import OUTSIDE, Environment
from tests.unit import packagetrees
from tests.unit.packagetrees import DEBIAN, SYSTEM, write

USR = Environment("/usr", "3.12")


def test_debians_python_finds_pips_packages_before_debians() -> None:
    places = [
        "/root/.local/lib/python3.12/site-packages",
        SYSTEM,
        DEBIAN,
        "/usr/lib/python3.12/dist-packages",
    ]
    ranks = [USR.rank(place) for place in places]
    assert ranks == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "place",
    [
        "/usr/local/lib/python3.11/dist-packages",
        "/usr/local/lib/python3.12/site-packages",  # of a Python that was built into /usr/local
        "/opt/conda/lib/python3.12/site-packages",
        "/opt/venv/lib/python3.12/site-packages",
        "/root/.local/lib/python3.11/site-packages",
        "/srv/app",
    ],
)
def test_what_debians_python_does_not_see(place: str) -> None:
    assert USR.rank(place) is None


def test_the_folder_of_any_python_is_seen_by_all_versions() -> None:
    assert Environment("/usr", "3.9").rank(DEBIAN) == 2
    assert Environment("/usr", "3").rank(SYSTEM) == 1
    assert Environment("/usr").rank(SYSTEM) == 1


def test_a_python_elsewhere_sees_its_own() -> None:
    conda = Environment("/opt/conda", "3.11")
    assert conda.rank("/opt/conda/lib/python3.11/site-packages") == 1
    assert conda.rank(SYSTEM) is None
    assert Environment("/usr", "3.9").rank("/usr/lib64/python3.9/site-packages") == 1


def test_a_virtual_environment_sees_the_system_only_where_it_says_so() -> None:
    own = "/opt/venv/lib/python3.12/site-packages"
    alone, seeing = Environment("/opt/venv", "3.12", True), Environment("/opt/venv", "3.12", True, "/usr")
    assert (alone.rank(own), seeing.rank(own)) == (0, 0)
    assert (alone.rank(SYSTEM), seeing.rank(SYSTEM), seeing.rank(DEBIAN)) == (None, OUTSIDE + 1, OUTSIDE + 2)
    assert seeing.rank("/opt/conda/lib/python3.12/site-packages") is None
    assert seeing.rank("/usr/local/lib/python3.11/dist-packages") is None


def test_a_folder_in_which_no_python_looks_is_on_its_own() -> None:
    found = pythonenv.of_folder(Path("/nowhere"), "/srv/app")
    assert (found.rank("/srv/app"), found.rank(SYSTEM)) == (0, None)


def test_whose_folder_it_is(tmp_path: Path) -> None:
    seeing = packagetrees.venv(tmp_path, "/opt/seeing", system=True)
    alone = packagetrees.venv(tmp_path, "/opt/alone", system=False)
    packagetrees.python(tmp_path)
    expected = {
        SYSTEM: USR,
        DEBIAN: Environment("/usr", "3"),
        "/opt/conda/lib/python3.11/site-packages": Environment("/opt/conda", "3.11"),
        seeing: Environment("/opt/seeing", "3.12", True, "/usr"),
        alone: Environment("/opt/alone", "3.12", True),
    }
    assert {place: pythonenv.of_folder(tmp_path, place) for place in expected} == expected


def test_the_python_that_a_shell_would_start(tmp_path: Path) -> None:
    path = "/opt/venv/bin::/usr/local/bin:/usr/bin"
    assert pythonenv.of_command(tmp_path, "python3", path) is None
    packagetrees.python(tmp_path)
    assert pythonenv.of_command(tmp_path, "python3", path) == USR
    # Through Debian's alternatives, and a link beside: where the program lies is what counts.
    write(tmp_path, "/etc/alternatives/readme", "")
    (tmp_path / "etc/alternatives/python").symlink_to("/usr/bin/python3")
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    (tmp_path / "usr/local/bin/python").symlink_to("/etc/alternatives/python")
    assert pythonenv.of_command(tmp_path, "python", path) == USR
    assert pythonenv.of_command(tmp_path, "/usr/bin/python3.12", "") == USR
    packagetrees.venv(tmp_path, "/opt/venv", system=True)
    assert pythonenv.of_command(tmp_path, "python3", path) == Environment("/opt/venv", "3.12", True, "/usr")


def test_an_environment_that_uv_is_yet_to_make(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "opt").symlink_to("data")
    made = pythonenv.in_venv(tmp_path, "/opt/new/", USR, system=True)
    assert made == Environment("/data/new", "3.12", True, "/usr")
    assert pythonenv.in_venv(tmp_path, "/opt/new", None, system=True) == Environment("/data/new", "", True)
    packagetrees.venv(tmp_path, "/data/new", system=False)
    assert pythonenv.in_venv(tmp_path, "/opt/new", USR, system=True) == Environment("/data/new", "3.12", True)


def test_a_hostile_pyvenv_cfg_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    packagetrees.venv(outside, "/v", system=True)
    tree = tmp_path / "tree"
    (tree / "opt").mkdir(parents=True)
    (tree / "opt/venv").symlink_to(outside / "v")
    assert pythonenv.venv(tree, "/opt/venv") is None
    write(tree, "/a/pyvenv.cfg", "home = /a/bin\ninclude-system-site-packages = true\n\0=\xff\n=\n")
    assert pythonenv.venv(tree, "/a") == Environment("/a", "", True, "/a")
