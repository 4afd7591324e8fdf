"""What a job asks its scheduler for: cores, memory, disk, GPUs, time, by kind of work.

Owns these keys of site profiles and manifests, and which of them wins: the manifest's, else the site's, else
those below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from kiln.document import Model, Number
from kiln.fields import Line, Seconds, Size
from kiln.sitefields import Expanded

BUILD, SMOKE, SCHEDULE = "build", "smoke", "schedule"
GIGABYTE = 10**9
Count = Annotated[Number, Field(ge=1)]


@dataclass(frozen=True)
class Resources:
    """Of one job: bytes and seconds; 0 for no GPU, and for a disk that isn't asked for."""

    cpus: int
    memory: int
    gpus: int
    time: int
    disk: int = 0
    queue: str = ""
    project: str = ""


class Sizes(Model):
    """What one kind of job asks for. What is left out is the site's."""

    model_config = ConfigDict(title="Sizes of a job")

    cpus: Count | None = Field(default=None, description="Cores.")
    memory: Size | None = Field(default=None, description="Memory: `32GB`.")
    gpus: Annotated[Number, Field(ge=0)] | None = Field(default=None, description="GPUs.")
    time: Seconds | None = Field(default=None, description="The longest that it may run: `4h`.")
    disk: Size | None = Field(default=None, description="Local disk, where the scheduler knows of it.")


class Jobs(Model):
    """What the jobs of an image ask a scheduler for: see docs/jobs.md."""

    model_config = ConfigDict(title="Jobs")

    build: Sizes = Field(default=Sizes(), description="For building it.")
    smoke: Sizes = Field(default=Sizes(), description="For its smoke hooks alone.")


class SiteSizes(Sizes):
    """The same, with the queue that such jobs go to."""

    queue: Line | None = Field(default=None, description="The queue, or Slurm's partition.")


class SiteJobs(Model):
    """Jobs on this site's scheduler."""

    project: Expanded = Field(default="", description="The project, or Slurm's account, that jobs are for.")
    queue: Line = Field(default="", description="The queue, or Slurm's partition, where jobs must name one.")
    build: SiteSizes = Field(default=SiteSizes(), description="Jobs that build.")
    smoke: SiteSizes = Field(default=SiteSizes(), description="Jobs that test a published image.")
    schedule: SiteSizes = Field(default=SiteSizes(), description="The job that a schedule is.")
    disk_resource: Line = Field(default="", description="PBS's resource for a node's local disk.")
    patience: Seconds = Field(default=30, description="How long one call of the scheduler's may take.")


DEFAULTS: dict[str, dict[str, int]] = {
    BUILD: {"cpus": 8, "memory": 32 * GIGABYTE, "gpus": 0, "time": 4 * 3600},
    SMOKE: {"cpus": 8, "memory": 32 * GIGABYTE, "gpus": 0, "time": 3600},
    SCHEDULE: {"cpus": 1, "memory": 2 * GIGABYTE, "gpus": 0, "time": 4 * 3600},
}


def resources(kind: str, site: SiteJobs, image: Jobs, *, gpu: bool = False) -> Resources:
    """What a job of a kind asks for. Of smoke jobs only those have GPUs whose hooks need one (`gpu`)."""
    values: dict[str, Any] = {**DEFAULTS[kind], "queue": site.queue, "project": site.project}
    values |= {"gpus": 1} if kind == SMOKE else {}
    values |= _said(getattr(site, kind))
    if kind == SMOKE and not gpu:
        values["gpus"] = 0
    values |= _said(getattr(image, kind, None))
    return Resources(**values)


def _said(sizes: Sizes | None) -> dict[str, Any]:
    return {name: value for name, value in sizes if value is not None} if sizes else {}


def kibibytes(size: int) -> int:
    """Bytes as schedulers count them, rounded up."""
    return -(-size // 1024)
