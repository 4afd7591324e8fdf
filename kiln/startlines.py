"""The lines with which a user starts an image, ready to paste.

Owns their text: enroot's own commands, and the batch header that the site's PBS reads. Runs nothing.
"""

from __future__ import annotations

import shlex

from kiln.site import Pbs, Site


def blocks(name: str, path: str, site: Site) -> list[tuple[str, list[str]]]:
    """Titles and lines for the image `name` in the file `path`."""
    made = [
        ("Start it with enroot:", [f"enroot create --name {name} {shlex.quote(path)}", _start(name, site)])
    ]
    if site.pbs:
        made.append(
            ("Start it in a PBS job (save as job.pbs, then: qsub job.pbs):", _pbs(name, path, site, site.pbs))
        )
    return made


def _start(name: str, site: Site) -> str:
    options = [f"--env {_variable(variable)}" for variable in site.start.env]
    options += [f"--mount {shlex.quote(mount)}" for mount in site.start.mounts]
    return " ".join(["enroot start --rw", *options, name])


def _variable(text: str) -> str:
    """A name alone passes the variable of the shell that the line is pasted into."""
    return shlex.quote(text) if "=" in text else f'{text}="${text}"'


def _pbs(name: str, path: str, site: Site, pbs: Pbs) -> list[str]:
    select = f"select=1:ncpus={pbs.cpus_per_gpu}:mem={pbs.memory_per_gpu}:ngpus=1:container_engine=enroot"
    header = [f"-N {name}", f"-l {select}", f"-l container_image={path}", f"-l container_name={name}"]
    header += [f"-l enroot_env_file={pbs.env_file}"] if pbs.env_file else []
    header += [f"-l walltime={pbs.walltime}", f"-P {pbs.project or '<project>'}"]
    header += [f"-q {pbs.queue}"] if pbs.queue else []
    return ["#!/bin/bash", *(f"#PBS {line}" for line in header), f"{_start(name, site)} nvidia-smi"]
