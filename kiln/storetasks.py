"""The commands for those who pull images, and for those who keep them."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context as InvokeContext

from kiln import storeview
from kiln.command import opened, options, task
from kiln.errors import SmokeFailure
from kiln.standing import Standings

if TYPE_CHECKING:
    from kiln.channels import Moved
    from kiln.context import Context
    from kiln.store import Entry

VERSION = "NAME:VERSION or NAME:CHANNEL"
ANY = f"NAME, {VERSION}"
BECAUSE = "why; it is kept in the image's history"


@task(
    help={
        **options("site", "json"),
        "name": ANY,
        "to": "the folder that it comes to (default: here)",
        "images": "the images folder, or the address of a web server that serves it",
        "create": "make the enroot container NAME from it, too",
    }
)
def pull(
    _: InvokeContext,
    name: str,
    to: str = ".",
    site: str | None = None,
    images: str = "",
    create: bool = False,
    json: bool = False,
) -> None:
    """Copy an image to a folder of yours, verified; goes on where an earlier try broke off."""
    from kiln import offers
    from kiln import pull as pulling

    address = images or os.environ.get("KILN_IMAGES", "")
    with opened(json, site, images or None, reading=True, web=True) as context:
        place = offers.place(address, context.site.images, context.transport)
        done = pulling.pull(context, place, name, Path(to), create=create)
        context.ui.result(done.to_data(), functools.partial(storeview.pulled, done=done, site=context.site))


@task(
    help={
        **options("site", "images", "json"),
        "words": "words of name, description, base or packages; with a version: 'transformers>=4.50'",
    }
)
def search(
    _: InvokeContext, words: str, site: str | None = None, images: str | None = None, json: bool = False
) -> None:
    """Find images by what they are and what is in them."""
    from kiln import query

    with opened(json, site, images, reading=True) as context:
        hits = query.search(context.store, words)
        context.ui.result(
            {"images": [hit.to_data() for hit in hits]}, functools.partial(storeview.hits, found=hits)
        )


@task(help={**options("site", "images", "json"), "name": "an image"})
def history(
    _: InvokeContext, name: str, site: str | None = None, images: str | None = None, json: bool = False
) -> None:
    """Show what was done to an image's versions and channels, by whom, when and why."""
    from kiln import history as histories

    with opened(json, site, images, reading=True) as context:
        entry = context.store.find(name)
        changes = histories.read(context.store, entry.name)
        context.ui.result(
            {"name": entry.name, "changes": [change.to_data() for change in changes]},
            functools.partial(storeview.history, changes=changes),
        )


@task(
    help={
        **options("site", "images", "json"),
        "name": VERSION,
        "channel": "the channel to move (default: current)",
        "because": f"{BECAUSE}; needed where required smoke hooks haven't passed",
    }
)
def promote(
    _: InvokeContext,
    name: str,
    channel: str = "current",
    because: str = "",
    site: str | None = None,
    images: str | None = None,
    json: bool = False,
) -> None:
    """Have a channel lead to a version."""
    from kiln import channels

    with opened(json, site, images) as context:
        done = channels.promote(context.store, name, channel, because, context.ui.warn)
        _moved(context, done)


@task(
    help={
        **options("site", "images", "json"),
        "name": "an image",
        "channel": "the channel to take back (default: current)",
        "because": BECAUSE,
    }
)
def rollback(
    _: InvokeContext,
    name: str,
    channel: str = "current",
    because: str = "",
    site: str | None = None,
    images: str | None = None,
    json: bool = False,
) -> None:
    """Have a channel lead to what it led to before."""
    from kiln import channels

    with opened(json, site, images) as context:
        _moved(context, channels.rollback(context.store, name, channel, because, context.ui.warn))


@task(
    help={
        **options("site", "images", "json"),
        "name": VERSION,
        "until": "the last day, as 2027-01-31",
        "use": "what to use instead: NAME or NAME:VERSION",
        "because": BECAUSE,
    }
)
def deprecate(
    _: InvokeContext,
    name: str,
    until: str = "",
    use: str = "",
    because: str = "",
    site: str | None = None,
    images: str | None = None,
    json: bool = False,
) -> None:
    """Tell all who look at a version, or pull it, that it will go."""
    from kiln import channels

    with opened(json, site, images) as context:
        _marked(context, channels.deprecate(context.store, name, until, use, because, context.ui.warn))


@task(help={**options("site", "images", "json"), "name": VERSION, "because": BECAUSE})
def revoke(
    _: InvokeContext,
    name: str,
    because: str = "",
    site: str | None = None,
    images: str | None = None,
    json: bool = False,
) -> None:
    """Have nobody pull or promote a version any more."""
    from kiln import channels

    with opened(json, site, images) as context:
        _marked(context, channels.revoke(context.store, name, because, context.ui.warn))


@task(
    help={
        **options("site", "images", "runtime", "json", "on", "wait"),
        "name": ANY,
        "pending": "only what its last build left to be tested: a candidate newer than current",
    }
)
def smoke(
    _: InvokeContext,
    name: str,
    site: str | None = None,
    images: str | None = None,
    runtime: str = "",
    pending: bool = False,
    on: str = "",
    wait: bool = False,
    json: bool = False,
) -> None:
    """Run the smoke hooks again on a published image, and keep what they say with its record."""
    from kiln import jobtasks, retest

    with opened(json, site, images) as context:
        flags = jobtasks.flags(runtime=runtime, pending=pending)
        if jobtasks.handed_over(context, on, "smoke", [name], flags, wait=wait):
            return
        if pending and not (name := retest.pending(context.store, name)):
            return
        kept = context.store.find(name).name
        try:
            done = retest.retest(context, name, runtime)
        except SmokeFailure:
            _write_page(context, kept, "what the hooks said was kept")
            raise
        _write_page(context, kept, "what the hooks said was kept")
        context.ui.result(done.to_data(), functools.partial(storeview.retested, done=done))


def _write_page(context: Context, name: str, done: str) -> None:
    from kiln import page, publish

    with publish.told_as_done(done):
        page.write(context.store, context.site, name, context.ui.warn)


def _moved(context: Context, done: Moved) -> None:
    _write_page(context, done.name, f"{done.channel} of {done.name} leads to {done.version}")
    context.ui.result(vars(done), functools.partial(storeview.moved, done=done))


def _marked(context: Context, entry: Entry) -> None:
    _write_page(context, entry.name, f"{entry.name} {entry.version} was marked")
    standing = Standings(context.store).of(entry)
    leading = [
        name
        for name, version in context.store.channels(entry.name).items()
        if version == entry.version and standing.revoked
    ]
    context.ui.result(
        {"name": entry.name, "version": entry.version, **standing.to_data(), "channels": leading},
        functools.partial(storeview.marked, entry=entry, standing=standing, leading=leading),
    )


def clear(site: str | None, images: str | None, undelete: str, *, dry_run: bool, as_json: bool) -> None:
    """What `invoke gc` does with published images."""
    from kiln import clearing

    with opened(as_json, site, images) as context:
        done = clearing.put_back(context, undelete) if undelete else clearing.clear(context, dry_run=dry_run)
        for name in done.names if not dry_run else ():
            _write_page(context, name, "versions were moved")
        context.ui.result(done.to_data(), functools.partial(storeview.cleared, done=done))


TASKS = (pull, search, history, smoke, promote, rollback, deprecate, revoke)
