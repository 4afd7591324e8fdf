"""A difference between two images for people: tables on a terminal, and Markdown for an issue or a mail."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from kiln.diff import ADDED, CHANGED, KINDS, REMOVED, STATES, Change, Difference
from kiln.render import facts, table
from kiln.ui import size_text

STYLES = {ADDED: "green", REMOVED: "red", CHANGED: "yellow"}
TITLES = {"apt": "apt packages", "python": "Python packages"}


def tables(console: Console, found: Difference) -> None:
    console.print(Text(_title(found), style="bold"))
    facts(console, [*_base(found), ("size", _size(found))])
    for kind in KINDS:
        console.print()
        if not found.packages[kind]:
            console.print(Text(f"{TITLES[kind]}: {_count(found, kind)}"))
            continue
        _rows(console, f"{TITLES[kind]}: {_count(found, kind)}", _sorted(found, kind))
    if found.environment:
        console.print()
        _rows(console, "variables", found.environment)
    for text in found.missing:
        console.print(Text(f"not compared: {text}", style="yellow"))


def _rows(console: Console, title: str, changes: tuple[Change, ...]) -> None:
    rows = table(title, "", "before", "after")
    for change in changes:
        state = Text(change.state, style=STYLES[change.state])
        name = Text(_name(change))
        rows.add_row(name, state, Text(change.before or "-"), Text(change.after or "-"))
    console.print(rows)


def markdown(console: Console, found: Difference) -> None:
    """The same as Markdown, as it can be pasted."""
    for line in markdown_lines(found):
        console.print(Text(line), soft_wrap=True)


def markdown_lines(found: Difference) -> Iterator[str]:
    yield f"## {_escaped(_title(found))}"
    yield ""
    for name, text in (*_base(found), ("size", _size(found))):
        yield f"- {name}: {_escaped(text)}"
    for kind in KINDS:
        yield from ("", f"### {TITLES[kind]}: {_count(found, kind)}")
        yield from _markdown_rows(_sorted(found, kind))
    if found.environment:
        yield from ("", "### Variables")
        yield from _markdown_rows(found.environment)
    yield from (f"\nNot compared: {_escaped(text)}" for text in found.missing)


def _markdown_rows(changes: tuple[Change, ...]) -> Iterator[str]:
    if changes:
        yield from ("", "| name | | before | after |", "|---|---|---|---|")
    for change in changes:
        cells = (_name(change), change.state, change.before, change.after)
        yield "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_|<[]" else letter for letter in flat)


def _title(found: Difference) -> str:
    before, after = (f"{record.name} {record.version}" for record in (found.before, found.after))
    return f"{before} and {after} are the same bytes" if found.same else f"{before} -> {after}"


def _base(found: Difference) -> list[tuple[str, str]]:
    if not found.base:
        return [("base", f"{found.after.base}  {found.after.base_digest}, the same")]
    return [
        (change.name, f"{change.before or 'unknown'} -> {change.after or 'unknown'}") for change in found.base
    ]


def _size(found: Difference) -> str:
    before, after, growth = (
        size_text(size) for size in (found.before.size, found.after.size, abs(found.growth))
    )
    return f"{before} -> {after} ({'-' if found.growth < 0 else '+'}{growth})"


def _count(found: Difference, kind: str) -> str:
    counts = [f"{len(found.of(kind, state))} {state}" for state in STATES if found.of(kind, state)]
    return ", ".join(counts) or ("not known" if found.missing else "no change")


def _sorted(found: Difference, kind: str) -> tuple[Change, ...]:
    return tuple(change for state in STATES for change in found.of(kind, state))


def _name(change: Change) -> str:
    """A package with its place, where that isn't the usual one."""
    usual = ("", "amd64", "arm64", "all", "/usr/lib/python3/dist-packages")
    shown = change.place in usual or change.place.endswith("/local/lib/python3/dist-packages")
    return change.name if shown else f"{change.name} ({change.place})"
