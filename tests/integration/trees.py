"""Trees and images for tests: a small one of the host's own programs, and what lies in an exported file."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from kiln import imageformat

PROGRAMS = (
    "bash", "sh", "cat", "chmod", "cp", "dirname", "env", "find", "head", "id", "ln", "ls", "mkdir", "mv",
    "readlink", "rm", "setsid", "sleep", "sort", "stat", "touch", "tr",
)  # fmt: skip
PASSWD = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n"
AS_ROOT = ("unshare", "--user", "--map-root-user")


def small(tree: Path) -> None:
    """A tree with a shell and a few tools: no package manager, no Python, no network needed to make it."""
    for name in ("bin", "tmp", "proc", "sys", "dev", "run", "etc", "root"):
        (tree / name).mkdir(parents=True)
    for program in PROGRAMS:
        source = next(path for path in (Path("/usr/bin", program), Path("/bin", program)) if path.exists())
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


def whole(image: Path, place: Path) -> dict[str, tuple[str, str, str]]:
    """All that an image holds: each path with its mode, what it holds, and what else it is a name of."""
    tree = unpack(image, place)
    first: dict[int, str] = {}
    found = {}
    for path in sorted(tree.rglob("*")):
        name, status = str(path.relative_to(tree)), path.lstat()
        held = f"-> {path.readlink()}" if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            held = path.read_bytes().hex()
            first.setdefault(status.st_ino, name)
        attributes = "".join(
            f"{key}={os.getxattr(path, key, follow_symlinks=False).hex()}"
            for key in os.listxattr(path, follow_symlinks=False)
        )
        found[name] = (oct(status.st_mode), held + attributes, first.get(status.st_ino, ""))
    return found
