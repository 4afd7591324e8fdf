"""Trees with packages, made of nothing but what `kiln.inventory` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kiln.files import remove_tree

SYSTEM = "/usr/local/lib/python3.12/dist-packages"
DEBIAN = "/usr/lib/python3/dist-packages"
NV = "2.7.0a0+nv25.4"
PIP_SAYS = f"""\
The conflict is caused by:
    needs-old 1.0 depends on torch==2.6.0
    The user requested (constraint) torch=={NV}
"""
UV_SAYS = f"""\
error: No solution found when resolving dependencies
  cause: Because all versions of needs-old depend on torch==2.6.0 and torch=={NV}, we can conclude that
"""


def write(tree: Path, path: str, text: str) -> None:
    place = tree / path.strip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def install(tree: Path, name: str, version: str, place: str = SYSTEM, requires: tuple[str, ...] = ()) -> Path:
    """Have a Python distribution there; returns the folder of its metadata."""
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in requires)]
    info = f"{place}/{name.replace('-', '_')}-{version}.dist-info"
    write(tree, f"{info}/METADATA", "\n".join(lines) + "\n")
    return tree / info.strip("/")


def debian(tree: Path, *packages: tuple[str, str] | tuple[str, str, str]) -> None:
    """Have dpkg's packages: (name, version) or (name, version, depends)."""
    text = ""
    for name, version, *depends in packages:
        text += f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
        text += "".join(f"Depends: {each}\n" for each in depends) + "\n"
    write(tree, "/var/lib/dpkg/status", text)


def python(tree: Path, path: str = "/usr/bin/python3", program: str = "python3.12") -> None:
    """Have a Python: the link `path` to a program beside it."""
    write(tree, f"{path.rpartition('/')[0]}/{program}", "")
    (tree / path.strip("/")).symlink_to(program)


def venv(tree: Path, prefix: str, *, system: bool, home: str = "/usr/bin") -> str:
    """Have a virtual environment as uv makes them; returns its folder of packages."""
    said = f"include-system-site-packages = {'true' if system else 'false'}\n"
    write(tree, f"{prefix}/pyvenv.cfg", f"home = {home}\nversion_info = 3.12.3\n{said}")
    (tree / f"{prefix}/bin".strip("/")).mkdir(parents=True)
    (tree / f"{prefix}/bin/python3".strip("/")).symlink_to(f"{home}/python3")
    return f"{prefix}/lib/python3.12/site-packages"


def nvidia(tree: Path) -> Path:
    """Have a base with NVIDIA's torch and a constraint file, which names numpy."""
    python(tree)
    install(tree, "torch", NV)
    install(tree, "numpy", "1.26.4")
    install(tree, "humanize", "4.12.0")
    write(tree, "/etc/pip/constraint.txt", f"torch=={NV}\nnumpy<2\nscipy==1\n")
    debian(tree, ("libnccl2", "2.26"), ("vim", "9"), ("nccl-tools", "1", "libc6, libnccl2 (>= 2)"))
    return tree


def replace(tree: Path, name: str, before: str, after: str, place: str = SYSTEM) -> Callable[[], object]:
    def change() -> None:
        remove_tree(tree / place.strip("/") / f"{name}-{before}.dist-info")
        if after:
            install(tree, name, after, place)

    return change
