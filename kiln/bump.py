"""The newer tag of a base, written into its manifest; everything else in the file stays as it is.

Owns the edit. Which tag is the newer one is `kiln.tagcheck`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kiln import drivergate, files, graph, manifest, series, tagcheck
from kiln.base import Base
from kiln.context import Context
from kiln.driver import TOO_OLD
from kiln.errors import BaseError, ManifestError, UsageError, VerifyError
from kiln.problems import shown
from kiln.registry.reference import Reference
from kiln.tagcheck import Answer, Newer
from kiln.yamltree import read

_LINE = re.compile(r"(\r\n|\r|\n)")


@dataclass(frozen=True)
class Bumped:
    """What was written: `after` is '' where there is nothing newer, for the reason `why`."""

    name: str
    place: str
    before: str
    after: str = ""
    why: str = ""

    def to_data(self) -> dict[str, str]:
        return dict(vars(self))


def bump(context: Context, name: str, to: str = "") -> Bumped:
    """Write the newest tag that the site's driver carries, or the tag `to`, into the manifest of `name`.

    Raises `UsageError` for a base without a series of tags, `BaseError` where its registry doesn't answer,
    `VerifyError` where the site's driver carries none of the newer ones.
    """
    path = manifest.find(context.manifests, name)
    base = context.load(name).base
    place = f"{shown(path)}:{graph.base_span(path)[0].line}"
    if base.kind != "registry" or not base.tag or (not to and series.place(base.tag) is None):
        raise UsageError(f"{place}: the base {base.text} has no tag with a version", "name one: --to TAG")
    newer, why = (_named(context, base, to), "") if to else _newest(context, base)
    if newer is None:
        return Bumped(name, place, base.tag, why=why)
    write(path, base, newer)
    return Bumped(name, place, base.tag, newer.tag)


def _newest(context: Context, base: Base) -> tuple[Newer | None, str]:
    asker = tagcheck.asker(context.client, context.site, context.architecture)
    wanted = tagcheck.wanted([(base, "")])
    [answer] = asker.ask(wanted).values()
    found = answer.fitting.get(base.tag)
    if found is None and answer.problem:
        raise BaseError(
            f"what is newer than {base.text} is not known: {answer.problem}", "run it again later"
        )
    if found is None and base.tag in answer.newer:
        late = answer.newer[base.tag]
        raise VerifyError(
            f"{base.registry}/{base.repository}:{late.tag} would not run: {late.driver.reason}",
            f"to write it all the same: --to {late.tag}",
        )
    return found, _why(base, answer)


def _why(base: Base, answer: Answer) -> str:
    young = answer.too_new.get(base.tag)
    return f"too new to count: {', '.join(young)}" if young else "it is the newest of its series"


def _named(context: Context, base: Base, tag: str) -> Newer:
    reference = Reference(base.registry, base.repository, tag)
    found = context.client.resolve(reference, context.architecture, context.site.blobs)
    verdict = drivergate.of_image(found.config, context.site)
    if verdict.state == TOO_OLD:
        context.ui.warn(f"{reference} would not run here: {verdict.reason}")
    return Newer(tag, found.pinned, None, verdict)


def write(path: Path, base: Base, newer: Newer) -> None:
    """Change the tag, and the digest where there is one, where the base is written."""
    text = read(path)
    span, _ = graph.base_span(path)
    parts = _LINE.split(text)
    at = 2 * (span.line - 1)
    line, column = parts[at], span.column - 1
    after = line[column:].replace(f":{base.tag}", f":{newer.tag}", 1)
    if base.digest:
        after = after.replace(base.digest, newer.digest, 1)
    parts[at] = line[:column] + after
    changed = "".join(parts)
    mode = path.stat().st_mode & 0o777
    files.write_atomic(path, changed.encode(), mode)
    if _is(path, newer.tag):
        return
    files.write_atomic(path, text.encode(), mode)
    raise ManifestError(f"{shown(path)}:{span.line}: the base is written in a way that can't be changed here",
                        f"write {newer.tag} by hand")  # fmt: skip


def _is(path: Path, tag: str) -> bool:
    try:
        return manifest.load(path).base.tag == tag
    except ManifestError:
        return False
