"""Which images a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.errors import UsageError
from kiln.selection import select


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    for name in ("hello", "pytorch-fsdp", "pytorch-llm"):
        (tmp_path / f"{name}.yaml").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("hello", ["hello"]),
        ("pytorch-llm, hello,hello", ["pytorch-llm", "hello"]),
        ("pytorch-*", ["pytorch-fsdp", "pytorch-llm"]),
        ("all", ["hello", "pytorch-fsdp", "pytorch-llm"]),
    ],
)
def test_lists_and_patterns(manifests: Path, text: str, names: list[str]) -> None:
    assert select(manifests, text) == names


@pytest.mark.parametrize("text", ["helo", "x-*", "", ",", "../hello", "hello,nope"])
def test_nothing_meant(manifests: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(manifests, text)
    assert caught.value.hint
