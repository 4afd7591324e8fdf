"""The pages of an images folder: a table of all images, and a page for each. No server, no network.

    <images>/index.html            all images: search, sort
    <images>/NAME/index.html       one image: start lines, smoke results, versions, history

Made from the records, like the catalogue; rebuildable at any time. Owns what is shown; how it looks is in
`kiln/templates`. Every value goes through Jinja's escaping, and the pages' policy lets no other script run.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kiln import __version__, files, history, publish, startlines
from kiln.site import Site
from kiln.standing import Standings
from kiln.store import CANDIDATE, CURRENT, Entry, Store
from kiln.ui import size_text

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "index.html"


def write(store: Store, site: Site, changed: str, notify: Callable[[str], None]) -> None:
    """Make the table anew, and the pages of the image `changed` and of those that have none yet."""
    with publish.catalog_lock(store, notify):
        environment = _environment()
        rows, total = [], 0
        for name in store.names():
            versions = _versions(store, name)
            total += len(versions)
            rows.append(_top(versions))
            page = store.folder(name) / PAGE
            if name == changed or not page.exists():
                text = _image(environment, store, site, name, versions)
                files.write_atomic(page, text.encode())
        text = environment.get_template(PAGE).render(
            rows=rows, versions=total, root=str(store.root), **_frame()
        )
        files.write_atomic(store.root / PAGE, text.encode())


def _environment() -> Environment:
    # Nothing from a record is a template: all texts are values.
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _frame() -> dict[str, Any]:
    """What every page has around it."""
    return {
        "nonce": secrets.token_urlsafe(16),
        "kiln": __version__,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _versions(store: Store, name: str) -> list[dict[str, Any]]:
    """All versions, the newest first, as rows."""
    standings, moved = Standings(store), store.channels(name)
    entries = [store.entry(name, version) for version in reversed(store.versions(name))]
    return [_row(entry, standings, moved) for entry in entries]


def _row(entry: Entry, standings: Standings, moved: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": entry.name,
        "version": entry.version,
        "path": str(entry.path),
        "channels": [channel for channel, version in moved.items() if version == entry.version],
        "standing": standings.of(entry).text,
        "problem": entry.problem,
        "description": "",
        "entry": entry,
    }
    if entry.record is None:
        return {**row, "words": f"{entry.name} {entry.version}".lower()}
    record = entry.record
    row |= {
        "description": record.description,
        "maintainer": record.maintainer,
        "base": record.base,
        "size": record.size,
        "size_text": size_text(record.size),
        "built": record.built,
        "digest": record.digest,
        "smoke": record.smoke_state,
    }
    words = (record.name, record.version, record.description, record.base, *row["channels"])
    return {**row, "words": " ".join(words).lower()}


def _top(versions: list[dict[str, Any]]) -> dict[str, Any]:
    """The version that a user gets without naming one."""
    for channel in (CURRENT, CANDIDATE):
        for row in versions:
            if channel in row["channels"]:
                return row
    return versions[0]


def _image(
    environment: Environment, store: Store, site: Site, name: str, versions: list[dict[str, Any]]
) -> str:
    top = _top(versions)
    record = top["entry"].record
    return environment.get_template("image.html").render(
        name=name,
        top=top,
        rows=versions,
        blocks=startlines.blocks(name, top["path"], site),
        smoke=record.smoke if record else (),
        env="\n".join(f"{key}={value}" for key, value in record.env.items()) if record else "",
        changes=history.read(store, name)[::-1],
        **_frame(),
    )
