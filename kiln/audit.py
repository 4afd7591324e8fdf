"""The audit of an exported image: what it holds that must not be handed to others stops the build.

Owns the order (list, read, judge), how findings are told, and how many of a kind. The rules are in
`kiln.imagerules`. It looks at the file itself, by unsquashfs, without root and without unpacking it.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kiln import imagerules, listing
from kiln.baseline import Baseline
from kiln.errors import AuditError
from kiln.imagerules import Builder, Image
from kiln.origin import Origins
from kiln.record import ERROR, Finding

NAMED = ("passwd", "group")
MOST_OF_A_KIND = 20
HINT = "change these lines and build again; docs/clean.md has all that is looked for"


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an image is held against: its base, its users as layers left them, its builder, its manifest."""

    base: Baseline
    names: Mapping[str, frozenset[str]]
    builder: Builder
    origins: Origins
    allow_setuid: frozenset[str]

    def findings(
        self, image: Path, private: Path, env: Mapping[str, str], traces: Iterable[Finding] = ()
    ) -> tuple[Finding, ...]:
        """What the rules find in the file `image`, and those of `traces` that are in it.

        `private` is a folder for what is read of it.
        """
        found = listing.of(image, env)
        texts = listing.read(image, imagerules.wanted(found), private, env)
        judged = Image(found, texts, self.base, self.names, self.builder, self.allow_setuid)
        there = (each for each in traces if each.path in found.entries)
        return self.told((*imagerules.judge(judged), *there))

    def told(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Findings with their places, errors first, not more of a kind than anybody reads."""
        kinds: dict[tuple[str, str], list[Finding]] = {}
        for each in sorted(findings, key=lambda each: (each.severity != ERROR, each.path)):
            kinds.setdefault((each.severity, each.cause), []).append(each)
        few = [each for same in kinds.values() for each in _few(same)]
        return tuple(dataclasses.replace(each, place=self.origins.of(each.path)) for each in few)


def builder(environ: Mapping[str, str]) -> Builder:
    """Who builds here, as the host's user database has it."""
    try:
        entry = pwd.getpwuid(os.getuid())
        return Builder(entry.pw_dir, os.uname().nodename)
    except KeyError:
        return Builder(environ.get("HOME", "/"), os.uname().nodename)


def left_names(identity: Path) -> dict[str, frozenset[str]]:
    """The users and groups in a folder in which the last layer's `etc/passwd` and `etc/group` were saved."""
    found = {}
    for name in NAMED:
        path = identity / "etc" / name
        if path.is_file() and not path.is_symlink():
            found[f"/etc/{name}"] = imagerules.listed(path.read_bytes())
    return found


def check(name: str, findings: Sequence[Finding]) -> None:
    """Raise `AuditError` with all findings where one of them is an error."""
    count = len(errors(findings))
    if count:
        things = "a thing" if count == 1 else f"{count} things"
        raise AuditError(
            f"the image of {name} holds {things} that must not be handed to others; nothing was published",
            HINT,
            list(lines(findings)),
        )


def errors(findings: Iterable[Finding]) -> list[Finding]:
    return [each for each in findings if each.severity == ERROR]


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Findings for people."""
    for each in findings:
        yield f"{each.severity:<8} {each.path}: {each.cause}"
        if each.place:
            yield f"{'':8} left by {each.place}"
        if each.remedy:
            yield f"{'':8} -> {each.remedy}"


def _few(findings: list[Finding]) -> Iterator[Finding]:
    yield from findings[:MOST_OF_A_KIND]
    if len(findings) > MOST_OF_A_KIND:
        first = findings[MOST_OF_A_KIND]
        more = len(findings) - MOST_OF_A_KIND - 1
        rest = f"{first.cause} (and {more} more like it)" if more else first.cause
        yield dataclasses.replace(first, cause=rest)
