"""The commands: arguments in, one call, rendering out. What they have in common is in `kiln.command`.

The same tasks are `invoke NAME` in a checkout and `kiln NAME` anywhere; those of the store are in
`kiln.storetasks`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence

from invoke.collection import Collection
from invoke.context import Context as InvokeContext
from invoke.exceptions import Exit
from invoke.program import Program

from kiln import (
    __version__,
    catalog,
    companions,
    completion,
    duetasks,
    jobtasks,
    render,
    startlines,
    storetasks,
)
from kiln.checkout import find_root
from kiln.command import command, for_each, opened, options, task
from kiln.errors import UsageError
from kiln.run import attach, host_environment
from kiln.standing import Standings


@task(help=options("name", "site", "images", "runtime", "no_cache", "from", "json"))
def plan(
    _: InvokeContext,
    name: str,
    site: str | None = None,
    images: str | None = None,
    runtime: str = "",
    no_cache: bool = False,
    from_: int = 0,
    json: bool = False,
) -> None:
    """Print what a build would do, and why; changes nothing."""
    from kiln import build as building
    from kiln.order import Options

    with opened(json, site, images) as context:

        def work(each: str) -> None:
            made = building.plan(context, each, Options(runtime, False, no_cache, from_))
            context.ui.result(made.to_data(), functools.partial(render.plan, made=made))

        for_each(context, name, work)


@task(
    help={
        **options("name", "site", "images", "runtime", "no_cache", "from", "locked", "json", "on", "wait"),
        "keep": "keep the workspace of a failed layer, for 'shell'",
        "renew": "look anew for the base and packages first; publish only what comes out otherwise",
        "jobs": "how many images at once, of several (default: what cores and memory allow)",
    }
)
def build(
    _: InvokeContext,
    name: str,
    site: str | None = None,
    images: str | None = None,
    runtime: str = "",
    keep: bool = False,
    no_cache: bool = False,
    from_: int = 0,
    locked: bool = False,
    renew: bool = False,
    jobs: int = 0,
    on: str = "",
    wait: bool = False,
    json: bool = False,
) -> None:
    """Build, smoke-test and publish images, in order, several at once."""
    from kiln import build as building
    from kiln import renew as renewing
    from kiln import several
    from kiln.order import Options

    with opened(json, site, images) as context:
        asked = Options(runtime, keep, no_cache, from_, locked, renew=renew)
        names = several.chosen(context, name)
        if jobtasks.handed_over(context, on, "build", names, several.given(asked), wait=wait):
            return
        if len(names) > 1:
            several.build(context, names, asked, jobs)
            return
        done = renewing.renew(context, names[0], asked) if renew else building.build(context, names[0], asked)
        context.ui.result(done.to_data(), functools.partial(render.outcome, done=done, site=context.site))


@task(
    help={
        **options("name", "site", "images", "runtime", "json"),
        "check": "only say whether the lock still holds: with the manifest, the base, and at the indexes",
        "update": "look anew for: base, apt, pip (uv too), or a package; several with commas",
    }
)
def lock(
    _: InvokeContext,
    name: str,
    site: str | None = None,
    images: str | None = None,
    runtime: str = "",
    check: bool = False,
    update: str = "",
    json: bool = False,
) -> None:
    """Resolve an image's base and packages without building it, into manifests/NAME.lock."""
    from kiln import lockcheck, locking

    with opened(json, site, images) as context:
        if check and update:
            raise UsageError("--check changes nothing, and --update does", "give one of them")

        def work(each: str) -> None:
            changed: list[str] | None = None
            if check:
                made = lockcheck.check(context, each)
            else:
                made, changed = locking.lock(context, each, update.split(","), runtime)
            context.ui.result(
                made.to_data(changed), functools.partial(render.lock, made=made, changed=changed)
            )

        for_each(context, name, work)


@task(help=options("name", "site", "images", "json"))
def fetch(
    _: InvokeContext, name: str, site: str | None = None, images: str | None = None, json: bool = False
) -> None:
    """Download everything that a lock names, and check it: a build then needs no index."""
    from kiln import lockcheck, lockuse

    with opened(json, site, images) as context:

        def work(each: str) -> None:
            made = lockcheck.load(context, each)
            lockuse.fetch_all(context, context.load(each), made)
            context.ui.result(made.to_data(None), functools.partial(render.fetched, made=made))

        for_each(context, name, work)


@task(
    help={
        **options("site", "images", "runtime"),
        "name": "an image whose build was kept, or a published one (NAME[:VERSION])",
        "layer": "open the image after this layer (its number in 'plan'; 0: its base), as it was last built",
        "user": "as an ordinary user in a read-only tree, as smoke hooks run",
    }
)
def shell_(
    _: InvokeContext,
    name: str,
    site: str | None = None,
    images: str | None = None,
    runtime: str = "",
    layer: str = "",
    user: bool = False,
) -> None:
    """Open a shell where a kept build stopped, else in a published image; a published one never changes."""
    from kiln import shell

    with opened(False, site, images) as context:
        if not layer:
            code = shell.open_shell(context, name, runtime, as_root=not user)
        elif layer.isdigit():
            code = shell.open_at(context, name, int(layer), runtime, as_root=not user)
        else:
            raise UsageError(f"'{layer}' is not the number of a layer", f"see: invoke plan {name}")
    raise Exit(code=code)


@task(name="list", help=options("site", "images", "json"))
def list_(_: InvokeContext, site: str | None = None, images: str | None = None, json: bool = False) -> None:
    """List the published images."""
    with opened(json, site, images, reading=True) as context:
        rows = catalog.current(context.store)
        context.ui.result({"images": catalog.listing(rows)}, functools.partial(render.images, rows=rows))


@task(
    help={
        **options("site", "images", "json"),
        "name": "NAME, NAME:VERSION or NAME:CHANNEL",
        "packages": "list all packages, too",
    }
)
def show(
    _: InvokeContext,
    name: str,
    site: str | None = None,
    images: str | None = None,
    packages: bool = False,
    json: bool = False,
) -> None:
    """Show one published image and how to start it."""
    from kiln import drivergate

    with opened(json, site, images, reading=True) as context:
        entry = context.store.find(name)
        standings = Standings(context.store)
        row = catalog.Row(entry, context.store.channels(entry.name), standings.of(entry))
        changes = standings.changes(entry.name)
        beside = companions.read(context.store, entry)
        fit = drivergate.of_record(entry.record, context.site) if entry.record else None
        details = catalog.details(row, changes, beside)
        torch = startlines.has_torch(entry.record)
        lines = startlines.blocks(entry.name, str(entry.path), context.site, torch=torch)
        start = [{"title": title, "lines": each} for title, each in lines]
        context.ui.result(
            {**details, "driver": vars(fit) if fit else None, "start": start},
            functools.partial(
                render.image,
                row=row,
                site=context.site,
                changes=changes,
                beside=beside,
                fit=fit,
                packages=packages,
            ),
        )


@task(
    help={
        **options("site", "images", "json"),
        "before": "NAME, NAME:VERSION or NAME:CHANNEL",
        "after": "the same, of another version or image",
        "markdown": "as Markdown, to be pasted",
    }
)
def diff(
    _: InvokeContext,
    before: str,
    after: str,
    site: str | None = None,
    images: str | None = None,
    markdown: bool = False,
    json: bool = False,
) -> None:
    """Show what differs between two published images: packages, base, variables, size."""
    from kiln import diff as differing
    from kiln import diffview

    with opened(json, site, images, reading=True) as context:
        records = (catalog.record(context.store.find(each)) for each in (before, after))
        found = differing.compare(*records)
        view = diffview.markdown if markdown else diffview.tables
        context.ui.result(found.to_data(), functools.partial(view, found=found))


@task(
    help={
        **options("site", "images", "json"),
        "name": "NAME, NAME:VERSION or NAME:CHANNEL",
        "rebuild": "also build it again, into a private folder, and compare",
    }
)
def verify(
    _: InvokeContext,
    name: str,
    site: str | None = None,
    images: str | None = None,
    rebuild: bool = False,
    json: bool = False,
) -> None:
    """Check a published image against its record, and the record's signature."""
    from kiln import rebuild as rebuilding
    from kiln import verify as verifying

    with opened(json, site, images) as context:
        entry = context.store.find(name)
        checker = verifying.Checker(context.store, context.site.signing, context.environ)
        with context.ui.step(f"read {entry.path.name}") as step:
            found = checker.check(entry, step.progress)
        again = None
        if rebuild and not any(item.state == verifying.BAD for item in found):
            again = rebuilding.rebuild(context, entry, catalog.record(entry))
        data = {"name": entry.name, "version": entry.version, "findings": [vars(item) for item in found]}
        context.ui.result(
            {**data, "rebuild": again.to_data() if again else None},
            functools.partial(render.findings, entry=entry, found=found, again=again),
        )
        verifying.conclude(entry, found)
        if again:
            rebuilding.conclude(entry, again)


@task(name="doctor", help=options("site", "images", "json"))
def doctor_(_: InvokeContext, site: str | None = None, images: str | None = None, json: bool = False) -> None:
    """Check what this machine has of what Kiln needs, and how to mend the rest."""
    from kiln import doctor

    with opened(json, site, images) as context:
        found = doctor.examine(context)
        context.ui.result(
            {"checks": [vars(item) for item in found]}, functools.partial(render.checks, found=found)
        )
        doctor.conclude(found)


@task(
    help={
        **options("site", "json"),
        "name": "only the kept builds of this image",
        "images": options("images")["images"],
        "dry_run": "only say what would go, and why",
        "store": "remove published versions that the site keeps no longer, in place of what builds left",
        "undelete": "put NAME:VERSION back, which --store removed",
    }
)
def gc(
    _: InvokeContext,
    name: str = "",
    site: str | None = None,
    images: str | None = None,
    dry_run: bool = False,
    store: bool = False,
    undelete: str = "",
    json: bool = False,
) -> None:
    """Remove kept and killed builds, and what the cache hasn't needed for long or has no room for."""
    from kiln import garbage

    if store or undelete:
        storetasks.clear(site, images, undelete, dry_run=dry_run, as_json=json)
        return
    with opened(json, site, None) as context:
        done = garbage.collect(context, name, dry_run=dry_run)
        context.ui.result(
            {"dry_run": dry_run, **done.to_data()},
            functools.partial(render.collected, done=done, dry_run=dry_run),
        )


@task(
    help={
        "only": "a folder or file of tests, such as tests/unit",
        "match": "only tests whose names match (pytest -k)",
    }
)
def test(_: InvokeContext, only: str = "tests", match: str = "") -> None:
    """Run the test suite: lint, types, units, conformance, integration."""
    workers = ["-n", "auto", "--dist", "worksteal"]
    argv = [sys.executable, "-m", "pytest", *workers, only, *(["-k", match] if match else [])]
    os.chdir(find_root(os.environ))
    raise Exit(code=attach(argv, what="run the tests", env={**os.environ, **host_environment(os.environ)}))


@task(name="completion", help={"shell": ", ".join(completion.SHELLS)})
def completion_(_: InvokeContext, shell: str) -> None:
    """Print what has a shell complete commands and images: see docs/completion.md."""
    with command(False):
        program = "kiln" if os.path.basename(sys.argv[0]) == "kiln" else "invoke"
        sys.stdout.write(completion.script(shell, program, namespace))


namespace = Collection()
for _each in (plan, lock, fetch, build, list_, show, diff, verify, doctor_, gc, test):
    namespace.add_task(_each)
namespace.add_task(shell_, name="shell")
namespace.add_task(completion_)
for _each in (*storetasks.TASKS, *duetasks.TASKS, *jobtasks.TASKS):
    namespace.add_task(_each)


def main(argv: Sequence[str] | None = None) -> None:
    """The command `kiln`, with `argv` in place of its own arguments."""
    Program(name="kiln", binary="kiln", namespace=namespace, version=__version__).run(
        list(argv) if argv else None
    )
