"""What a manifest changes in /etc/environment and /etc/rc."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from kiln import imageedit, imageformat
from kiln.errors import ManifestError
from kiln.run import host_environment, run

URI = "docker://registry.example#a/b:1"
CONFIG = {"WorkingDir": "/work dir", "Entrypoint": ["/bin/echo", "it's"], "Cmd": ["one", "two words"]}
RC = imageformat.rc({"config": {**CONFIG, "Labels": {"org": "x"}}}, URI)


def test_references_are_filled_in_from_the_image_and_earlier_lines() -> None:
    made = imageedit.expand({"A": "1", "PATH": "/opt/bin:${PATH}", "B": "${A}${A}"}, {"PATH": "/bin"})
    assert made == {"A": "1", "PATH": "/opt/bin:/bin", "B": "11"}


def test_an_unknown_reference_is_an_error_not_the_hosts_variable() -> None:
    with pytest.raises(ManifestError, match=r"env: A refers to \$\{HOME\}"):
        imageedit.expand({"A": "${HOME}"}, {})


def test_variables_replace_and_append() -> None:
    assert (
        imageedit.with_variables("A=1\n# note\nB=2\nA=3\n", {"A": "9", "C": "x y"})
        == "# note\nB=2\nA=9\nC=x y\n"
    )


def test_unchanged_parts_stay_to_the_letter() -> None:
    assert imageedit.with_start(RC, None, None, None) == RC
    assert imageedit.with_start(RC, "/work dir", None, None) == RC


def test_another_entrypoint_takes_the_command_away_and_keeps_the_labels() -> None:
    made = imageedit.with_start(RC, None, ["/bin/sh", "-c"], None)
    assert made is not None
    assert made.startswith(f"# enroot-provenance: {URI}\n# org x\n\n")
    assert made.endswith("    exec '/bin/sh' '-c' \nfi\n")


def test_an_rc_of_somebodys_own_is_not_changed_in_part() -> None:
    own = '#!/bin/sh\nexec /opt/start "$@"\n'
    assert imageedit.with_start(own, "/x", None, None) is None
    assert imageedit.with_start(own, "/x", ["/bin/true"], []) is not None


@pytest.mark.parametrize(
    "words", [["plain"], ["two words", "$(touch x)", "`id`", "it's", '"', "\\", "a\tb", "é"]]
)
def test_words_reach_the_program_as_they_are(tmp_path: Path, words: list[str]) -> None:
    text = imageedit.with_start("", str(tmp_path), ["/usr/bin/printf", "%s\\n"], words)
    assert text is not None
    (tmp_path / "rc").write_text(text)
    result = run(["bash", tmp_path / "rc"], what="start", env=host_environment(os.environ), timeout=20)
    assert result.output.splitlines() == words
    assert not (tmp_path / "x").exists()


def test_no_rc_at_all_starts_at_the_root() -> None:
    made = imageedit.with_start("", None, None, ["top"])
    assert made is not None and 'cd "/" && unset OLDPWD' in made
    assert shlex.split(made.splitlines()[-2]) == ["exec", "top"]
