"""Results of the store's commands, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from kiln.render import facts, smoke, start, table
from kiln.site import Site
from kiln.ui import size_text

if TYPE_CHECKING:
    from kiln.channels import Moved
    from kiln.clearing import Cleared
    from kiln.history import Change
    from kiln.pull import Pulled
    from kiln.query import Hit
    from kiln.retest import Retested
    from kiln.standing import Standing
    from kiln.store import Entry


def pulled(console: Console, done: Pulled, site: Site) -> None:
    record = done.offer.record
    console.print(
        Text(f"\n{record.name} {record.version} is at {done.path}", style="bold green"), soft_wrap=True
    )
    signed = [("signed", done.signed)] if done.signed else []
    facts(
        console,
        [("size", size_text(record.size)), ("digest", record.digest), *signed, ("base", record.base)],
    )
    if done.container:
        console.print(Text(f"\nStart it: enroot start --rw {done.container}"))
        return
    start(console, record, str(done.path), site)


def hits(console: Console, found: Sequence[Hit]) -> None:
    made = table("image", "version", "base", "found", "")
    for hit in found:
        entry, standing = hit.row.entry, Text(hit.row.standing.text, style="yellow")
        made.add_row(entry.name, entry.version, Text(hit.base), Text(", ".join(hit.matches)), standing)
    console.print(made if found else Text("no image has all of that; see what there is: invoke list"))


def history(console: Console, changes: Sequence[Change]) -> None:
    made = table("when", "what", "who")
    for change in changes:
        made.add_row(change.time, Text(change.text), Text(change.who))
    console.print(made if changes else Text("nothing is known: an older Kiln published this image"))


def moved(console: Console, done: Moved) -> None:
    if done.before == done.version:
        console.print(Text(f"{done.channel} of {done.name} leads to {done.version} already"))
        return
    was = f" (was {done.before})" if done.before else ""
    console.print(Text(f"{done.channel} of {done.name} leads to {done.version} now{was}", style="green"))


def marked(console: Console, entry: Entry, standing: Standing, leading: Sequence[str]) -> None:
    console.print(Text(f"{entry.name} {entry.version} is {standing.text}"), soft_wrap=True)
    for channel in leading:
        option = "" if channel == "current" else f" --channel {channel}"
        hint = f"{channel} still leads to it; to take it back: invoke rollback {entry.name}{option}"
        console.print(Text(hint, style="yellow"), soft_wrap=True)


def cleared(console: Console, done: Cleared) -> None:
    for reference, why in done.stays.items():
        console.print(Text(f"stays    {reference}  ({why})"), soft_wrap=True)
    for word, references in (("goes", done.gone), ("emptied", done.emptied), ("back", done.back)):
        for reference in references:
            console.print(Text(f"{word:<8} {reference}"), soft_wrap=True)
    if done.dry_run:
        console.print(Text("nothing was changed; to do it: invoke gc --store"))
    elif done.gone:
        console.print(Text(f"to have one back: invoke gc --undelete {done.gone[0]}"))
    elif not done.emptied and not done.back:
        console.print(Text("nothing to remove"))


def retested(console: Console, done: Retested) -> None:
    smoke(console, done.results)
    name = f"{done.record.name} {done.record.version}"
    console.print(Text(f"\n{name}: required smoke hooks {done.record.smoke_state}", style="bold"))
    if done.moved:
        console.print(Text(f"{done.moved} leads to it now", style="green"))
