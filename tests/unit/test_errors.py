"""The catalogue of failures: no number twice, and the documents have it as it is."""

from __future__ import annotations

from pathlib import Path

from kiln.errors import catalogue

ROOT = Path(__file__).resolve().parents[2]


def test_ids_are_unique_and_codes_shared_by_nobody_but_the_general_one() -> None:
    kinds = catalogue()
    assert len({kind.id for kind in kinds}) == len(kinds)
    assert len({kind.exit_code for kind in kinds}) == len(kinds)


def test_the_documents_have_every_code() -> None:
    for document in ("docs/output.md", "README.md"):
        text = (ROOT / document).read_text()
        for kind in catalogue():
            assert f"| {kind.exit_code} | {kind.id} | {kind.meaning} |" in text, (document, kind)
