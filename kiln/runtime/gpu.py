"""The host's NVIDIA GPUs, made visible in a sandbox of the embedded runtime.

What to pass comes from a CDI specification where there is one, else from the driver's device nodes
and libraries. Owns the list; mounts nothing. Libraries and programs are placed below /run/kiln/gpu,
on a tmpfs, so that the image's own tree isn't touched. The format of a specification:
https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SPECIFICATIONS = ("etc/cdi", "var/run/cdi")
KIND = "nvidia.com/gpu"
PLACE = "/run/kiln/gpu"
LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/nvidia/lib64",
)  # fmt: skip
# What CUDA programs load from the driver, as `nvidia-container-cli list --libraries` names them.
LIBRARIES = (
    "libcuda.so.*", "libcudadebugger.so.*", "libnvidia-ml.so.*", "libnvidia-ptxjitcompiler.so.*",
    "libnvidia-nvvm.so.*", "libnvidia-nvvm70.so.*", "libnvidia-gpucomp.so.*", "libnvidia-cfg.so.*",
)  # fmt: skip
PROGRAMS = ("nvidia-smi", "nvidia-debugdump", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
DEVICES = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps/*")


@dataclass(frozen=True)
class Passed:
    """bwrap's options and variables that show the GPUs; both empty on a machine without any."""

    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def visible(self, inside: Mapping[str, str]) -> dict[str, str]:
        """The environment `inside` with the driver's libraries first and its programs last."""
        if not self.options:
            return dict(inside)
        libraries = ":".join(filter(None, (f"{PLACE}/lib", inside.get("LD_LIBRARY_PATH"))))
        programs = f"{inside['PATH']}:{PLACE}/bin"
        return {**inside, **self.env, "LD_LIBRARY_PATH": libraries, "PATH": programs}


NOTHING = Passed()


def find(environ: Mapping[str, str], host: Path = Path("/")) -> Passed:
    """What to pass of this machine's GPUs; `NOTHING` where there is no device node."""
    devices = [
        path for pattern in DEVICES for path in sorted((host / "dev").glob(pattern)) if not path.is_dir()
    ]
    if not any(path.name.removeprefix("nvidia").isdigit() for path in devices):
        return NOTHING
    files, env = _specified(host) or _installed(host)
    options = [
        part
        for path in devices
        for part in ("--dev-bind", str(path), f"/dev/{path.relative_to(host / 'dev')}")
    ]
    for path in files:
        folder = "lib" if ".so" in path.name else "bin"
        for name in _names(path):
            options += ["--ro-bind", str(path), f"{PLACE}/{folder}/{name}"]
    if "CUDA_VISIBLE_DEVICES" in environ:
        env["CUDA_VISIBLE_DEVICES"] = environ["CUDA_VISIBLE_DEVICES"]
    return Passed(tuple(options), env)


def _names(path: Path) -> set[str]:
    """The file's name and every link beside it that leads to it: programs load libcuda.so.1."""
    links = {
        other.name
        for other in path.parent.glob(f"{path.name.split('.so')[0]}.so*")
        if other.resolve() == path.resolve()
    }
    return {path.name, *links}


def _installed(host: Path) -> tuple[list[Path], dict[str, str]]:
    found: dict[str, Path] = {}
    for folder in LIBRARY_FOLDERS:
        for pattern in LIBRARIES:
            for path in sorted((host / folder).glob(pattern)):
                found.setdefault(path.resolve().name, path.resolve())
    programs = [host / "usr/bin" / name for name in PROGRAMS if (host / "usr/bin" / name).is_file()]
    return [*found.values(), *programs], {}


def _specified(host: Path) -> tuple[list[Path], dict[str, str]] | None:
    """Libraries, programs and variables of the first CDI specification for NVIDIA GPUs, or None."""
    for folder in SPECIFICATIONS:
        for path in sorted((host / folder).glob("*")):
            if path.suffix in (".json", ".yaml", ".yml") and (edits := _edits(path)):
                return _files(host, edits), _variables(edits)
    return None


def _edits(path: Path) -> list[dict[str, Any]]:
    """The containerEdits for all devices of a specification; [] for another kind's or a damaged one."""
    try:
        text = path.read_text()
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if data["kind"] != KIND:
            return []
        devices = data["devices"]
        chosen = [d for d in devices if d["name"] == "all"] or devices
        return [data.get("containerEdits", {}), *(d.get("containerEdits", {}) for d in chosen)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return []


def _files(host: Path, edits: Iterable[dict[str, Any]]) -> list[Path]:
    paths = [host / str(mount["hostPath"]).lstrip("/") for edit in edits for mount in edit.get("mounts", [])]
    return sorted(
        {
            path
            for path in paths
            if path.is_file() and (".so" in path.name or path.parent.name in ("bin", "sbin"))
        }
    )


def _variables(edits: Iterable[dict[str, Any]]) -> dict[str, str]:
    pairs = [str(item).split("=", 1) for edit in edits for item in edit.get("env", []) if "=" in str(item)]
    # A specification says "void" so that enroot's like don't do the same work twice.
    return {name: value for name, value in pairs if not name.startswith("NVIDIA_")}
