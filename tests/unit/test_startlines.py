"""The lines that users paste."""

from __future__ import annotations

from pathlib import Path

from kiln import site, startlines

ROOT = Path(__file__).resolve().parents[2]
ENVIRON = {"HOME": "/home/u", "USER": "u"}


def test_the_sites_pbs_header() -> None:
    blocks = startlines.blocks("pytorch-llm", "/images/x.sqsh", site.load("aspire2a-plus", ROOT, ENVIRON))
    (_, enroot), (_, pbs) = blocks
    assert enroot[0] == "enroot create --name pytorch-llm /images/x.sqsh"
    assert enroot[1].startswith(
        'enroot start --rw --env CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES" --env http_proxy='
    )
    assert pbs[:4] == [
        "#!/bin/bash",
        "#PBS -N pytorch-llm",
        "#PBS -l select=1:ncpus=14:mem=235gb:ngpus=1:container_engine=enroot",
        "#PBS -l container_image=/images/x.sqsh",
    ]
    assert "#PBS -P <project>" in pbs
    assert pbs[-1].endswith(" pytorch-llm nvidia-smi")


def test_a_laptop_has_no_batch_lines_and_odd_paths_are_quoted() -> None:
    [(_, lines)] = startlines.blocks("demo", "/my images/x.sqsh", site.load("local", ROOT, ENVIRON))
    assert lines == ["enroot create --name demo '/my images/x.sqsh'", "enroot start --rw demo"]
