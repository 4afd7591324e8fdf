"""Constraint files: those of an image, and what pip and uv get."""

from __future__ import annotations

from pathlib import Path

from kiln import constraints
from kiln.constraints import Handed, Pin
from tests.unit.packagetrees import NV, write

TORCH = Pin("torch", NV)
NUMPY = Pin("numpy", "1.26.4")
IN = "/run/kiln/layer"


def text(handed: Handed, name: str) -> str:
    [source] = [mount.source for mount in handed.mounts if mount.target == f"{IN}/{name}"]
    return source.read_text()


def test_the_names_that_an_image_constrains(tmp_path: Path) -> None:
    write(tmp_path, "/etc/pip/constraint.txt", "torch==2.7\nMarkupSafe==2.1  # why\n\n# numpy==1\n")
    write(tmp_path, "/etc/environment", "PIP_CONSTRAINT=/opt/a.txt file:///opt/b.txt\n")
    write(tmp_path, "/opt/a.txt", "scipy>=1 ; python_version > '3'\n-c more/c.txt\n--requirement=d.txt\n")
    write(tmp_path, "/opt/more/c.txt", "six @ file:///six.whl\nhashed==1 \\\n  --hash=sha256:00\n")
    write(tmp_path, "/opt/d.txt", "--extra-index-url https://x.example\n./local\n-c d.txt\n")
    write(tmp_path, "/opt/b.txt", "pip[extra]\n-c https://x.example/c.txt\n")
    assert constraints.names(tmp_path) == {"torch", "markupsafe", "scipy", "six", "hashed", "pip"}


def test_an_image_without_constraints(tmp_path: Path) -> None:
    assert constraints.names(tmp_path) == frozenset()
    write(tmp_path, "/etc/environment", "PIP_CONSTRAINT=/missing.txt\n")
    assert constraints.names(tmp_path) == frozenset()


def test_pip_gets_the_versions_beside_the_images_own_file(tmp_path: Path) -> None:
    environ = {"PIP_CONSTRAINT": "/etc/own.txt /etc/second.txt"}
    handed = constraints.for_pip((TORCH, NUMPY), frozenset(), tmp_path, environ, tmp_path)
    assert handed.env == {"PIP_CONSTRAINT": f"/etc/own.txt /etc/second.txt {IN}/constraints.txt"}
    assert text(handed, "constraints.txt") == f"torch=={NV}\nnumpy==1.26.4\n"
    assert [mount.read_only for mount in handed.mounts] == [True]
    assert handed.pins == (TORCH, NUMPY)


def test_what_is_allowed_is_taken_out_of_the_images_own_file(tmp_path: Path) -> None:
    write(tmp_path, "/etc/own.txt", "Torch==2.7\n-c more.txt\nnumpy==1.26.4\n")
    write(tmp_path, "/etc/more.txt", "six==1\n")
    write(tmp_path, "/etc/second.txt", "scipy==1\n")
    environ = {"PIP_CONSTRAINT": "/etc/own.txt /etc/second.txt"}
    handed = constraints.for_pip((), frozenset(["torch"]), tmp_path, environ, tmp_path)
    assert handed.env == {"PIP_CONSTRAINT": f"/etc/second.txt {IN}/constraints.txt"}
    assert text(handed, "constraints.txt") == "six==1\nnumpy==1.26.4\n"
    # The last line taken out, the variable must still hide the image's own.
    write(tmp_path, "/etc/only.txt", "torch==2.7\n")
    environ = {"PIP_CONSTRAINT": "/etc/only.txt"}
    handed = constraints.for_pip((), frozenset(["torch"]), tmp_path, environ, tmp_path)
    assert (handed.env, text(handed, "constraints.txt")) == ({"PIP_CONSTRAINT": f"{IN}/constraints.txt"}, "")


def test_an_images_own_file_that_refuses_what_is_installed_wins(tmp_path: Path) -> None:
    write(tmp_path, "/etc/own.txt", "NumPy<1.26\nsix\n")
    pins = (TORCH, NUMPY, Pin("six", "1.0"))
    handed = constraints.for_pip(pins, frozenset(), tmp_path, {"PIP_CONSTRAINT": "/etc/own.txt"}, tmp_path)
    assert text(handed, "constraints.txt") == f"torch=={NV}\nsix==1.0\n"


def test_files_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        write(tmp_path, f"/etc/{name}.txt", f"{name}==1\n" + f"-c {other}.txt\n-c ./{name}.txt\n" * 50)
    assert list(constraints.lines(tmp_path, "/etc/a.txt")) == ["a==1", "b==1"]


def test_nothing_to_hold_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "/etc/own.txt", "numpy==1\n")
    for environ in ({}, {"PIP_CONSTRAINT": "/etc/own.txt"}, {"PIP_CONSTRAINT": ""}):
        assert constraints.for_pip((), frozenset(["torch"]), tmp_path, environ, tmp_path) == Handed()
    assert constraints.for_uv((), (), {"UV_CONSTRAINT": "/x"}, tmp_path) == Handed()


def test_uv_gets_the_versions_by_its_own_variable(tmp_path: Path) -> None:
    environ = {"PIP_CONSTRAINT": "/etc/own.txt", "UV_CONSTRAINT": "/etc/uv.txt"}
    handed = constraints.for_uv((TORCH,), (), environ, tmp_path)
    assert handed.env == {"UV_CONSTRAINT": f"/etc/uv.txt {IN}/constraints.txt"}
    assert text(handed, "constraints.txt") == f"torch=={NV}\n"


def test_uv_leaves_to_the_system_what_the_environment_sees_there(tmp_path: Path) -> None:
    pins = (Pin("torch", NV, outside=True), Pin("numpy", "1.26.4", outside=True), Pin("six", "1"))
    handed = constraints.for_uv(pins, {"numpy"}, {}, tmp_path)
    assert handed.env == {"UV_CONSTRAINT": f"{IN}/constraints.txt", "UV_EXCLUDE": f"{IN}/excludes.txt"}
    # What the layer itself asks for isn't passed over in silence.
    assert text(handed, "constraints.txt") == "numpy==1.26.4\nsix==1\n"
    assert text(handed, "excludes.txt") == "torch\n"


def test_versions_as_pip_and_uv_write_them(tmp_path: Path) -> None:
    assert str(Pin("torch", "2.7.0a0+NV25.04")) == "torch==2.7.0a0+nv25.4"
    odd = Pin("odd", "1.0-r5-gdeadbeef")
    assert (str(odd), odd.usable) == ("odd==1.0-r5-gdeadbeef", False)
    handed = constraints.for_pip((odd, NUMPY), frozenset(), tmp_path, {}, tmp_path)
    assert text(handed, "constraints.txt") == "numpy==1.26.4\n"
