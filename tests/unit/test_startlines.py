"""The lines that users paste."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from kiln import site, startlines
from kiln.inventory import PYTHON, Package
from kiln.record import Record
from kiln.site import Site, Start
from tests.unit.conftest import RECORD

ROOT = Path(__file__).resolve().parents[2]
ENVIRON = {"HOME": "/home/u", "USER": "u"}
PROXY = "http_proxy=http://proxy.example.org:3128"


@pytest.fixture
def aspire() -> Site:
    return site.load("aspire2a-plus", ROOT, ENVIRON)


@pytest.fixture
def laptop() -> Site:
    return site.load("local", ROOT, ENVIRON)


@pytest.fixture
def slurm(laptop: Site) -> Site:
    start = Start(mounts=("/data:/data", "/scratch:/scratch"), env=("CUDA_VISIBLE_DEVICES", PROXY))
    return laptop.model_copy(update={"scheduler": "slurm", "start": start})


def argv(lines: list[str], tmp_path: Path, program: str, environ: dict[str, str]) -> list[str]:
    """What `program` gets when bash runs the lines: what a user sees who pastes them."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / program).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin" / program).chmod(0o755)
    (tmp_path / "job").write_text("\n".join(lines))
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PBS_O_WORKDIR": str(tmp_path), **environ}
    done = subprocess.run(
        ["bash", "-eu", str(tmp_path / "job")], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_sites_pbs_script(aspire: Site, tmp_path: Path) -> None:
    (_, enroot), (_, pbs) = startlines.blocks("pytorch-llm", "/images/x.sqsh", aspire)
    assert enroot[0] == "enroot create --name pytorch-llm /images/x.sqsh"
    assert enroot[1].startswith(
        'enroot start --rw --env CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES" --env http_proxy='
    )
    assert pbs[:5] == [
        "#!/bin/bash",
        "#PBS -N pytorch-llm",
        "#PBS -l select=1:ncpus=14:mem=235gb:ngpus=1:container_engine=enroot",
        "#PBS -l container_image=/images/x.sqsh",
        "#PBS -l container_name=pytorch-llm",
    ]
    assert "#PBS -P <project>" in pbs
    # A directive after the first command is none.
    assert max(pbs.index(line) for line in pbs if line.startswith("#")) < pbs.index('cd "$PBS_O_WORKDIR"')
    assert argv(pbs, tmp_path, "enroot", {"CUDA_VISIBLE_DEVICES": "2,3"}) == [
        "start",
        "--rw",
        "--env",
        "CUDA_VISIBLE_DEVICES=2,3",
        "--env",
        "http_proxy=http://10.104.4.124:10104",
        "--env",
        "https_proxy=http://10.104.4.124:10104",
        "--env",
        "no_proxy=localhost,127.0.0.1,10.104.0.0/21",
        "pytorch-llm",
        "nvidia-smi",
    ]


def test_the_file_of_variables_is_the_sites_or_left_for_the_user(aspire: Site) -> None:
    def header(env_file: str) -> list[str]:
        assert aspire.pbs
        pbs = aspire.pbs.model_copy(update={"env_file": env_file})
        return startlines.blocks("x", "/a b,c/x.sqsh", aspire.model_copy(update={"pbs": pbs}))[1][1]

    assert "#PBS -l enroot_env_file=/etc/env.conf" in header("/etc/env.conf")
    assert '#PBS -l container_image="/a b,c/x.sqsh"' in header("")
    assert next(line for line in header("") if "env_file" in line).startswith("##PBS")


def test_a_laptop_has_no_batch_lines_and_odd_paths_are_quoted(laptop: Site) -> None:
    [(_, lines)] = startlines.blocks("demo", "/my images/x.sqsh", laptop)
    assert lines == ["enroot create --name demo '/my images/x.sqsh'", "enroot start --rw demo"]


def test_a_slurm_script_for_pyxis(slurm: Site, tmp_path: Path) -> None:
    (_, _), (title, lines) = startlines.blocks("demo", "/my images/x.sqsh", slurm)
    assert "sbatch job.sh" in title and "#SBATCH --job-name=demo" in lines
    assert argv(lines, tmp_path, "srun", {}) == [
        "--container-image=/my images/x.sqsh",
        "--container-env=http_proxy",
        "--container-mounts=/data:/data,/scratch:/scratch",
        "nvidia-smi",
    ]
    assert f"export {PROXY}" in lines


def test_torchrun_meets_where_the_pbs_job_begins(aspire: Site, tmp_path: Path) -> None:
    *_, (_, lines) = startlines.blocks("x", "/x.sqsh", aspire, torch=True)
    (tmp_path / "nodes").write_text("node7\nnode9\nnode9\n")
    job = {"PBS_JOBID": "17.srv", "PBS_NODEFILE": str(tmp_path / "nodes"), "CUDA_VISIBLE_DEVICES": "0"}
    assert argv(lines, tmp_path, "enroot", job)[-7:] == [
        "torchrun",
        "--nnodes=2",
        "--nproc-per-node=gpu",
        "--rdzv-backend=c10d",
        "--rdzv-id=17.srv",
        "--rdzv-endpoint=node7:29555",
        "train.py",
    ]


def test_torchrun_meets_where_the_slurm_job_begins(slurm: Site, tmp_path: Path) -> None:
    *_, (_, lines) = startlines.blocks("x", "/x.sqsh", slurm, torch=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text("#!/bin/sh\nprintf '%s\\n' gpu03 gpu04\n")
    (tmp_path / "bin/scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "5", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[03-04]"}
    assert argv(lines, tmp_path, "srun", job)[-5:] == [
        "--nproc-per-node=gpu",
        "--rdzv-backend=c10d",
        "--rdzv-id=5",
        "--rdzv-endpoint=gpu03:29555",
        "train.py",
    ]


def test_torchrun_on_one_machine_needs_no_rendezvous(laptop: Site) -> None:
    *_, (_, lines) = startlines.blocks("x", "/x.sqsh", laptop, torch=True)
    assert lines == ["enroot start --rw x torchrun --standalone --nproc-per-node=gpu train.py"]


def test_only_images_with_pytorch_are_trained_with() -> None:
    package = Package(PYTHON, "torch", "2.7.0", "/usr/lib/python3/dist-packages")
    known = dataclasses.replace(RECORD, companions={"cdx.json": "sha256:0"})
    older: Record = dataclasses.replace(RECORD, base="nvcr.io/nvidia/pytorch:24.12-py3")
    records = (dataclasses.replace(known, packages=(package,)), known, older, RECORD, None)
    assert [startlines.has_torch(record) for record in records] == [True, False, True, False, False]
