"""One invocation of a build: its checkout, machine, job and tools; looked up once, at its beginning.

Owns the collecting. Decides nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from kiln import __version__, checkout, files, hardware, lockfile
from kiln.context import Context
from kiln.hardware import Hardware
from kiln.layers import key as keys
from kiln.manifest import Manifest
from kiln.provenance import Tools
from kiln.run import host_environment, run
from kiln.workspace import JOB_VARIABLES
from kiln.yamltree import read

PROBE_SECONDS = 30.0
SAID = "manifest"
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Invocation:
    """What belongs to one build, and the two inputs that are no part of a plan: commit and lock.

    `lock` is the text of `manifests/NAME.lock`, '' for none; `started` is ISO 8601 in UTC; `inputs` are
    digests, as a record has them.
    """

    commit: str
    clean: bool | None
    lock: str
    squashfs_tools: str
    host: str
    job: str
    started: str
    hardware: Hardware
    inputs: Mapping[str, str]

    def tools(self, runtime: str) -> Tools:
        return Tools(__version__, runtime, self.squashfs_tools)


def take(context: Context, name: str) -> Invocation:
    """What is known when the build of an image begins."""
    state = checkout.state(context.root, context.environ)
    if state.problem:
        context.ui.warn(f"the record will have no git commit, or not whether all is in it: {state.problem}")
    lock = context.manifests / f"{name}.lock"
    return Invocation(
        commit=state.commit,
        clean=state.clean,
        lock=read(lock, lockfile.SIZE_LIMIT) if lock.is_file() else "",
        squashfs_tools=_squashfs_tools(context),
        host=os.uname().nodename,
        job=next((context.environ[name] for name in JOB_VARIABLES if name in context.environ), ""),
        started=now(),
        hardware=hardware.find(context.environ),
        inputs=inputs(context.load(name), context.hooks),
    )


def inputs(manifest: Manifest, hooks: Path) -> dict[str, str]:
    """The digests of what decides what an image is: what its manifest says, whatever its comments, and the
    files beside it. Raises `ManifestError` for one that is gone.
    """
    said = manifest.model_dump(mode="json", exclude={"layers"}, exclude_defaults=True)
    said["layers"] = [
        {"kind": layer.kind, **layer.model_dump(mode="json", exclude={"timeout"}, exclude_defaults=True)}
        for layer in manifest.layers
    ]
    found: dict[str, str] = {SAID: digest(files.canonical_json(said))}
    for layer in manifest.layers:
        found.update(keys.digests(layer, manifest.folder))
    return {**found, **{f"hooks/{test.hook}": keys.digest(hooks / test.hook) for test in manifest.smoke}}


def now() -> str:
    return datetime.now(timezone.utc).strftime(TIME)


def digest(text: str) -> str:
    """`sha256:<hex>` of a text, '' of none."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else ""


def _squashfs_tools(context: Context) -> str:
    env = host_environment(context.environ)
    # Its exit code differs between versions, its text is what counts.
    said = run(["mksquashfs", "-version"], what="ask mksquashfs", env=env, timeout=PROBE_SECONDS, check=False)
    found = re.search(r"version (\S+)", said.output)
    return found[1] if found else ""
