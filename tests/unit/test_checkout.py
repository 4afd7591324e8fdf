from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kiln import checkout
from kiln.checkout import State


def git(root: Path, *words: str) -> str:
    identity = (
        "-c",
        "user.name=a test",
        "-c",
        "user.email=test@example.org",
        "-c",
        "init.defaultBranch=main",
    )
    done = subprocess.run(["git", *identity, *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with one commit."""
    made = tmp_path / "checkout"
    made.mkdir()
    (made / "file").write_text("one\n")
    (made / ".gitignore").write_text("images/\n")
    git(made, "init", "--quiet")
    git(made, "add", ".")
    git(made, "commit", "--quiet", "-m", "first")
    return made


def test_a_clean_checkout(root: Path) -> None:
    (root / "images").mkdir()
    (root / "images/x.sqsh").write_text("ignored")
    assert checkout.state(root, os.environ) == State(git(root, "rev-parse", "HEAD"), True)


@pytest.mark.parametrize("name", ["file", "new"])
def test_a_changed_or_a_new_file_makes_it_unclean(root: Path, name: str) -> None:
    (root / name).write_text("two\n")
    assert checkout.state(root, os.environ) == State(git(root, "rev-parse", "HEAD"), False)


def test_a_folder_without_git_or_without_a_commit_is_nothing_to_warn_of(tmp_path: Path) -> None:
    assert checkout.state(tmp_path, os.environ) == State()
    git(tmp_path, "init", "--quiet")
    assert checkout.state(tmp_path, os.environ) == State()


def test_a_machine_without_git(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiln.run.HOST_PATH", str(tmp_path))
    assert checkout.state(root, {"PATH": str(tmp_path)}) == State()


def test_the_callers_own_settings_of_git_say_nothing(root: Path, tmp_path: Path) -> None:
    commit = git(root, "rev-parse", "HEAD")
    assert checkout.state(root, {**os.environ, "GIT_DIR": str(tmp_path)}).commit == commit


def test_a_repository_that_git_refuses_is_told(root: Path) -> None:
    (root / ".git/config").write_text("[core\n")
    found = checkout.state(root, os.environ)
    assert found.commit == "" and "config" in found.problem


def test_an_earlier_commit_in_a_folder_of_its_own(root: Path, tmp_path: Path) -> None:
    first = git(root, "rev-parse", "HEAD")
    (root / "file").write_text("two\n")
    git(root, "commit", "--quiet", "-am", "second")
    assert checkout.at(root, first, tmp_path / "then", os.environ) == tmp_path / "then"
    assert (tmp_path / "then/file").read_text() == "one\n"
    assert checkout.state(tmp_path / "then", os.environ) == State(first, True)
    assert checkout.at(root, "0" * 40, tmp_path / "never", os.environ) is None
    assert (root / "file").read_text() == "two\n"


def test_a_checkout_within_a_larger_repository(root: Path, tmp_path: Path) -> None:
    (root / "kiln/manifests").mkdir(parents=True)
    (root / "kiln/manifests/x.yaml").write_text("name: x\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "second")
    state = checkout.state(root / "kiln", os.environ)
    assert state.clean
    found = checkout.at(root / "kiln", state.commit, tmp_path / "then", os.environ)
    assert found and (found / "manifests/x.yaml").read_text() == "name: x\n"
    assert checkout.at(tmp_path, state.commit, tmp_path / "none", os.environ) is None
