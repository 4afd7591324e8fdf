"""What the page of one image says: its versions, and all about the one that a user gets.

Owns the reading of it from the store, as plain texts and numbers; how they look is in `kiln/templates`. What
can't be read makes one version doubtful, and never more than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kiln import diff, history, startlines, testruns
from kiln.diff import Difference
from kiln.errors import StoreError
from kiln.hardware import Hardware
from kiln.inventory import PYTHON, Package
from kiln.record import Record, SmokeResult
from kiln.site import Site
from kiln.standing import Standings
from kiln.store import CANDIDATE, CURRENT, Entry, Store
from kiln.ui import size_text

# A record is JSON that anybody may have had their hands on.
DAMAGED = (TypeError, ValueError, AttributeError, KeyError, IndexError)
REVOKED, DEPRECATED = "revoked", "deprecated"
# What differs from the version before is shown of this many of the newest versions.
COMPARED = 20
KINDS = {"python": "Python packages", "apt": "apt packages"}


@dataclass(frozen=True)
class Version:
    """One version: `facts` are texts and numbers for a row, none of them where `problem` says why.

    `state` is revoked, deprecated or '', `standing` says the same in a sentence.
    """

    name: str
    version: str
    path: str
    channels: tuple[str, ...] = ()
    state: str = ""
    standing: str = ""
    problem: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    record: Record | None = None


@dataclass(frozen=True)
class Image:
    """The names of an image's versions, the newest first; where its channels lead; its history."""

    standings: Standings
    name: str
    versions: tuple[str, ...]
    channels: Mapping[str, str]
    changes: tuple[history.Change, ...]

    @property
    def store(self) -> Store:
        return self.standings.store

    @property
    def top(self) -> str:
        """The version that a user gets without naming one."""
        led_to = (self.channels.get(channel) for channel in (CURRENT, CANDIDATE))
        return next((version for version in led_to if version in self.versions), None) or self.versions[0]

    def version(self, version: str) -> Version:
        """One of them with its packages, doubtful where its record is."""
        entry = self.store.entry(self.name, version, packages=True)
        bare = Version(
            self.name,
            version,
            str(entry.path),
            tuple(channel for channel, to in self.channels.items() if to == version),
            problem=entry.problem,
        )
        try:
            state, standing = self._standing(entry)
            if entry.record is None:
                return _with(bare, state=state, standing=standing)
            facts = _facts(entry.record)
            return _with(bare, state=state, standing=standing, facts=facts, record=entry.record)
        except DAMAGED as error:
            return _with(bare, problem=f"its record is damaged: {error}")

    def _standing(self, entry: Entry) -> tuple[str, str]:
        try:
            said = self.standings.of(entry)
        except StoreError:
            return "", ""
        state = REVOKED if said.refused else DEPRECATED if said.until else ""
        return state, said.text


def read(standings: Standings, name: str) -> Image:
    """The image `name`, which has a version. A history that can't be read is an empty one."""
    try:
        changes = tuple(standings.changes(name))
    except StoreError:
        changes = ()
    store = standings.store
    return Image(standings, name, tuple(reversed(store.versions(name))), store.channels(name), changes)


def details(image: Image, site: Site) -> dict[str, Any]:
    """What `image.html` shows."""
    versions = [image.version(version) for version in image.versions]
    top = next(each for each in versions if each.version == image.top)
    try:
        about = _about(image.store, top)
    except DAMAGED as error:
        top = _with(top, problem=f"its record is damaged: {error}", facts={}, record=None)
        about = _about(image.store, top)
    return {
        "name": image.name,
        "top": top,
        "versions": list(zip(versions, _differences(versions), strict=True)),
        "blocks": _start_lines(top, site),
        "changes": image.changes[::-1],
        **about,
    }


def _with(version: Version, **values: Any) -> Version:
    return Version(**{**vars(version), **values})


def _facts(record: Record) -> dict[str, Any]:
    return {
        "description": str(record.description),
        "maintainer": str(record.maintainer),
        "base": str(record.base),
        "base_digest": str(record.base_digest),
        "size": int(record.size),
        "size_text": size_text(record.size),
        "built": str(record.built),
        "digest": str(record.digest),
        "smoke": record.smoke_state,
        "gpus": ", ".join(dict.fromkeys(hardware_text(each.hardware) for each in record.smoke)),
    }


def _about(store: Store, top: Version) -> dict[str, Any]:
    """What is told of the version that a user gets alone."""
    record = top.record
    if record is None:
        return dict.fromkeys(("smoke", "runs", "env", "layers", "packages", "counts", "findings"), ())
    packages = sorted(record.packages, key=lambda each: (each.kind != PYTHON, str(each.name)))
    return {
        "smoke": [_result(each) for each in record.smoke],
        "runs": [_run(each) for each in testruns.read(store.tests(top.name, top.version))[::-1]],
        "env": "\n".join(f"{name}={value}" for name, value in record.env.items()),
        "layers": [str(layer.title) for layer in record.layers],
        "packages": packages,
        "counts": _counts(packages, record),
        "findings": [(str(each.severity), str(each.path), str(each.cause)) for each in record.findings],
    }


def _counts(packages: Sequence[Package], record: Record) -> list[str]:
    if not record.companions:
        return []
    found = Counter(each.kind for each in packages)
    return [f"{found[kind]} {title}" for kind, title in KINDS.items() if found[kind]]


def _result(result: SmokeResult) -> dict[str, Any]:
    return {
        "title": result.title,
        "state": str(result.state),
        "required": result.required,
        "hardware": hardware_text(result.hardware),
        "reason": str(result.reason),
        "seconds": f"{result.seconds:.1f}",
    }


def _run(run: testruns.Run) -> dict[str, str]:
    """A later run of the hooks in a line."""
    states = Counter(each.state for each in run.results)
    machines = dict.fromkeys(text for each in run.results if (text := hardware_text(each.hardware)))
    return {
        "time": run.time,
        "who": run.who,
        "states": ", ".join(f"{count} {state}" for state, count in states.items()) or "no hooks",
        "hardware": "; ".join(machines),
    }


def hardware_text(hardware: Hardware | None) -> str:
    """The machine of a test: `2 x H100, driver 550.54`; '' where none was put on record."""
    if hardware is None:
        return ""
    gpus = ", ".join(f"{count} x {model}" for model, count in Counter(hardware.gpus).items())
    return (gpus or "no GPU") + (f", driver {hardware.driver}" if hardware.driver else "")


def _start_lines(top: Version, site: Site) -> list[tuple[str, list[str]]]:
    if top.state == REVOKED:
        return []
    return startlines.blocks(top.name, top.path, site, torch=startlines.has_torch(top.record))


def _differences(versions: Sequence[Version]) -> Iterator[dict[str, Any] | None]:
    """What each version brought, against the one before it; None where that can't be told."""
    for number, (after, before) in enumerate(zip(versions, [*versions[1:], None], strict=True)):
        if number >= COMPARED or before is None or after.record is None or before.record is None:
            yield None
            continue
        try:
            yield _difference(diff.compare(before.record, after.record))
        except DAMAGED:
            yield None


def _difference(found: Difference) -> dict[str, Any]:
    packages = [(title, found.packages[kind]) for kind, title in KINDS.items()]
    groups = [("Base", found.base), *packages, ("Variables", found.environment)]
    said = ["base"] if found.base else []
    said += [f"{len(rows)} {title}" for title, rows in packages if rows]
    said += [f"{len(found.environment)} variables"] if found.environment else []
    growth = f"{'-' if found.growth < 0 else '+'}{size_text(abs(found.growth))}"
    return {
        "before": found.before.version,
        "summary": "the same bytes" if found.same else ", ".join([*said, growth]),
        "groups": [(title, _rows(rows)) for title, rows in groups if rows],
        "missing": found.missing,
    }


def _rows(changes: Iterable[diff.Change]) -> list[dict[str, str]]:
    """The changes; where several have one name, with their place."""
    rows = list(changes)
    names = Counter(change.name for change in rows)
    return [
        {
            "name": change.name,
            "place": change.place if names[change.name] > 1 else "",
            "state": change.state,
            "before": _short(change.before),
            "after": _short(change.after),
        }
        for change in rows
    ]


def _short(text: str) -> str:
    """A digest by its beginning."""
    return f"{text[:19]}…" if text.startswith("sha256:") else text
