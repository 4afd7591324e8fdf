"""The newer tag in a manifest, and everything else as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln import bump, manifest
from kiln.driver import Verdict
from kiln.errors import ManifestError
from kiln.tagcheck import Newer

OLD, NEW = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


@pytest.mark.parametrize(
    "line",
    [
        "base: nvcr.io/nvidia/pytorch:24.12-py3",
        "base:    'nvcr.io/nvidia/pytorch:24.12-py3'   # 24.12-py3 since March",
        'base: "docker://nvcr.io/nvidia/pytorch:24.12-py3"',
        f"base: nvcr.io/nvidia/pytorch:24.12-py3@{OLD}",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_the_tag_changes(tmp_path: Path, line: str, end: str) -> None:
    path = tmp_path / "x.yaml"
    text = end.join(["# head: 24.12-py3", "format: 1", "name: x", "", line, "layers: []   # none", ""])
    path.write_bytes(text.encode())
    path.chmod(0o640)
    bump.write(path, manifest.load(path).base, Newer("25.04-py3", NEW, 30, Verdict("fits", "")))
    after = line.replace("24.12-py3", "25.04-py3", 1).replace(OLD, NEW)
    assert path.read_bytes().decode() == text.replace(line, after)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_base_that_is_folded_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    text = "format: 1\nname: x\nbase: >-\n  nvcr.io/nvidia/pytorch:24.12-py3\n"
    path.write_text(text)
    try:
        bump.write(path, manifest.load(path).base, Newer("25.04-py3", NEW, 30, Verdict("fits", "")))
    except ManifestError as error:
        assert "x.yaml:3" in error.message and path.read_text() == text
    else:
        assert path.read_text() == text.replace("24.12-py3", "25.04-py3")
