"""A layer as a command: what a manifest says is an argument, never a text of a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln import layercommand, manifest
from kiln.layercommand import INSIDE, LayerCommand
from kiln.manifest import Layer

HEAD = "format: 1\nname: demo\nbase: debootstrap:bookworm\nlayers:\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo").mkdir()
    for name in ("demo/needs.txt", "demo/tool.py", "demo/setup.sh"):
        (tmp_path / name).write_text("# a file\n")
    return tmp_path


def made(folder: Path, layer: str) -> LayerCommand:
    (folder / "demo.yaml").write_text(f"{HEAD}  - {layer}\n")
    loaded: Layer = manifest.load(folder / "demo.yaml").layers[0]
    return layercommand.command(loaded, folder, Path("/host/uv"))


def script(name: str) -> tuple[str, str]:
    return ("/bin/sh", f"{INSIDE}/scripts/{name}.sh")


def test_apt(folder: Path) -> None:
    assert made(folder, "apt: [git, rolldice=1.16-1]").argv == (
        *script("apt"),
        "false",
        "false",
        "git",
        "rolldice=1.16-1",
    )
    assert made(folder, "apt: {upgrade: true, recommends: true}").argv == (*script("apt"), "true", "true")


def test_pip_reads_requirements_from_a_mount_and_indexes_from_variables(folder: Path) -> None:
    text = "pip: {packages: ['a>=1; python_version > \"3\"'], requirements: [demo/needs.txt], index_url: 'https://x.example/s'}"
    command = made(folder, text)
    inside = f"{INSIDE}/layer/0/needs.txt"
    assert command.argv == (*script("pip"), "false", "-r", inside, "--", 'a>=1; python_version > "3"')
    assert [(mount.source, mount.target, mount.read_only) for mount in command.mounts] == [
        (folder / "demo/needs.txt", inside, True)
    ]
    assert command.env == {"PIP_INDEX_URL": "https://x.example/s"}


def test_uv_is_mounted_for_the_step(folder: Path) -> None:
    command = made(folder, "uv: {venv: /opt/v, system_site_packages: true, packages: [a]}")
    assert command.argv == (*script("uv"), "/opt/v", "true", "python3", "--", "a")
    assert (command.mounts[-1].source, command.mounts[-1].target) == (Path("/host/uv"), f"{INSIDE}/bin/uv")
    assert made(folder, "uv: [a]").argv[2] == ""


def test_copy(folder: Path) -> None:
    command = made(folder, "copy: {from: demo/tool.py, to: /usr/bin/tool, mode: '0755'}")
    assert command.argv == (*script("copy"), f"{INSIDE}/layer/0/tool.py", "/usr/bin/tool", "0755")


def test_run(folder: Path) -> None:
    assert made(folder, "run: echo $(id)").argv == ("bash", "-euo", "pipefail", f"{INSIDE}/layer/script")
    assert made(folder, "run: {file: demo/setup.sh}").mounts[0].source == folder / "demo/setup.sh"
