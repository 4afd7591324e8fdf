"""A locked layer as a command in a container: the same packages, from a folder with nothing else in it.

    /run/kiln/locked/files/              the packages, checked
                     list                for apt: NAME VERSION ARCHITECTURE SHA256 PATH, - for one in `files`
                     requirements.txt    for pip and uv: NAME==VERSION --hash=…
                     tools.txt           for pip: pip itself, which comes first

Owns that folder's form. The scripts beside those of unlocked layers read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kiln import lockedfiles
from kiln.layercommand import INSIDE, UV_INSIDE, LayerCommand, flag, script
from kiln.locked import SOURCE, TOOL, WHEEL, Locked
from kiln.lockedfiles import IN_THE_BASE, LockedFiles
from kiln.manifest import AptLayer, Layer, Mount, PipLayer, UvLayer

LOCKED = f"{INSIDE}/locked"


def lay_out(files: LockedFiles, kind: str, packages: Sequence[Locked], place: Path) -> None:
    """Make the new folder `place` for a layer. Raises `LockError` for a package that isn't there."""
    files.stage(packages, place / "files", lambda package: lockedfiles.file_name(package, kind))
    if kind == AptLayer.kind:
        (place / "list").write_text("".join(f"{_listed(package)}\n" for package in packages))
        return
    (place / "requirements.txt").write_text(requirements(packages, (WHEEL, SOURCE)))
    (place / "tools.txt").write_text(requirements(packages, (TOOL,)))


def command(layer: Layer, place: Path, uv: Path) -> LayerCommand:
    """The command of one locked layer; `place` is its folder, `uv` the host's static binary."""
    mounts = (Mount(source=place, target=LOCKED),)
    if isinstance(layer, AptLayer):
        arguments = (flag(layer.upgrade), flag(layer.recommends), *layer.packages)
        return LayerCommand(script("apt-locked", *arguments), mounts)
    if isinstance(layer, PipLayer):
        return LayerCommand(script("pip-locked"), mounts)
    if isinstance(layer, UvLayer):
        argv = script("uv-locked", layer.venv or "", flag(layer.system_site_packages), layer.python)
        return LayerCommand(argv, (*mounts, Mount(source=uv, target=UV_INSIDE)))
    raise ValueError(f"a layer of kind {layer.kind} has no packages")


def requirements(packages: Iterable[Locked], places: Sequence[str]) -> str:
    """Lines for pip and uv; what a source is built with is only there to be found."""
    wanted = (each for each in packages if each.place in places)
    return "".join(f"{each.name}=={each.version} --hash=sha256:{each.sha256}\n" for each in wanted)


def _listed(package: Locked) -> str:
    path = package.url.removeprefix(IN_THE_BASE) if package.url.startswith(IN_THE_BASE) else "-"
    return f"{package.name} {package.version} {package.place} {package.sha256} {path}"
