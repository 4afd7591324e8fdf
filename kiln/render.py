"""Results for people: tables and summaries by rich. Owns their wording and layout; computes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kiln import startlines
from kiln.check import MISSING, OK, Check
from kiln.driver import NO_CUDA
from kiln.inventory import APT, PYTHON
from kiln.layers.store import age
from kiln.problems import shown
from kiln.record import Record, SmokeResult, moment
from kiln.site import Site
from kiln.store import CANDIDATE, Entry
from kiln.ui import size_text
from kiln.verify import BAD, GOOD, UNKNOWN, Finding

MOST_CHANGES, MOST_PACKAGES = 5, 20
# A command that shows nothing of these needn't wait for them to be read.
if TYPE_CHECKING:
    from kiln.catalog import Row
    from kiln.driver import Verdict
    from kiln.garbage import Collected
    from kiln.history import Change
    from kiln.layers.store import Lookup
    from kiln.locked import Lock
    from kiln.order import Outcome
    from kiln.plan import Plan
    from kiln.rebuild import Rebuilt

STYLES = {
    "passed": "green",
    "skipped": "yellow",
    "failed": "bold red",
    OK: "green",
    MISSING: "bold red",
    "warning": "yellow",
}


def table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def facts(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, a line each however long: paths and digests are there to be copied."""
    lines = list(rows)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        console.print(Text.assemble((f"{name:<{width}}  ", "bold"), value), soft_wrap=True)


def plan(console: Console, made: Plan) -> None:
    base = made.base
    facts(
        console,
        [
            ("image", f"{made.manifest.name}  {made.version}"),
            ("goes to", str(made.target)),
            ("base", f"{base.base.text}  {base.digest}"),
            (
                "download",
                f"{size_text(base.download)} at most"
                if base.download
                else "packages from a mirror"
                if base.suite
                else "nothing",
            ),
            ("runtime", made.runtime),
            *_driver(made.driver),
            ("lock", shown(made.lock.path) if made.lock else "none: packages are those of the day"),
            ("layers kept", f"no: {made.uncached}" if made.uncached else "yes"),
        ],
    )
    console.print()
    rows = table("", "layer", "", "why")
    rows.add_row("0", Text(f"base {base.base.text}"), *_lookup(made.base_lookup))
    for item in made.layers:
        rows.add_row(str(item.number), Text(item.title), *_lookup(item.lookup))
    console.print(rows)
    console.print()
    rows = table("space wanted", "at", "for")
    for need in made.needs:
        rows.add_row(size_text(need.size), Text(str(need.path)), need.purpose)
    console.print(rows)
    hooks = ", ".join(" ".join((test.hook, *test.args)) for test in made.manifest.smoke) or "none"
    console.print(Text(f"\nsmoke hooks: {hooks}"))
    if made.published:
        name, version = made.manifest.name, made.published.version
        console.print(Text(f"{name} {version} is up to date: it is made from exactly this", style="green"))
        console.print(Text(f"nothing was changed; to make it anew: invoke build {name} --no-cache"))
        return
    console.print(Text(f"nothing was changed; to do it: invoke build {made.manifest.name}"))


def _driver(verdict: Verdict | None) -> Iterator[tuple[str, str]]:
    if verdict and verdict.state != NO_CUDA:
        yield "driver", f"{verdict.state}: {verdict.reason}"


def _lookup(lookup: Lookup) -> tuple[Text, Text]:
    state = Text("reused", style="green") if lookup.entry else Text("runs", style="yellow")
    return state, Text(lookup.reason)


def outcome(console: Console, done: Outcome, site: Site) -> None:
    record = done.record
    if done.logs is None:
        console.print(
            Text(f"{record.name} {record.version} is up to date: it is made from exactly this", style="green")
        )
        facts(console, [("file", str(done.path)), ("channel", done.channel), ("built", record.built)])
        console.print(Text(f"to make it anew: invoke build {record.name} --no-cache"))
        return
    console.print(Text(f"\nPublished {record.name} {record.version}", style="bold green"))
    facts(
        console,
        [
            ("file", str(done.path)),
            ("size", size_text(record.size)),
            ("digest", record.digest),
            ("base", f"{record.base}  {record.base_digest}"),
            ("channel", done.channel),
            ("time", f"{record.seconds:.0f} s ({_steps(record)})"),
            ("logs", str(done.logs)),
        ],
    )
    smoke(console, record.smoke)
    if done.channel == CANDIDATE:
        console.print(
            Text("A required hook could not run here, so 'current' stays as it is.", style="yellow")
        )
        console.print(Text(f"To finish, build on a node that has what it needs: invoke build {record.name}"))
    start(console, record, str(done.path), site)


def _steps(record: Record) -> str:
    return ", ".join(f"{name} {seconds:.0f}" for name, seconds in record.steps.items())


def lock(console: Console, made: Lock, changed: Sequence[str] | None) -> None:
    """What a lock holds, and what differs from the one before; without that, that it still holds."""
    name, packages = made.name, made.packages
    if changed is None:
        console.print(
            Text(f"{shown(made.path)} holds: its manifest, its base and all packages", style="green")
        )
        return
    for line in changed:
        console.print(Text(line), soft_wrap=True)
    facts(
        console,
        [
            ("lock", shown(made.path)),
            ("base", f"{made.base.text}  {made.base.digest}"),
            ("packages", f"{len(packages)}, {size_text(sum(each.size for each in packages))}"),
            ("changed", f"{len(changed)} lines" if changed else "nothing"),
        ],
    )
    console.print(Text(f"commit it; then: invoke fetch {name}, invoke build {name}"))


def fetched(console: Console, made: Lock) -> None:
    size = size_text(sum(each.size for each in made.packages))
    console.print(Text(f"{made.name}: {len(made.packages)} packages ({size}) are here, and are as locked"))
    console.print(Text(f"to build from them: invoke build {made.name} --locked"))


def smoke(console: Console, results: Sequence[SmokeResult]) -> None:
    if not results:
        return
    rows = table("smoke hook", "result", "seconds", "")
    for result in results:
        state = Text(
            result.state + ("" if result.required else " (not required)"), style=STYLES[result.state]
        )
        rows.add_row(Text(result.title), state, f"{result.seconds:.1f}", Text(result.reason))
    console.print()
    console.print(rows)
    for tested in dict.fromkeys(result.hardware for result in results if result.hardware):
        gpus = ", ".join(f"{tested.gpus.count(model)} x {model}" for model in dict.fromkeys(tested.gpus))
        driver = f", driver {tested.driver}" if tested.driver else ""
        console.print(Text(f"on {gpus or 'a node without GPUs'}{driver}, kernel {tested.kernel}"))


def start(console: Console, record: Record, path: str, site: Site) -> None:
    torch = startlines.has_torch(record)
    for title, lines in startlines.blocks(record.name, path, site, torch=torch):
        console.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)


def images(console: Console, rows: Sequence[Row]) -> None:
    """One line per image: the version that a user gets, and what is to be known of it."""
    made = table("image", "version", "channel", "base", "size", "age", "smoke", "")
    for row in rows:
        entry = row.entry
        leading = [name for name, version in row.channels.items() if version == entry.version]
        channel = ", ".join(leading) or "-"
        if entry.record is None:
            made.add_row(entry.name, entry.version, channel, Text(entry.problem, style="yellow"))
            continue
        record = entry.record
        state = record.smoke_state
        made.add_row(
            entry.name,
            entry.version,
            channel,
            Text(record.base),
            size_text(record.size),
            age(built) if (built := moment(record.built)) else "-",
            Text(state, style=STYLES.get(state, "")),
            Text(row.standing.text, style="yellow"),
        )
    console.print(made if rows else Text("no images yet; make the first: invoke build hello"))


def image(  # what is known of an image has this many sides
    console: Console,
    row: Row,
    site: Site,
    changes: Sequence[Change],
    beside: Mapping[str, Any],
    fit: Verdict | None,
    packages: bool,
) -> None:
    entry, record = row.entry, row.entry.record
    if record is None:
        console.print(Text(f"{entry.path}: {entry.problem}", style="yellow"))
        return
    if row.standing.text:
        console.print(Text(f"{entry.name} {entry.version} is {row.standing.text}", style="bold red"))
    leading = [name for name, version in row.channels.items() if version == entry.version]
    facts(
        console,
        [
            ("image", f"{record.name}  {record.version}"),
            ("about", record.description or "-"),
            ("maintainer", record.maintainer or "-"),
            ("file", str(entry.path)),
            ("size", size_text(record.size)),
            ("digest", record.digest),
            ("channels", ", ".join(leading) or "none"),
            ("base", f"{record.base}  {record.base_digest}"),
            ("built", f"{record.built} by Kiln {record.kiln} with {record.runtime}"),
            *(("env", f"{name}={value}") for name, value in record.env.items()),
            *((f"layer {number}", layer.title) for number, layer in enumerate(record.layers, 1)),
            *_origin(record),
            *_driver(fit),
            *_beside(record, beside),
            *((each.severity, f"{each.path}: {each.cause}") for each in record.findings),
            *_history(entry, leading, changes),
        ],
    )
    if packages:
        _packages(console, record)
    smoke(console, record.smoke)
    start(console, record, str(entry.path), site)


def _history(entry: Entry, leading: Sequence[str], changes: Sequence[Change]) -> Iterator[tuple[str, str]]:
    """What was done to a version, and to the channels that lead to it."""
    found = [each for each in changes if each.version == entry.version or each.channel in leading]
    for each in found[-MOST_CHANGES:]:
        yield "history", f"{each.time}  {each.text}  ({each.who})"
    if found[MOST_CHANGES:]:
        yield "history", f"{len(found) - MOST_CHANGES} more before: invoke history {entry.name}"


def _packages(console: Console, record: Record) -> None:
    rows = table("package", "version", "of")
    for package in record.packages:
        rows.add_row(Text(package.name), Text(package.version), package.kind)
    console.print()
    console.print(rows)


def _origin(record: Record) -> Iterator[tuple[str, str]]:
    if record.commit:
        state = {True: "as committed", False: "with changes that weren't committed", None: "changes unknown"}
        yield "checkout", f"{record.commit}, {state[record.clean]}"
    if record.host:
        yield "built on", record.host + (f", job {record.job}" if record.job else "")


def _beside(record: Record, beside: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not record.companions:
        yield "packages", "not on record: an older Kiln published this"
        return
    counts = [sum(package.kind == kind for package in record.packages) for kind in (APT, PYTHON)]
    every = f"; all: invoke show {record.name}:{record.version} --packages"
    yield "packages", f"{counts[0]} of apt, {counts[1]} of Python{every}"
    brought = [
        f"{each.name} {each.after}"
        for layer in record.layers
        for each in layer.changes
        if each.after and each.kind == PYTHON
    ]
    if brought:
        more = f", and {len(brought) - MOST_PACKAGES} more" if brought[MOST_PACKAGES:] else ""
        yield "brought", f"by its layers: {', '.join(brought[:MOST_PACKAGES])}{more}"
    gone = "missing, or not the one that was published"
    sbom, provenance, name = beside["sbom"], beside["provenance"], f"{record.name}-{record.version}"
    about = f"CycloneDX {sbom['specVersion']}, {len(sbom['components'])} components" if sbom else gone
    yield "sbom", f"{name}.cdx.json  {about}"
    steps = provenance["predicate"]["buildDefinition"]["resolvedDependencies"] if provenance else ()
    made_from = ", ".join(step["name"] for step in steps)
    yield "provenance", f"{name}.provenance.json  {f'SLSA v1, made from {made_from}' if made_from else gone}"
    to_check = f"invoke verify {record.name}:{record.version}"
    yield "signature", f"{name}.json.sig; to check it: {to_check}" if beside["signed"] else "none"


def findings(console: Console, entry: Entry, found: Sequence[Finding], again: Rebuilt | None) -> None:
    styles = {GOOD: "green", BAD: "bold red", UNKNOWN: "yellow"}
    rows = table(f"{entry.name} {entry.version}", "", "")
    for item in found:
        rows.add_row(Text(item.name), Text(item.state, style=styles[item.state]), Text(item.detail))
    if again:
        state = Text(GOOD if again.same else BAD, style=styles[GOOD if again.same else BAD])
        rows.add_row("built again", state, f"{'the same, ' if again.same else ''}{again.digest}")
    console.print(rows)


def collected(console: Console, done: Collected, dry_run: bool) -> None:
    if not done.workspaces and not done.things:
        console.print("nothing to remove")
        return
    console.print(Text("would be removed:" if dry_run else "removed:", style="bold"))
    for name in done.workspaces:
        console.print(Text(f"build   {name}"), soft_wrap=True)
    for each in done.things:
        item = each.item
        text = f"{item.kind:<7} {size_text(item.size):>9}  {item.title}  ({each.reason})  {item.path}"
        console.print(Text(text), soft_wrap=True)
    if done.things:
        console.print(Text(f"{size_text(done.size)} in all"))


def checks(console: Console, found: Sequence[Check]) -> None:
    width = max(len(item.name) for item in found)
    for item in found:
        state = (f"{item.state:<8}", STYLES[item.state])
        purpose = (f"  (for {item.purpose})", "dim")
        console.print(Text.assemble(state, f"{item.name:<{width}}  {item.detail}", purpose), soft_wrap=True)
        if item.state != OK:
            console.print(Text(f"{'':8}-> {item.remedy}", style="bold"), soft_wrap=True)
