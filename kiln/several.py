"""Building several images with one command: which, in what order, and what is told at the end.

Owns what belongs to more than one image; one by itself is built in this process, by `kiln.build`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from kiln import board, capacity, ended, fleet, graph
from kiln.context import Context
from kiln.ended import Ended
from kiln.errors import ManifestError, UsageError
from kiln.fleet import Fleet
from kiln.graph import Graph
from kiln.order import Options
from kiln.selection import select


def graph_of(context: Context) -> Graph:
    """The graph of the checkout's manifests, and of what the site's store has."""
    return graph.of(context.manifests, lambda name: bool(context.store.versions(name)))


def chosen(context: Context, text: str) -> list[str]:
    """The images that `text` means, and those they are built on that were never published.

    Raises `UsageError` for none, `ManifestError` where there is but one, and it has a mistake.
    """
    names, found = select(context.manifests, text), graph_of(context)
    if len(names) == 1:
        return found.with_unpublished(names)
    whole = []
    for name in names:
        try:
            whole += [each for each in found.with_unpublished([name]) if each not in whole]
        except ManifestError:
            whole.append(name)
    return whole


def at_once(jobs: int, names: Sequence[str]) -> int:
    """How many builds run at a time; `jobs` is what a person wants, 0 for what this machine carries."""
    if jobs < 0:
        raise UsageError(f"--jobs {jobs} is no number of builds", "leave it out, or write 1 or more")
    return max(1, min(jobs or capacity.builds_at_once(), len(names)))


def build(context: Context, names: Sequence[str], options: Options, jobs: int) -> None:
    """Build them, each by a process of its own. Raises `ImagesFailed` where not all could be."""
    needs, broken = fleet.sound(graph_of(context), names)

    def arguments(name: str) -> list[str]:
        return [*place(context, "build", name), *given(options)]

    made = Fleet(context, needs, arguments, board.make(context.ui), at_once(jobs, names), broken)
    try:
        made.run()
    finally:
        tell(context, list(made.ended.values()))
    ended.conclude(list(made.ended.values()))


def place(context: Context, command: str, name: str) -> list[str]:
    """The beginning of a command of a child: the same site and store, with its events to be read."""
    where = ["--site", context.site.name, "--images", str(context.store.root)]
    return [command, name, "--json", "--on", "here", *where]


def given(options: Options) -> list[str]:
    """A build's options as they are typed."""
    switches = {
        "--keep": options.keep,
        "--no-cache": options.no_cache,
        "--locked": options.locked,
        "--renew": options.renew,
    }
    words = [name for name, wanted in switches.items() if wanted]
    words += ["--runtime", options.runtime] if options.runtime else []
    return words + (["--from", str(options.start)] if options.start else [])


def tell(context: Context, found: Sequence[Ended], report: Path | None = None) -> None:
    """The summary: what became of each image, and how many of each; `report` is where it is kept."""
    data = to_data(found) if report is None else {**to_data(found), "report": str(report)}
    context.ui.result(data, functools.partial(summary, found=found, report=report))


def to_data(found: Sequence[Ended]) -> dict[str, Any]:
    return {"images": [each.to_data() for each in found], **ended.counts(found)}


def summary(console: Console, found: Sequence[Ended], report: Path | None) -> None:
    console.print()
    for each in sorted(found, key=lambda each: ended.STATES.index(each.state)):
        console.print(Text(board.words(each), style=board.STYLES[each.state]))
    said = ", ".join(f"{count} {state}" for state, count in ended.counts(found).items() if count)
    console.print(Text(said or "nothing to build", style="bold"))
    if report:
        console.print(Text(f"report: {report}"))
