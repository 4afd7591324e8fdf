"""The files that make a tree an enroot image, byte for byte.

Beyond these cases, 800 random configs and 300 random environments were compared with the functions
of enroot 4.1.2 itself (docker::configure, common::envsubst, common::envfmt) and gave the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kiln import imageformat
from kiln.errors import StoreError

CONFIG = {
    "architecture": "amd64",
    "config": {
        "Env": ["PATH=/usr/bin:/bin", "GREETING=it's me", "EMPTY="],
        "Entrypoint": ["/opt/nvidia/nvidia_entrypoint.sh"],
        "Cmd": ["bash", "-c", "echo 'hi'"],
        "WorkingDir": "/workspace",
        "Labels": {"b": "two\nlines", "a": ""},
        "Volumes": {"/z": {}, "/data": {}},
    },
}
RC = """\
# enroot-provenance: docker://nvcr.io#nvidia/pytorch:25.04-py3
# b two lines
# a\x20

mkdir -p "/workspace" 2> /dev/null
cd "/workspace" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec '/opt/nvidia/nvidia_entrypoint.sh' "$@"
else
    exec '/opt/nvidia/nvidia_entrypoint.sh' 'bash' '-c' 'echo '\\''hi'\\'''
fi
"""


def test_the_files_of_an_ordinary_image() -> None:
    assert imageformat.rc(CONFIG, "docker://nvcr.io#nvidia/pytorch:25.04-py3") == RC
    assert imageformat.environment(CONFIG) == "PATH=/usr/bin:/bin\nGREETING=it's me\nEMPTY=\n"
    assert imageformat.fstab(CONFIG) == (
        "${ENROOT_ROOTFS}/data /data none x-create=dir,bind,rw,nosuid,nodev\n"
        "${ENROOT_ROOTFS}/z /z none x-create=dir,bind,rw,nosuid,nodev\n"
    )


@pytest.mark.parametrize(
    "config", [{}, {"config": None}, {"config": {}}, {"config": {"Env": None, "Cmd": []}}]
)
def test_an_image_without_settings_starts_a_shell(config: dict[str, object]) -> None:
    text = imageformat.rc(config, "x")
    assert text.startswith('# enroot-provenance: x\n\nmkdir -p "/" 2> /dev/null\ncd "/" && ')
    assert text.endswith("    exec  \"$@\"\nelse\n    exec  '/bin/sh'\nfi\n")
    assert imageformat.environment(config) == imageformat.fstab(config) == ""
    assert imageformat.workdir(config) == "/"


def test_a_newline_within_a_word_makes_it_two_as_in_enroot() -> None:
    text = imageformat.rc({"config": {"Cmd": ["sh", "-c", "a\nb"]}}, "x")
    assert "exec  'sh' '-c' 'a' 'b'\n" in text


def test_what_is_no_text_is_printed_as_jq_does() -> None:
    assert (
        imageformat.environment({"config": {"Env": [1, True, None, False, ["a", {"b": 1}]]}})
        == '1\ntrue\n["a",{"b":1}]\n'
    )


WORDS = [
    "",
    "a b",
    "it's",
    "'",
    "''",
    "a\tb",
    "\x1b[0m",
    "é日",
    "\x7f",
    "\x85",
    "\xa0",
    "a\\b",
    "'\t\\",
    "$x `y`",
    "\n\r\a",
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, which is what is compared with")
@pytest.mark.parametrize("word", [*WORDS, "\u200b", "\u2028", "\ufffe", "\U0001f600", "\x01"])
def test_quoting_is_that_of_bash(word: str) -> None:
    env = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["bash", "-c", 'printf %s "${1@Q}"', "bash", word], env=env, capture_output=True, check=True
    )
    assert imageformat.bash_quoted(word) == done.stdout.decode()


ENVIRONMENT = """\
# a comment
A=1
  B=two words
A=2
C="quoted"\x20
D='"twice"'
E="
no assignment
1X=y
ENROOT_X=y
=x
F=a=b
G=
HOME=${HOME}/x
PATH=${NOT_SET}:/bin
H=$HOME
"""


def test_the_environment_as_a_start_reads_it() -> None:
    assert imageformat.parse_environment(ENVIRONMENT, {"HOME": "/h"}) == {
        "A": "2",
        "B": "two words",
        "C": "quoted",
        "D": "twice",
        "E": '"',
        "F": "a=b",
        "G": "",
        "HOME": "/h/x",
        "PATH": ":/bin",
        "H": "$HOME",
    }
    assert imageformat.parse_environment("A=${HOME}") == {"A": ""}
    assert imageformat.parse_environment("") == {}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    imageformat.configure(tmp_path, CONFIG, "docker://nvcr.io#nvidia/pytorch:25.04-py3")
    assert (tmp_path / "etc/rc").read_text() == RC
    assert (tmp_path / "etc/rc.local").read_text() == imageformat.RC_LOCAL
    assert (tmp_path / "workspace").is_dir()
    found = imageformat.parse_environment((tmp_path / "etc/environment").read_text())
    assert found == {"PATH": "/usr/bin:/bin", "GREETING": "it's me", "EMPTY": ""}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (tmp_path / "etc").iterdir())


def test_nothing_is_written_outside_a_hostile_tree(tmp_path: Path) -> None:
    rootfs, outside = tmp_path / "rootfs", tmp_path / "outside"
    outside.mkdir()
    (outside / "rc").write_text("mine")
    rootfs.mkdir()
    (rootfs / "etc").symlink_to(outside)
    (rootfs / "workspace").symlink_to("../../../made")
    imageformat.configure(rootfs, CONFIG, "x")
    assert [path.name for path in outside.iterdir()] == ["rc"] and (outside / "rc").read_text() == "mine"
    assert (rootfs / str(outside)[1:] / "rc").read_text().startswith("# enroot-provenance: x\n")
    assert (rootfs / "made").is_dir()


def test_a_link_in_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "etc/environment").symlink_to(tmp_path / "victim")
    imageformat.configure(tmp_path, CONFIG, "x")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "etc/environment").is_symlink()


def test_a_working_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "workspace").write_text("a file")
    with pytest.raises(StoreError, match="workspace"):
        imageformat.configure(tmp_path, CONFIG, "x")
