"""The two runtimes, as a build is told to use them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

STANDIN = Path(__file__).resolve().parents[1] / "standin"


def enroot_path() -> dict[str, str]:
    """The PATH with which enroot is found: the real one, else what stands in for it."""
    real = os.environ.get("KILN_REAL_ENROOT") or shutil.which("enroot")
    return {"PATH": f"{Path(real).parent if real else STANDIN}:{os.environ['PATH']}"}
