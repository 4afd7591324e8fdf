"""Completion in real shells: bash, zsh and fish complete a line as they do for a user."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiln.completion import SHELLS, script
from kiln.store import Store
from kiln.tasks import namespace
from tests import showcase
from tests.conftest import NO_SHELL

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20
FSDP = [f"pytorch-fsdp:{each}" for each in ("1.0-r1", "1.0-r2", "current")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("store") / "images ü"
    made = Store(root)
    for name in ("demo", "pytorch-llm", "pytorch-fsdp"):
        for step in (0, 1):
            showcase.put(made, showcase.record(name, 0, step, count=1), "1.0")
    return made


def environ(images: Path | str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/",
        "KILN_IMAGES": str(images),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


def bash(line: str, images: Path | str, program: str = "kiln", cwd: Path = ROOT) -> list[str]:
    """What bash offers for a line, as its own completion calls the function."""
    ask = """
source /dev/fd/3
COMP_LINE=$1 COMP_POINT=${#1}
read -ra COMP_WORDS <<< "$1"
"$(complete -p "$2" | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    read, write = os.pipe()
    os.write(write, script("bash", program, namespace).encode())
    os.close(write)
    done = subprocess.run(
        ["bash", "-c", f"exec 3<&{read};{ask}", "bash", line, program],
        env=environ(images),
        cwd=cwd,
        pass_fds=[read],
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(read)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("kiln sho", ["show"]),
        ("kiln show ", ["demo", "pytorch-fsdp", "pytorch-llm"]),
        ("kiln show py", ["pytorch-fsdp", "pytorch-llm"]),
        ("kiln pull dem", ["demo", "demo:1.0-r1", "demo:1.0-r2", "demo:current"]),
        # bash has 'demo:' on the line already
        ("kiln show demo:1.", ["1.0-r1", "1.0-r2"]),
        ("kiln promote de", ["demo:1.0-r1", "demo:1.0-r2", "demo:current"]),
        ("kiln promote demo:1.0-r1 --channel c", ["candidate", "current"]),
        ("kiln deprecate demo:1.0-r1 --use pytorch-llm:1.0-r1", ["1.0-r1"]),
        ("kiln deprecate demo:1.0-r1 --use=pytorch-f", ["pytorch-fsdp", *FSDP]),
        ("kiln history de", ["demo"]),
        ("kiln diff demo:1.0-r1 demo:c", ["current"]),
        ("kiln build hel", ["hello"]),
        ("kiln build hello,workshop,sg", ["hello,workshop,sglang"]),
        ("kiln list --site as", ["aspire2a-plus"]),
        ("kiln list --site=as", ["aspire2a-plus"]),
        ("kiln show --j", ["--json"]),
        ("kiln show --json dem", ["demo", "demo:1.0-r1", "demo:1.0-r2", "demo:current"]),
        ("kiln show demo ", []),
        ("kiln show nothing", []),
        ("kiln show 'de", []),
        ("kiln pull demo --to ", []),
    ],
)  # fmt: skip
def test_bash(store: Store, line: str, found: list[str]) -> None:
    assert bash(line, store.root) == found


def test_without_a_store_there_is_nothing_and_no_noise(tmp_path: Path) -> None:
    assert bash("kiln show x", tmp_path / "none") == []
    (tmp_path / "file").touch()
    assert bash("kiln show ", tmp_path / "file") == []


def test_invoke_elsewhere_is_invokes_own_matter(store: Store, tmp_path: Path) -> None:
    assert bash("invoke show dem", store.root, "invoke")[0] == "demo"
    (tmp_path / "tasks.py").write_text("from invoke import task\n\n@task\ndef sweep(c): ...\n")
    env = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", env)
        assert bash("invoke sw", store.root, "invoke", tmp_path) == ["sweep"]


def test_it_is_quick(store: Store) -> None:
    """The best of five: what it takes by itself, whatever else this machine does."""

    def one() -> float:
        started = time.monotonic()
        bash("kiln show dem", store.root)
        return time.monotonic() - started

    assert min(one() for _ in range(5)) < 0.3


def typed(argv: list[str], lines: list[str], env: dict[str, str], until: str) -> str:
    """What a terminal shows after keys were pressed in a shell; waits for `until`, '' if it never came."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(argv[0], argv, env)  # noqa: S606
    seen, ends = "", time.monotonic() + SECONDS
    try:
        os.write(master, "\n".join(lines).encode())
        while not re.search(until, seen) and time.monotonic() < ends:
            if select.select([master], [], [], 1)[0]:
                seen += os.read(master, 65536).decode(errors="replace")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(master)
    return seen


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_tab_at_a_terminal(store: Store, tmp_path: Path, shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(NO_SHELL)
    (tmp_path / "script").write_text(script(shell, "kiln", namespace))
    (tmp_path / "kiln").write_text('#!/bin/sh\necho "got <$*>"\n')
    (tmp_path / "kiln").chmod(0o755)
    env = {**environ(store.root), "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    argv = [path, "--norc", "-i"] if shell == "bash" else [path, "-f", "-i"]
    first = [] if shell == "bash" else ["autoload -U compinit; compinit -u -D"]
    lines = [*first, f"source {tmp_path}/script", "kiln hist\tpytorch-l\t", ""]
    assert "got <history pytorch-llm>" in typed(argv, lines, env, "got <.*>")


def test_fish(store: Store, tmp_path: Path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip(NO_SHELL)
    (tmp_path / "script").write_text(script("fish", "kiln", namespace))
    ask = f"source {tmp_path}/script; complete -C 'kiln show demo:'"
    env = {**environ(store.root), "HOME": str(tmp_path)}
    done = subprocess.run(
        [fish, "-N", "-c", ask], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["demo:1.0-r1", "demo:1.0-r2", "demo:current"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_a_script_that_its_shell_takes(shell: str, tmp_path: Path) -> None:
    kiln = [sys.executable, "-m", "invoke", "completion", shell]
    text = subprocess.run(kiln, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "invoke inv" in text
    (tmp_path / "script").write_text(text)
    path = shutil.which(shell)
    if path is None:
        pytest.skip(NO_SHELL)
    subprocess.run([path, "-n", str(tmp_path / "script")], check=True)


def test_an_unknown_shell_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "completion", "tcsh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "bash, fish, zsh" in done.stderr
