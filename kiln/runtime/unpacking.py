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
from kiln.registry.delivery import Delivery
from kiln.registry.oci import Resolved
from kiln.run import host_environment
from kiln.runtime.contract import Output, Progress
from kiln.runtime.sandbox import as_root

WHAT = "unpack the base's layers"
TOOL_SECONDS = 3600.0
# 20 GB over a slow line.
DELIVERY_SECONDS = 12 * 3600.0


def unpack(
    blobs: Sequence[Path],
    resolved: Resolved,
    tree: Path,
    environ: Mapping[str, str],
    progress: Progress,
    delivery: Delivery | None = None,
) -> None:
    """Apply an image's layers, lowest first, to the new folder `tree`; each once `delivery` has brought it.

    Done by a child that is root in a user namespace and changes its root to `tree` before it writes.
    Raises `BaseError` for layers that are damaged or hostile, `SpaceError` on a full disk, and what
    the delivery fails with.
    """
    tree.mkdir(parents=True)
    # Most images don't say it, and the caller's umask must not.
    tree.chmod(0o755)
    arrived = (delivery.arrived,) if delivery else ()
    env = host_environment(environ, {"PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    last = ""

    def hear(line: str) -> None:
        nonlocal last
        last = line
        # Until all is there, the delivery tells how far it is.
        if delivery and delivery.under_way:
            return
        with contextlib.suppress(ValueError, KeyError, TypeError):
            done, total = json.loads(line)["progress"]
            progress(done, delivery.size if delivery else total)

    result = as_root(
        _command(blobs, resolved, tree, arrived),
        what=WHAT,
        writable=[tree],
        env=env,
        timeout=DELIVERY_SECONDS if delivery else TOOL_SECONDS,
        output=Output(on_line=hear),
        pass_fds=arrived,
    )
    failure = unpacking.failure(last) if result.returncode != 0 else None
    if failure:
        raise failure
    if delivery:
        delivery.check()
    if result.returncode != 0:
        raise RuntimeFailure(f"{WHAT}: {result.outcome()}", "run: invoke doctor", result.tail(15))


def _command(blobs: Sequence[Path], resolved: Resolved, tree: Path, arrived: Sequence[int]) -> list[str]:
    options = [f"--arrived={descriptor}" for descriptor in arrived]
    argv = [sys.executable, "-m", "kiln.registry.unpack", *options, str(tree)]
    for blob, diff_id in zip(blobs, resolved.diff_ids, strict=True):
        argv += [str(blob), diff_id]
    return argv
