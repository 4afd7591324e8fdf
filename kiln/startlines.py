"""The lines with which a user starts an image, ready to paste.

Owns their text: enroot's own commands, the job scripts that the site's scheduler reads (PBS with enroot as
its container engine; Slurm with pyxis), and torchrun with the rendezvous of the job. Runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from kiln.record import Record
from kiln.site import Pbs, Site

Block = tuple[str, list[str]]
SLURM = "slurm"
PORT = 29555
COMMAND, TRAIN = "nvidia-smi", "train.py"
# What PBS takes in a resource's value as it is: a comma would begin another resource.
_PLAIN = re.compile(r"[A-Za-z0-9._/+-]+")


def blocks(name: str, path: str, site: Site, *, torch: bool = False) -> list[Block]:
    """Titles and lines for the image `name` in the file `path`; `torch` says that it has PyTorch."""
    create = f"enroot create --name {name} {shlex.quote(path)}"
    made = [("Start it with enroot:", [create, _start(name, site)])]
    if site.pbs:
        made.append(
            ("Start it in a PBS job (save as job.pbs, then: qsub job.pbs):", _pbs(name, path, site, site.pbs))
        )
    if site.scheduler == SLURM:
        title = "Start it in a Slurm job with pyxis (save as job.sh, then: sbatch job.sh):"
        made.append((title, [*_sbatch(name, nodes=1), *_exports(site), f"{_srun(path, site)} {COMMAND}"]))
    return [*made, _torchrun(name, path, site)] if torch else made


def has_torch(record: Record | None) -> bool:
    """Whether an image has PyTorch; where its packages aren't on record, by the name of its base."""
    if record is None:
        return False
    if not record.companions:
        return "pytorch" in record.base
    return any(package.name == "torch" for package in record.packages)


def _start(name: str, site: Site) -> str:
    options = [f"--env {_variable(variable)}" for variable in site.start.env]
    options += [f"--mount {shlex.quote(mount)}" for mount in site.start.mounts]
    return " ".join(["enroot start --rw", *options, name])


def _variable(text: str) -> str:
    """A name alone passes the variable of the shell that the line is pasted into."""
    return shlex.quote(text) if "=" in text else f'{text}="${text}"'


def _pbs(name: str, path: str, site: Site, pbs: Pbs) -> list[str]:
    select = f"select=1:ncpus={pbs.cpus_per_gpu}:mem={pbs.memory_per_gpu}:ngpus=1:container_engine=enroot"
    header = [f"-N {name}", f"-l {select}", f"-l container_image={_resource(path)}"]
    header += [f"-l container_name={name}"]
    header += [f"-l enroot_env_file={_resource(pbs.env_file)}"] if pbs.env_file else []
    header += [f"-l walltime={pbs.walltime}", f"-P {pbs.project or '<project>'}"]
    header += [f"-q {pbs.queue}"] if pbs.queue else []
    lines = ["#!/bin/bash", *(f"#PBS {line}" for line in (*header, "-j oe"))]
    if not pbs.env_file:
        # Two marks: a comment until somebody takes one away.
        lines.append("##PBS -l enroot_env_file=<a file of NAME=VALUE lines>")
    return [*lines, 'cd "$PBS_O_WORKDIR"', f"{_start(name, site)} {COMMAND}"]


def _resource(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else f'"{value}"'


def _sbatch(name: str, nodes: int) -> list[str]:
    options = [f"--job-name={name}", f"--nodes={nodes}", "--ntasks-per-node=1", "--gpus-per-node=1"]
    return ["#!/bin/bash", *(f"#SBATCH {option}" for option in (*options, "--time=01:00:00"))]


def _exports(site: Site) -> list[str]:
    """pyxis hands the job's own variables on: only those with a value need to be set."""
    return [f"export {shlex.quote(variable)}" for variable in _settings(site)]


def _settings(site: Site) -> Iterable[str]:
    return (variable for variable in site.start.env if "=" in variable)


def _srun(path: str, site: Site) -> str:
    options = [shlex.quote(f"--container-image={path}")]
    # Without this, what the image sets would win.
    names = ",".join(variable.partition("=")[0] for variable in _settings(site))
    options += [f"--container-env={names}"] if names else []
    mounts = ",".join(site.start.mounts)
    options += [shlex.quote(f"--container-mounts={mounts}")] if mounts else []
    return " ".join(["srun", *options])


def _torchrun(name: str, path: str, site: Site) -> Block:
    """Training over all GPUs of a job. Its first node is where the processes meet."""
    if site.pbs:
        nodes, head = '"$(sort -u "$PBS_NODEFILE" | wc -l)"', '"$(head -n 1 "$PBS_NODEFILE")'
        launch = _launch(nodes, "$PBS_JOBID", f'{head}:{PORT}"')
        return "Train with torchrun, in a PBS job, on each of its nodes:", [f"{_start(name, site)} {launch}"]
    if site.scheduler == SLURM:
        launch = _launch('"$SLURM_NNODES"', "$SLURM_JOB_ID", f'"$head:{PORT}"')
        find = 'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
        lines = [*_sbatch(name, nodes=2), *_exports(site), find, f"{_srun(path, site)} {launch}"]
        return "Train with torchrun on two nodes (save as train.sh, then: sbatch train.sh):", lines
    line = f"{_start(name, site)} torchrun --standalone --nproc-per-node=gpu {TRAIN}"
    return "Train with torchrun, on all GPUs of this machine:", [line]


def _launch(nodes: str, job: str, endpoint: str) -> str:
    rendezvous = f'--rdzv-backend=c10d --rdzv-id="{job}" --rdzv-endpoint={endpoint}'
    return f"torchrun --nnodes={nodes} --nproc-per-node=gpu {rendezvous} {TRAIN}"
