"""Mistakes in a file, and how they are shown: place, words, the line, a caret below it.

Owns the form of every message about a YAML file. Must not know YAML, or what a file should say.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SHOWN_LIMIT = 50  # problems of one file
EXCERPT_WIDTH = 110
WORDS_WIDTH = 400  # of one message, which may repeat what is written

# Control characters, line breaks that editors don't show, surrogates, byte order marks, non-characters, and
# what reorders text on the screen so that it reads differently from what it is.
UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Where something is written: line and column count characters from 1; it never spans two lines."""

    line: int
    column: int
    width: int = 1


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: where, what, and what to write instead."""

    span: Span
    text: str
    hint: str = ""


def near(word: str, names: Iterable[str]) -> str:
    """The name most like `word`, or ""."""
    matches = difflib.get_close_matches(word.lower(), sorted(names), n=1, cutoff=0.6)
    return matches[0] if matches else ""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """A hint that names the nearest of `names`, or lists them all."""
    known = sorted(names)
    if match := near(word, known):
        return f"did you mean {match!r}?"
    return f"known are: {', '.join(known)}" if known else ""


def quote(text: str, limit: int = 60) -> str:
    """Text for a message: quoted, escaped, on one line, not longer than `limit` characters or so."""
    return repr(str(text if len(text) <= limit else text[: limit - 1] + "…"))


def shown(path: Path) -> str:
    """The path as a person would type it here: relative when it is below the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def render(name: str, lines: list[str], problems: Iterable[Problem]) -> list[str]:
    """The lines that show problems, in the order of the file."""
    ordered = sorted(set(problems))
    result: list[str] = []
    for problem in ordered[:SHOWN_LIMIT]:
        words = f"{problem.text}; {problem.hint}" if problem.hint else problem.text
        words = UNSEEN.sub("?", words).replace("\n", " ")[:WORDS_WIDTH]
        result.append(f"{name}:{problem.span.line}:{problem.span.column}: {words}")
        result += _excerpt(problem.span, lines)
    if len(ordered) > SHOWN_LIMIT:
        result.append(f"... and {len(ordered) - SHOWN_LIMIT} more")
    return result


def _excerpt(span: Span, lines: list[str]) -> list[str]:
    line = UNSEEN.sub("?", lines[span.line - 1]).replace("\t", " ") if span.line <= len(lines) else ""
    if not line.strip():
        return []
    # A long line is cut on the left so that the caret stays in sight.
    cut = max(0, span.column - 1 - EXCERPT_WIDTH // 2) if len(line) > EXCERPT_WIDTH else 0
    line = line[cut : cut + EXCERPT_WIDTH]
    at = span.column - 1 - cut
    caret = " " * at + "^" * max(1, min(span.width, len(line) - at))
    return [f"  {span.line} | {line.rstrip()}", f"  {' ' * len(str(span.line))} | {caret}"]
