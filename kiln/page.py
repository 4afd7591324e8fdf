"""The pages of an images folder: a table of all images, and a page for each. No server, no network.

    <images>/index.html            all images: search, sort
    <images>/NAME/index.html       one image: start lines, smoke results, packages, versions, history

Made from the records, like the catalogue; rebuildable at any time. Owns which pages are made when, and their
frame; what an image's own page says is `kiln.imagepage`, how all of it looks is in `kiln/templates`. Every
value goes through Jinja's escaping, and the pages' policy lets no other script run and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from kiln import __version__, files, imagepage, publish
from kiln.errors import BusyError, KilnError, SpaceError, StoreError
from kiln.imagepage import Version
from kiln.site import Site
from kiln.standing import Standings
from kiln.store import Store

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "index.html"
# Where in a page it says what made it.
HEAD = 2048


@dataclass(frozen=True)
class Frame:
    """What every page has around it."""

    @cached_property
    def style(self) -> str:
        return (TEMPLATES / "style.css").read_text()

    @cached_property
    def script(self) -> str:
        return (TEMPLATES / "page.js").read_text()

    @cached_property
    def mark(self) -> str:
        """Names the templates: a page without it was made by another Kiln."""
        texts = [path.read_bytes() for path in sorted(TEMPLATES.iterdir()) if path.is_file()]
        return f"Kiln {__version__} {hashlib.sha256(b''.join(texts)).hexdigest()[:12]}"

    @cached_property
    def environment(self) -> Environment:
        # Nothing from a record is a template: all texts are values.
        return Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def render(self, template: str, values: dict[str, Any]) -> bytes:
        text = self.environment.get_template(template).render(
            **values,
            # The two are no values of anybody's: they are Kiln's own files.
            style=Markup(self.style),  # noqa: S704
            style_hash=_hash(self.style),
            script=Markup(self.script),  # noqa: S704
            script_hash=_hash(self.script),
            mark=self.mark,
            kiln=__version__,
            made=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        )
        # A name that is no text in its file system may stand in a path.
        return text.encode(errors="replace")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def write(store: Store, site: Site, changed: str, notify: Callable[[str], None]) -> None:
    """Make the table anew, and the pages that are not as they should be.

    Those are the page of the image `changed`, those of images on a revoked version of it, and those that are
    missing or that another Kiln made.

    What was published is published: a page that can't be written is told by `notify`.
    """
    try:
        with publish.catalog_lock(store, notify):
            _write(store, site, changed, notify)
    except (StoreError, SpaceError, BusyError) as error:
        notify(f"the page {store.root / PAGE} is not up to date: {error.message}; the next publish mends it")


def _write(store: Store, site: Site, changed: str, notify: Callable[[str], None]) -> None:
    frame, names, standings = Frame(), store.names(), Standings(store)
    stale = {changed, *_on_revoked(store, changed)}
    rows, total = [], 0
    for name in names:
        image = imagepage.read(standings, name)
        total += len(image.versions)
        rows.append(image.version(image.top))
        page = store.folder(name) / PAGE
        if name in stale or not _is_ours(page, frame):
            try:
                _sweep(page)
                files.write_atomic(page, frame.render("image.html", imagepage.details(image, site)))
            except KilnError as error:
                notify(f"the page of {name} is not up to date: {error.message}")
            except (*imagepage.DAMAGED, TemplateError) as error:
                notify(f"the page of {name} is not up to date: a record in {page.parent} is damaged: {error}")
    if changed and changed not in names:
        _remove(store.folder(changed) / PAGE)
    _sweep(store.root / PAGE)
    table = {"rows": rows, "words": [_words(row) for row in rows], "packages": _packages(rows)}
    values = {**table, "versions": total, "root": str(store.root)}
    files.write_atomic(store.root / PAGE, frame.render(PAGE, values))


def _sweep(page: Path) -> None:
    """Remove what a writer left that was killed; whoever calls holds the lock of all writers."""
    with files.translated(page):
        for path in page.parent.glob(f".{PAGE}.*"):
            path.unlink(missing_ok=True)


def _is_ours(page: Path, frame: Frame) -> bool:
    try:
        with page.open("rb") as stream:
            return frame.mark.encode() in stream.read(HEAD)
    except OSError:
        return False


def _remove(page: Path) -> None:
    """The page of an image that has no version any more."""
    with files.translated(page):
        page.unlink(missing_ok=True)


def _on_revoked(store: Store, name: str) -> set[str]:
    """The images that are built, near or far, on an image with a revoked version: they are marked, too."""
    try:
        images = json.loads(store.catalog.read_text())["images"]
        if not any("revoked" in version for version in images[name]["versions"]):
            return set()
        bases = {
            other: {str(each.get("base", "")) for each in image["versions"]}
            for other, image in images.items()
        }
    except (OSError, *imagepage.DAMAGED):
        return set()
    found: set[str] = set()
    new = {name}
    while new:
        new = {other for other in bases if _any_on(bases[other], new)} - found
        found |= new
    return found


def _any_on(bases: Iterable[str], names: Iterable[str]) -> bool:
    parents = {base.split(":")[1] for base in bases if base.startswith("image:")}
    return not parents.isdisjoint(names)


def _words(row: Version) -> str:
    """What a search looks through, beside the packages."""
    facts = (str(row.facts.get(name, "")) for name in ("description", "base", "maintainer"))
    return " ".join((row.name, row.version, row.state, *row.channels, *facts)).lower()


def _packages(rows: Iterable[Version]) -> dict[str, Any]:
    """Which rows have a package: `known` is by its name, then its version, the number of a list in `rows`.

    Images on one base have hundreds in common, so most lists are those of many packages.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        installed = row.record.packages if row.record else ()
        for name, version in {(str(each.name), str(each.version)) for each in installed}:
            found.setdefault((name, version), []).append(number)
    lists: dict[tuple[int, ...], int] = {}
    known: dict[str, dict[str, int]] = {}
    for (name, version), numbers in sorted(found.items()):
        known.setdefault(name, {})[version] = lists.setdefault(tuple(numbers), len(lists))
    return {"rows": list(lists), "known": known}
