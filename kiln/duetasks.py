"""The commands for keeping images up to date: graph, outdated, rebuild, bump."""

from __future__ import annotations

import functools

from invoke.context import Context as InvokeContext

from kiln import jobtasks
from kiln.command import for_each, opened, options, task
from kiln.selection import select


@task(
    help={
        **options("site", "images", "json"),
        "name": "only these and what they are built on (default: all of them)",
        "dot": "as Graphviz reads it: invoke graph --dot | dot -Tsvg > images.svg",
    },
)
def graph(
    _: InvokeContext,
    name: str = "all",
    site: str | None = None,
    images: str | None = None,
    dot: bool = False,
    json: bool = False,
) -> None:
    """Draw which image is built on which."""
    from kiln import dueview, several

    with opened(json, site, images) as context:
        found, wanted = several.graph_of(context), select(context.manifests, name)
        names = found.order(dict.fromkeys(each for one in wanted for each in (*found.ancestors(one), one)))
        view = dueview.dot if dot else dueview.graph
        context.ui.result(dueview.graph_data(found, names), functools.partial(view, found=found, names=names))


@task(
    help={**options("site", "images", "json"), "name": f"{options('name')['name']} (default: all of them)"},
)
def outdated(
    _: InvokeContext,
    name: str = "all",
    site: str | None = None,
    images: str | None = None,
    json: bool = False,
) -> None:
    """Say which images are due, and every reason; exit code 20 where one is, 21 where that isn't known."""
    from kiln import dueview
    from kiln import outdated as finding

    with opened(json, site, images) as context:
        states = finding.examine(context, select(context.manifests, name))
        data = {"images": [state.to_data() for state in states]}
        context.ui.result(data, functools.partial(dueview.states, found=states))
        finding.conclude(states)


@task(
    help={
        **options("site", "images", "runtime", "json", "on", "wait"),
        "name": f"{options('name')['name']} (default: all of them)",
        "jobs": "how many images at once (default: what cores and memory allow)",
        "dry_run": "only say what would be done, and what it would take",
    },
)
def rebuild(
    _: InvokeContext,
    name: str = "all",
    site: str | None = None,
    images: str | None = None,
    runtime: str = "",
    jobs: int = 0,
    dry_run: bool = False,
    on: str = "",
    wait: bool = False,
    json: bool = False,
) -> None:
    """Build what is due, and nothing else; publish what comes out otherwise than before."""
    from kiln import dueview, upkeep
    from kiln.order import Options

    with opened(json, site, images) as context:
        names = select(context.manifests, name)
        if dry_run:
            made = upkeep.plan(context, names, jobs)
            context.ui.result(made.to_data(), functools.partial(dueview.plan, made=made))
            return
        if jobtasks.rebuilt(context, on, names, jobtasks.flags(runtime=runtime), wait=wait):
            return
        upkeep.rebuild(context, names, Options(runtime, renew=True), jobs)


@task(
    help={
        **options("name", "site", "json"),
        "to": "this tag, in place of the newest that the site's driver carries",
    }
)
def bump(_: InvokeContext, name: str, site: str | None = None, to: str = "", json: bool = False) -> None:
    """Write the newer tag of its base into an image's manifest."""
    from kiln import bump as bumping
    from kiln import dueview

    with opened(json, site, None) as context:

        def work(each: str) -> None:
            done = bumping.bump(context, each, to)
            context.ui.result(done.to_data(), functools.partial(dueview.bumped, done=done))

        for_each(context, name, work)


TASKS = (graph, outdated, rebuild, bump)
