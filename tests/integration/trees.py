"""Trees and images for tests: a small one of the host's own programs, and what lies in an exported file."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kiln import imageformat

PROGRAMS = (
    "bash", "sh", "cat", "chmod", "cp", "dirname", "env", "find", "head", "id", "ln", "ls", "mkdir", "mv",
    "readlink", "rm", "setcap", "setsid", "sleep", "sort", "stat", "touch", "tr",
)  # fmt: skip
FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")
PASSWD = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n"
AS_ROOT = ("unshare", "--user", "--map-root-user")


def small(tree: Path) -> None:
    """A tree with a shell and a few tools: no package manager, no Python, no network needed to make it."""
    for name in ("bin", "tmp", "proc", "sys", "dev", "run", "etc", "root"):
        (tree / name).mkdir(parents=True)
    for program in PROGRAMS:
        source = next(path for folder in FOLDERS if (path := Path(folder, program)).exists())
        _place(source, tree / "bin" / program)
        for library in _libraries(source):
            _place(library, tree / str(library).strip("/"))
    (tree / "usr").mkdir(exist_ok=True)
    (tree / "usr/bin").symlink_to("../bin")
    (tree / "etc/passwd").write_text(PASSWD)
    (tree / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (tree / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
    (tree / "etc/shadow").chmod(0o640)
    config = {"config": {"Env": ["PATH=/usr/bin:/bin", "FROM_BASE=yes"], "Cmd": ["/bin/bash"]}}
    imageformat.configure(tree, config, "a test")


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.write_bytes(source.read_bytes())
        target.chmod(0o755)


def _libraries(program: Path) -> list[Path]:
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", said)]


def pack(tree: Path, image: Path) -> Path:
    """The tree as an image."""
    subprocess.run(
        ["mksquashfs", tree, image, "-all-root", "-noappend", "-quiet", "-no-progress"], check=True
    )
    return image


def unpack(image: Path, tree: Path) -> Path:
    """What lies in an image, with its capabilities: as root in a namespace, who may set them."""
    subprocess.run([*AS_ROOT, "unsquashfs", "-quiet", "-no-progress", "-dest", tree, image], check=True)
    return tree


def listing(image: Path) -> dict[str, str]:
    """The paths in an image, each with its mode and owner as `unsquashfs -lln` has them."""
    said = subprocess.run(["unsquashfs", "-lln", str(image)], capture_output=True, text=True, check=True)
    rows = re.findall(r"^(\S{10}) +(\S+) .*?squashfs-root(/[^\n]*?)?(?: -> .*)?$", said.stdout, re.MULTILINE)
    return {path or "/": f"{mode} {owner}" for mode, owner, path in rows}


def content(image: Path, path: str) -> str:
    """The text of one file in an image."""
    return subprocess.run(
        ["unsquashfs", "-cat", str(image), path.lstrip("/")], capture_output=True, text=True, check=True
    ).stdout


def state(tree: Path) -> dict[str, tuple[str, str]]:
    """Every path of a tree with its mode, and its contents or where it leads."""
    found = {}
    for path in tree.rglob("*"):
        if path.is_symlink():
            content = f"-> {path.readlink()}"
        else:
            content = path.read_bytes().hex() if path.is_file() else ""
        found[str(path.relative_to(tree))] = (oct(path.lstat().st_mode), content)
    return found


def whole(image: Path) -> dict[str, Any]:
    """Everything that an image says of every path: mode, owner, time, content, capabilities, hard links."""
    script = 'unsquashfs -quiet -no-progress -dest "$2/tree" "$1" >&2 && exec "$3" "$4" "$2/tree"'
    reader = Path(__file__).with_name("treestate.py")
    with tempfile.TemporaryDirectory() as place:
        argv = [*AS_ROOT, "sh", "-c", script, "sh", str(image), place, sys.executable, str(reader)]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        # Here are folders that nobody but root of a namespace can read.
        subprocess.run([*AS_ROOT, "chmod", "-R", "u+rwX", place], check=True)
    found: dict[str, Any] = json.loads(said)
    return found


def assert_same(image: Path, other: Path) -> None:
    """Whether two images hold the same tree; where they aren't the same to the byte, path by path."""
    if _digest(image) == _digest(other):
        return
    one, two = whole(image), whole(other)
    different = {
        path: (one.get(path), two.get(path)) for path in {*one, *two} if one.get(path) != two.get(path)
    }
    assert not different, different


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
