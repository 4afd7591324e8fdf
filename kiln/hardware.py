"""The machine on which an image was tested: its GPUs, their driver, its kernel.

Owns where these are read. Runs nothing: nvidia-smi takes seconds on a node whose driver isn't loaded yet.

    /proc/driver/nvidia/version               the driver's, in the first line
    /proc/driver/nvidia/gpus/*/information    'Model:' and 'GPU UUID:' of each GPU
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DRIVER = Path("proc/driver/nvidia")
# Open kernel modules name the machine (x86_64) before the version.
VERSION = re.compile(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Hardware:
    """What a test saw: the model of each GPU, the driver's version ('' for none), the kernel's release."""

    gpus: tuple[str, ...] = ()
    driver: str = ""
    kernel: str = ""


def find(environ: Mapping[str, str], host: Path = Path("/")) -> Hardware:
    """This machine's; of its GPUs those that the caller may use, as CUDA_VISIBLE_DEVICES has it."""
    gpus = [_gpu(path) for path in sorted((host / DRIVER / "gpus").glob("*/information"))]
    models = tuple(model for _, model in gpus)
    if VISIBLE in environ:
        models = tuple(_visible(gpus, environ[VISIBLE]))
    return Hardware(models, driver(host), os.uname().release)


def driver(host: Path = Path("/")) -> str:
    """The version of the NVIDIA driver that is loaded, '' where there is none."""
    try:
        text = (host / DRIVER / "version").read_text()
    except OSError:
        return ""
    found = VERSION.search(text)
    return found[1] if found else ""


def _gpu(path: Path) -> tuple[str, str]:
    """UUID and model of a GPU; some systems let nobody but root read that."""
    text = ""
    with contextlib.suppress(OSError):
        text = path.read_text(errors="replace")
    rows = (line.partition(":") for line in text.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in rows}
    return fields.get("GPU UUID", ""), fields.get("Model", "unknown")


def _visible(gpus: list[tuple[str, str]], text: str) -> list[str]:
    """As CUDA reads it: numbers or the beginnings of UUIDs, up to the first that names nothing."""
    found = []
    for word in filter(None, map(str.strip, text.split(","))):
        number = int(word) if word.isdigit() else None
        named = [model for uuid, model in gpus if uuid.startswith(word)]
        if number is not None and number < len(gpus):
            found.append(gpus[number][1])
        elif number is None and len(named) == 1:
            found += named
        elif word.startswith("MIG-"):
            found.append("a part of a GPU (MIG)")
        else:
            break
    return found
