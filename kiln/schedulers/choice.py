"""Which scheduler takes the jobs of a command.

Owns the meaning of `--on`. Inside a job work is done there and then, unless another one is named: whoever
asked for an interactive job has the machine that the work needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from kiln.errors import UsageError
from kiln.schedulers.contract import Scheduler
from kiln.schedulers.pbs import Pbs
from kiln.schedulers.slurm import Slurm
from kiln.site import Site
from kiln.workspace import JOB_VARIABLES

HERE = "here"
NONE = "none"


def wanted(on: str, site: Site, environ: Mapping[str, str]) -> str:
    """`pbs` or `slurm`, or `here`: what `--on` names, else the site. Raises `UsageError`."""
    if on in ("pbs", "slurm", HERE):
        return on
    if on:
        raise UsageError(f"--on {on}: there is no such scheduler", "write pbs, slurm or here")
    inside = any(environ.get(name) for name in JOB_VARIABLES)
    return HERE if inside or site.scheduler == NONE else site.scheduler


def scheduler(name: str, site: Site, environ: Mapping[str, str]) -> Scheduler:
    """The adapter of that name."""
    if name == "slurm":
        return Slurm(environ, site.jobs.patience)
    return Pbs(environ, site.jobs.patience, site.jobs.disk_resource)
