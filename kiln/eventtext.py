"""What the events of a build say, as lines for a log. Owns the words; docs/output.md has the events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def lines(event: Mapping[str, Any]) -> Iterator[str]:
    """An event in words, none for one that only shows progress."""
    kind = event.get("event")
    if kind == "step-started":
        yield f"{event.get('step')} ..."
    elif kind == "output":
        yield f"  | {event.get('line')}"
    elif kind == "note":
        yield f"  {event.get('text')}"
    elif kind == "step-ended":
        outcome = event.get("outcome") or ("done" if event.get("ok") else "failed")
        yield f"  {outcome}, {event.get('seconds')} s"
    elif kind == "warning":
        yield f"warning: {event.get('text')}"
    elif kind == "error":
        yield f"error: {event.get('message')}"
        yield from (f"  {line}" for line in event.get("details") or ())
        if event.get("hint"):
            yield f"  -> {event['hint']}"
    elif kind == "result" and event.get("version"):
        how = "is up to date" if event.get("up_to_date") else "is published"
        yield f"{event.get('name')} {event['version']} {how}"
