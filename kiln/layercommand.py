"""A layer of a manifest as a command in a container: arguments, mounts, variables.

Scripts are fixed files in `kiln/scripts`; what a manifest says reaches them as arguments, never as
text of a shell. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kiln.manifest import AptLayer, CopyLayer, Layer, Mount, PipLayer, RunLayer, UvLayer

SCRIPTS = Path(__file__).parent / "scripts"
INSIDE = "/run/kiln"
STATE, TEMPORARY, LAYER = f"{INSIDE}/state", f"{INSIDE}/tmp", f"{INSIDE}/layer"
UV_INSIDE = f"{INSIDE}/bin/uv"


@dataclass(frozen=True)
class LayerCommand:
    """What layer.sh is to run, with what it needs mounted."""

    argv: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def command(layer: Layer, folder: Path, uv: Path) -> LayerCommand:
    """The command of one layer; `folder` is the manifest's, `uv` the host's static binary."""
    if isinstance(layer, AptLayer):
        return LayerCommand(script("apt", flag(layer.upgrade), flag(layer.recommends), *layer.packages))
    if isinstance(layer, PipLayer):
        mounts, arguments = _python_arguments(layer, folder)
        return LayerCommand(
            script("pip", flag(layer.upgrade_pip), *arguments), mounts, indexes(layer, "PIP_")
        )
    if isinstance(layer, UvLayer):
        mounts, arguments = _python_arguments(layer, folder)
        argv = script("uv", layer.venv or "", flag(layer.system_site_packages), layer.python, *arguments)
        return LayerCommand(argv, (*mounts, Mount(source=uv, target=UV_INSIDE)), indexes(layer, "UV_"))
    if isinstance(layer, CopyLayer):
        return _copy(layer, folder)
    return _run(layer, folder)


def scripts_mount() -> Mount:
    return Mount(source=SCRIPTS, target=f"{INSIDE}/scripts")


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return ("/bin/sh", f"{INSIDE}/scripts/{name}.sh", *arguments)


def flag(value: bool) -> str:
    return "true" if value else "false"


def _python_arguments(layer: PipLayer | UvLayer, folder: Path) -> tuple[tuple[Mount, ...], list[str]]:
    mounts, arguments = [], []
    for number, name in enumerate(layer.requirements):
        inside = f"{LAYER}/{number}/{Path(name).name}"
        mounts.append(Mount(source=folder / name, target=inside))
        arguments += ["-r", inside]
    if layer.packages:
        arguments += ["--", *layer.packages]
    return tuple(mounts), arguments


def indexes(layer: PipLayer | UvLayer, prefix: str) -> dict[str, str]:
    """A layer's own indexes, as variables: a site's could hold a password, which no argument may."""
    main, extra = ("INDEX_URL", "EXTRA_INDEX_URL") if prefix == "PIP_" else ("DEFAULT_INDEX", "INDEX")
    values = {prefix + main: layer.index_url or "", prefix + extra: " ".join(layer.extra_index_urls)}
    return {name: value for name, value in values.items() if value}


def _copy(layer: CopyLayer, folder: Path) -> LayerCommand:
    mounts, arguments = [], []
    for number, item in enumerate(layer.items):
        inside = f"{LAYER}/{number}/{Path(item.source).name}"
        mounts.append(Mount(source=folder / item.source, target=inside))
        arguments += [inside, item.target, item.mode or ""]
    return LayerCommand(script("copy", *arguments), tuple(mounts))


def _run(layer: RunLayer, folder: Path) -> LayerCommand:
    """A script in the manifest is written to a file by the caller: see `script_text`."""
    mounts = (Mount(source=folder / layer.file, target=f"{LAYER}/script"),) if layer.file else ()
    return LayerCommand(("bash", "-euo", "pipefail", f"{LAYER}/script"), mounts)
