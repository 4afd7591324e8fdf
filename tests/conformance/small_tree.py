"""A root file system of a few megabytes, made from the host's own tools and their libraries.

It needs no network and no rights, and its files are real ones: enough for a shell to run in.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

TOOLS = (
    "sh", "cat", "chmod", "chown", "cp", "dirname", "env", "find", "grep", "id", "ln", "ls", "mkdir", "mv",
    "readlink", "rm", "setsid", "sleep", "stat", "touch",
)  # fmt: skip
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
FOLDERS = (
    "dev",
    "etc/apt/apt.conf.d",
    "etc/skel",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "var",
    "mnt",
)
ENVIRONMENT = """\
PATH=/opt/own/bin:/usr/bin:/bin
FOO=bar baz
QUOTED="in quotes"
HOSTILE=${HOME}
LANG=C.UTF-8
LD_LIBRARY_PATH=/nonexistent
NVIDIA_VISIBLE_DEVICES=all
"""
RC = """\
# enroot-provenance: small
mkdir -p "/work dir" 2> /dev/null
cd "/work dir" && unset OLDPWD || exit 1
if [ $# -gt 0 ]; then
    exec '/bin/sh' '-c' 'echo entrypoint "$0" "$@" in "$PWD" with "$FOO"' "$@"
else
    exec '/bin/sh' '-c' 'echo entrypoint "$0" "$@" in "$PWD" with "$FOO"' 'two words'
fi
"""
PASSWD = "root:x:0:0:root:/root:/bin/sh\n_apt:x:100:65534::/nonexistent:/usr/sbin/nologin\n"
SHADOW = "root:*:19000:0:99999:7:::\n_apt:*:19000:0:99999:7:::\n"
GSHADOW = "root:*::\nnogroup:*::\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"


def make(tree: Path) -> Path:
    """Make the tree at the new folder `tree`."""
    for name in FOLDERS:
        (tree / name).mkdir(parents=True)
    for name in MERGED:
        host = Path("/", name)
        if host.is_symlink():
            (tree / name).symlink_to(host.readlink())
            (tree / "usr" / name).mkdir(exist_ok=True)
    for tool in TOOLS:
        path = shutil.which(tool, path="/usr/bin:/bin")
        assert path, f"this machine has no {tool}"
        _add(tree, path)
    (tree / "var/run").symlink_to("/run")
    _write(tree, "etc/passwd", PASSWD)
    _write(tree, "etc/group", GROUP)
    _write(tree, "etc/shadow", SHADOW)
    _write(tree, "etc/gshadow", GSHADOW)
    _write(tree, "etc/environment", ENVIRONMENT)
    _write(tree, "etc/rc", RC)
    _write(tree, "etc/debian_version", "12\n")
    _write(tree, "etc/skel/.profile", "# of the skeleton\n")
    (tree / "work dir").mkdir()
    return tree


def _add(tree: Path, program: str) -> None:
    said = subprocess.run(["ldd", program], check=False, capture_output=True, text=True).stdout
    for name in (program, *re.findall(r"(/\S+) \(0x", said)):
        target = tree / name.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target)


def _write(tree: Path, name: str, text: str) -> None:
    (tree / name).write_text(text)
    (tree / name).chmod(0o644)
