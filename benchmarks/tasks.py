"""`invoke bench`: arguments in, one call, rendering out."""

from __future__ import annotations

import os
from pathlib import Path

from invoke.context import Context as InvokeContext
from invoke.tasks import task

from kiln.command import command

ROOT = Path(__file__).resolve().parents[1]
HELP = {
    "runs": "rounds of all cases; the medians count (default: 3)",
    "cases": "only these, with commas: same, last, first, moved; cold always runs",
    "contestants": "only these, with commas: kiln, kiln-enroot, enroot, enroot-tuned, buildah",
    "runtime": "'enroot' adds a column of Kiln on enroot",
    "sizes": "in place of the cases: cold builds with 1, 2 and 4 times the files",
    "folder": "where the base is kept, and the work goes on (default: ~/.cache/kiln-bench)",
    "json": "JSON lines in place of text",
}


@task(help=HELP)
def bench(
    _: InvokeContext,
    runs: int = 3,
    cases: str = "",
    contestants: str = "",
    runtime: str = "",
    sizes: bool = False,
    folder: str = "",
    json: bool = False,
) -> None:
    """Measure Kiln against enroot's own chain and buildah; takes hours, as root."""
    # Nobody who builds an image should wait for this to be read.
    from benchmarks import bench as benchmark  # noqa: PLC0415

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    options = benchmark.Options(
        folder=Path(folder or f"{cache}/kiln-bench"),
        runs=runs,
        cases=_words(cases),
        only=_words(contestants),
        runtimes=("embedded", *([runtime] if runtime == "enroot" else [])),
    )
    with command(json) as shown, benchmark.opened(options, ROOT, os.environ, shown) as opened:
        report = benchmark.run_growth(opened) if sizes else benchmark.run_cases(opened)
        shown.result(
            report.data,
            lambda console: console.print(
                "\n".join(report.lines), markup=False, highlight=False, soft_wrap=True
            ),
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)
