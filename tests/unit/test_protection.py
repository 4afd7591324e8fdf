"""What a manifest may say of the base's packages, and which names that covers."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln import manifest
from kiln.errors import ManifestError
from kiln.protection import BUILT_IN, FORMAT, Protection

HEAD = "format: 1\nname: x\nbase: debian:12\n"


def loaded(folder: Path, text: str) -> Protection:
    (folder / "x.yaml").write_text(HEAD + text)
    return manifest.load(folder / "x.yaml").guard


@pytest.mark.parametrize(
    "name",
    [
        "torch", "torchvision", "triton", "pytorch-triton", "transformer-engine", "transformer_engine",
        "flash_attn", "Torch", "nvidia-cudnn-cu12", "nvidia.dali",
        "libnccl2", "libnccl-dev", "cuda-nvcc-12-9",
    ],
)  # fmt: skip
def test_nvidias_own_are_covered_however_they_are_written(name: str) -> None:
    assert Protection().covers(name)


@pytest.mark.parametrize("name", ["torchaudio", "pytorch", "numpy", "cuda", "nvidia", "libcudnn9", "xcuda-x"])
def test_others_are_not(name: str) -> None:
    assert not Protection().covers(name)


def test_a_manifest_adds_names_and_patterns_and_allows_names(tmp_path: Path) -> None:
    found = loaded(tmp_path, "guard: {protect: [NumPy, 'rapids_*'], allow: [Flash_Attn]}\n")
    assert [found.covers(name) for name in ("numpy", "rapids-dask", "rapids")] == [True, True, False]
    assert found.covers("flash-attn")
    assert [found.allows(name) for name in ("flash-attn", "flash.attn", "torch")] == [True, True, False]
    assert not loaded(tmp_path, "").allow


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{alow: [torch]}", "unknown key 'alow'; did you mean 'allow'?"),
        ("{protect: torch}", "a list is wanted here, not the text 'torch'; write a list: [torch]"),
        ("[torch]", "a mapping is wanted here, not a list"),
        ("{allow: ['nvidia-*']}", "'nvidia-*' is a pattern; name each package that layers may change"),
        ("{allow: ['torch==2.6.0']}", "'torch==2.6.0' is not a package's name; leave the version out: torch"),
        (
            "{protect: ['numpy>=1']}",
            "'numpy>=1' is not a package's name or a pattern; leave the version out: numpy",
        ),
        ("{protect: ['a b']}", "'a b' is not a package's name or a pattern; write NAME, or NAME-*"),
        ("{allow: ['']}", "'' is not a package's name; write NAME"),
        (
            "{protect: [flash_attn], allow: [Flash-Attn]}",
            "'flash-attn' is in both 'protect' and 'allow'; remove it from one of them",
        ),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        loaded(tmp_path, f"guard: {text}\n")
    [first, *_] = caught.value.details
    assert "x.yaml:4:" in first
    assert words in first


def test_what_decides_is_in_one_form(tmp_path: Path) -> None:
    assert Protection().inputs() == {"format": FORMAT}
    one = loaded(tmp_path, "guard: {protect: [b, A_a], allow: [Flash_Attn]}\n")
    other = loaded(tmp_path, "guard: {allow: [flash-attn], protect: [a-a, b, B]}\n")
    assert one.inputs() == other.inputs()
    assert one.inputs() == {"format": FORMAT, "protect": ["a-a", "b"], "allow": ["flash-attn"]}


def test_the_reference_names_the_whole_list() -> None:
    assert Protection.__doc__
    assert all(f"`{pattern}`" in Protection.__doc__ for pattern in BUILT_IN)
