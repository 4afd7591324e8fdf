"""One thing that was looked at before it is needed: what it is for, its state, and its remedy."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, MISSING = "ok", "warning", "missing"


@dataclass(frozen=True)
class Check:
    """`state` is ok, warning or missing; `remedy` the command that mends it."""

    name: str
    state: str
    detail: str
    purpose: str
    remedy: str = ""
