"""Which runtime a build gets, and with what.

Owns the wiring of both runtimes from a site profile and a workspace. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from kiln.errors import EnvironmentMissing
from kiln.run import host_environment, which
from kiln.runtime.contract import Runtime
from kiln.runtime.embedded import Embedded
from kiln.runtime.enroot import Enroot
from kiln.runtime.enrootcall import Places, Surroundings
from kiln.runtime.namespace import HOST, Space
from kiln.site import Site
from kiln.workspace import Workspace

Name = Literal["enroot", "embedded"]


def resolve(wanted: str, environ: Mapping[str, str]) -> Name:
    """The runtime that `auto`, `enroot` or `embedded` stands for here. Raises `EnvironmentMissing`."""
    env = host_environment(environ)
    if wanted == "embedded" or (wanted == "auto" and which("enroot", env) is None):
        if which("bwrap", env) is None:
            raise EnvironmentMissing(
                "there is no 'bwrap' on PATH, in which the embedded runtime works",
                "type: apt-get install bubblewrap, or put enroot on PATH",
            )
        return "embedded"
    if which("enroot", env) is None:
        raise EnvironmentMissing(
            "there is no 'enroot' on PATH",
            "load or install it (https://github.com/NVIDIA/enroot), or build with: --runtime embedded",
        )
    return "enroot"


def choose(
    wanted: str,
    site: Site,
    workspace: Workspace,
    environ: Mapping[str, str],
    space: Space = HOST,
) -> Runtime:
    """The runtime for one build, working in `space`."""
    options = packing(site)
    if resolve(wanted, environ) == "embedded":
        return Embedded(workspace.containers, workspace.scratch, environ, options, workspace.id, space)
    mirrors = {host: registry.mirror for host, registry in site.registries.items()}
    return Enroot(
        Places(workspace.containers, workspace.enroot, workspace.scratch, site.enroot_cache),
        environ,
        site=Surroundings(site.proxy_environment(), site.ca_bundle, mirrors),
        options=options,
        build=workspace.id,
        space=space,
    )


def packing(site: Site) -> tuple[str, ...]:
    """mksquashfs's options for images of this site."""
    return ("-comp", "zstd", "-Xcompression-level", str(site.squashfs.level))
