"""Which of two versions of a Debian package is the newer one: deb-version(7), 'Sorting algorithm'."""

from __future__ import annotations

import re

Key = tuple[int, list[tuple[list[int], int]], list[tuple[list[int], int]]]

# Of characters: ~ sorts before the end of a part, letters before everything else.
_TILDE, _END = -1, 0


def key(version: str) -> Key:
    """What to sort versions by; a text that is none sorts somewhere."""
    epoch, colon, rest = version.partition(":")
    upstream, _, revision = (rest if colon else version).rpartition("-")
    if not upstream:
        upstream, revision = revision, ""
    return (int(epoch) if colon and epoch.isdigit() else 0, _parts(upstream), _parts(revision))


def _parts(text: str) -> list[tuple[list[int], int]]:
    """Runs of what is no digit, each with the number behind it, up to an end that sorts as nothing does."""
    found = re.findall(r"([^\d]*)(\d*)", text)
    return [([*map(_weight, word), _END], int(number or 0)) for word, number in found if word or number] + [
        ([_END], 0)
    ]


def _weight(character: str) -> int:
    if character == "~":
        return _TILDE
    return ord(character) if character.isalpha() else ord(character) + 256
