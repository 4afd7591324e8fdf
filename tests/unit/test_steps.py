"""The layers of a manifest, in their short and long forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln import manifest
from kiln.manifest import AptLayer, CopyLayer, Layer, PipLayer, RunLayer, UvLayer


def layer(folder: Path, text: str) -> Layer:
    (folder / "greet.py").touch()
    (folder / "data").mkdir()
    path = folder / "x.yaml"
    path.write_text(f"format: 1\nname: x\nbase: debian:12\nlayers:\n- {text}\n")
    [found] = manifest.load(path).layers
    return found


@pytest.mark.parametrize(
    ("text", "expected", "title"),
    [
        ("apt: [git, rolldice]", AptLayer(packages=("git", "rolldice")), "apt git rolldice"),
        ("apt: {packages: [g++, git=1:2.3-4~bpo, vim:arm64, curl], upgrade: true, timeout: 30m}",
         AptLayer(packages=("g++", "git=1:2.3-4~bpo", "vim:arm64", "curl"), upgrade=True, timeout=1800),
         "apt g++ git=1:2.3-4~bpo +3"),
        ("apt: {upgrade: yes}", AptLayer(upgrade=True), "apt upgrade"),
        ("pip: [geopandas, 'torch>=2']", PipLayer(packages=("geopandas", "torch>=2")),
         "pip geopandas torch>=2"),
        ("pip: {requirements: [greet.py], upgrade_pip: true, index_url: 'https://a.b/c', timeout: 90}",
         PipLayer(requirements=("greet.py",), upgrade_pip=True, index_url="https://a.b/c", timeout=90),
         "pip greet.py"),
        ("uv: [polars]", UvLayer(packages=("polars",)), "uv polars"),
        ("uv: {venv: /opt/v, packages: ['a[b]>=1; python_version < \"3.13\"'], system_site_packages: true}",
         UvLayer(venv="/opt/v", packages=('a[b]>=1; python_version < "3.13"',), system_site_packages=True),
         'uv a[b]>=1; python_version < "3.13"'),
        ("run: echo hello", RunLayer(script="echo hello"), "run echo hello"),
        ("run: {script: '# why', timeout: 2h}", RunLayer(script="# why", timeout=7200), "run script"),
        ("run: {file: greet.py}", RunLayer(file="greet.py"), "run greet.py"),
    ],
)  # fmt: skip
def test_layers(text: str, expected: Layer, title: str, tmp_path: Path) -> None:
    found = layer(tmp_path, text)
    assert found == expected
    assert found.title == title
    assert text.startswith(found.kind)


def test_a_script_keeps_its_lines(tmp_path: Path) -> None:
    found = layer(tmp_path, "run: |\n    # first\n    make\n    make install")
    assert isinstance(found, RunLayer)
    assert found.script == "# first\nmake\nmake install\n"
    assert found.title == "run make"


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("{greet.py: /usr/bin/greet}", [("greet.py", "/usr/bin/greet", None)]),
        ("{greet.py: /a, data: /b/}", [("greet.py", "/a", None), ("data", "/b/", None)]),
        ("{from: greet.py, to: /a, mode: '755'}", [("greet.py", "/a", "0755")]),
        ("[{greet.py: /a}, {from: data, to: /b, mode: '4755'}]",
         [("greet.py", "/a", None), ("data", "/b", "4755")]),
        ("{items: [{from: data, to: /b}], timeout: 5}", [("data", "/b", None)]),
    ],
)  # fmt: skip
def test_copies(text: str, items: list[tuple[str, str, str | None]], tmp_path: Path) -> None:
    found = layer(tmp_path, f"copy: {text}")
    assert isinstance(found, CopyLayer)
    assert [(item.source, item.target, item.mode) for item in found.items] == items
