"""What the top of a hook says, and what its end means."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln import smoke
from kiln.errors import ManifestError
from kiln.run import Result
from kiln.smoke import Hook

ROOT = Path(__file__).resolve().parents[2]


def hook(folder: Path, text: str, mode: int = 0o755) -> Path:
    path = folder / "probe"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_top_is_read_up_to_the_first_line_of_code(tmp_path: Path) -> None:
    path = hook(tmp_path, "#!/bin/sh\n# about: it works\n# needs: gpu\n# timeout: 9\n\n# about: not this\n")
    assert smoke.read_hook(path) == Hook("probe", "it works", ("gpu",), 9)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("#!/bin/sh\n# about: x\n", 0o644, "is not executable; type: chmod"),
        ("#!/bin/sh\n", 0o755, "has no line '# about: ...'"),
        ("#!/bin/sh\n# about: x\n# timeout: soon\n", 0o755, "'# timeout: soon', which is no number"),
        ("#!/bin/sh\n# about: x\n# needs: magic\n", 0o755, "needs 'magic'"),
    ],
)
def test_a_bad_hook_is_named(tmp_path: Path, text: str, mode: int, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        smoke.hooks(hook(tmp_path, text, mode).parent)


def test_the_shipped_hooks_are_sound() -> None:
    assert set(smoke.hooks(ROOT / "hooks")) == {
        "commands",
        "ddp",
        "fp8",
        "gpu-visible",
        "nccl-init",
        "python-imports",
        "torch-cuda",
    }


@pytest.mark.parametrize(
    ("code", "output", "verdict"),
    [
        (0, "a\nfine", ("passed", "fine")),
        (77, "a\nno GPU here", ("skipped", "no GPU here")),
        (77, "", ("skipped", "no reason given")),
        (1, "a\nwrong sum", ("failed", "wrong sum")),
        (1, "", ("failed", "exit code 1")),
        (-11, "", ("failed", "killed by SIGSEGV")),
        (78, "x" * 1000, ("failed", "x" * smoke.LONGEST_REASON)),
    ],
)
def test_exit_codes(code: int, output: str, verdict: tuple[str, str]) -> None:
    assert smoke.judge(Result("try", (), code, output, 1.0)) == verdict
