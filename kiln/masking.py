"""The forms in which a secret shows up in text and files: as it is, and as programs write it.

Owns those forms: base64 at each of its three alignments, plain and for URLs, and wrapped; hexadecimal;
percent-encoded; escaped as in JSON; a longer text line by line, and the values that it gives names to. Knows
no secret and masks nothing.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus

# What is shorter stands in too many texts that have nothing to do with it.
SHORTEST = 6
SHORTEST_LINE = 8
# Where base64(1) and PEM, and xxd(1), break their lines.
BASE64_ROWS, HEX_ROW = (76, 64), 60
_PEM = re.compile(r"-----(BEGIN|END) [A-Z0-9 ]+-----")
# netrc, .pypirc, .npmrc, JSON, AWS's: a name, and the value after it.
_NAMED = re.compile(
    r"(?i)(?:pass(?:word|wd)?|token|secret\w*|\w*key|_?auth\w*)[\"']?\s*[=:\s]\s*[\"']?([^\s\"',]+)"
)
_IN_ADDRESS = re.compile(r"//[^/\s:@]*:([^/\s:@]+)@")
_TELLING = re.compile(r"(?=\S*[0-9])(?=\S*[A-Za-z])\S{8,}")


def masks(values: Iterable[str]) -> tuple[str, ...]:
    """All texts that must not be seen, longest first, so that none is cut up by a shorter one."""
    found = {form for value in values for piece in _pieces(value) for form in _forms(piece)}
    return tuple(sorted(found, key=lambda form: (-len(form), form)))


def traces(value: str) -> frozenset[bytes]:
    """What tells that a file holds the secret; none of it stands in files that have nothing to do with it."""
    whole = value.strip()
    lines = {piece for piece in _pieces(value) if "\n" not in piece}
    named = {piece for piece in _named(value) if len(piece) >= SHORTEST_LINE}
    telling = {piece for piece in lines if piece == whole or _TELLING.search(piece)} | named
    forms = {form for piece in telling or lines for form in _forms(piece)}
    return frozenset(form.encode("utf-8", "surrogateescape") for form in forms if len(form) >= SHORTEST_LINE)


def _pieces(value: str) -> set[str]:
    """The texts by which a program could show a value, or a part that is a secret by itself."""
    whole = value.strip()
    if "\n" not in whole:
        return {text for text in (value.strip("\n"), whole) if text} | _named(value)
    lines = {line.strip() for line in whole.splitlines()}
    kept = {line for line in lines if len(line) >= SHORTEST_LINE and not _PEM.fullmatch(line)}
    return {whole, *kept, *_named(value)}


def _named(value: str) -> set[str]:
    found = {match[1] for pattern in (_NAMED, _IN_ADDRESS) for match in pattern.finditer(value)}
    return {text for text in found if len(text) >= SHORTEST}


def _forms(text: str) -> Iterator[str]:
    yield text
    if len(text) < SHORTEST:
        return
    yield from (quote(text, safe=""), quote(text), quote_plus(text), json.dumps(text)[1:-1])
    data = text.encode("utf-8", "surrogateescape")
    for digits in (data.hex(), data.hex().upper()):
        yield from (digits, *_rows(digits, HEX_ROW))
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield from _aligned(data, encode)


def _aligned(data: bytes, encode: Callable[[bytes], bytes]) -> Iterator[str]:
    """The part of base64 text that `data` alone decides, whatever stands before and after it."""
    for before in range(3):
        text = encode(bytes(before) + data).decode()
        first, last = (before * 8 + 5) // 6, (before + len(data)) * 8 // 6
        yield text[first:last]
        for width in BASE64_ROWS if before == 0 else ():
            yield from _rows(text[:last], width)


def _rows(text: str, width: int) -> list[str]:
    """The lines of a text that is broken after so many characters; none of one that fits into a line."""
    rows = [text[at : at + width] for at in range(0, len(text), width)]
    return [row for row in rows if len(row) >= SHORTEST_LINE] if len(rows) > 1 else []
