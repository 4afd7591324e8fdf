"""An image's layers to a tree: the parent of the child that does it (`kiln.registry.unpack`).

Owns how the child is started and what its words mean. Whatever runs the tree later, it comes out the same.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kiln.errors import RuntimeFailure
from kiln.registry import unpack as unpacking
from kiln.registry.oci import Resolved
from kiln.run import host_environment
from kiln.runtime.contract import Output, Progress
from kiln.runtime.sandbox import as_root

TOOL_SECONDS = 3600.0


def unpack(
    blobs: Sequence[Path],
    resolved: Resolved,
    tree: Path,
    environ: Mapping[str, str],
    progress: Progress,
) -> None:
    """Apply an image's layers, lowest first, to the new folder `tree`.

    Done by a child that is root in a user namespace and changes its root to `tree` before it writes.
    Raises `BaseError` for layers that are damaged or hostile, `SpaceError` on a full disk.
    """
    tree.mkdir(parents=True)
    # Most images don't say it, and the caller's umask must not.
    tree.chmod(0o755)
    argv = [sys.executable, "-m", "kiln.registry.unpack", str(tree)]
    for blob, diff_id in zip(blobs, resolved.diff_ids, strict=True):
        argv += [str(blob), diff_id]
    env = host_environment(environ, {"PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    last = ""

    def hear(line: str) -> None:
        nonlocal last
        last = line
        with contextlib.suppress(ValueError, KeyError, TypeError):
            progress(*json.loads(line)["progress"])

    what = "unpack the base's layers"
    hearing = Output(on_line=hear)
    result = as_root(argv, what=what, writable=[tree], env=env, timeout=TOOL_SECONDS, output=hearing)
    if result.returncode != 0:
        unknown = RuntimeFailure(f"{what}: {result.outcome()}", "run: invoke doctor", result.tail(15))
        raise unpacking.failure(last) or unknown
