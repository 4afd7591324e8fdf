"""Finding images by words, and by the packages in them."""

from __future__ import annotations

import json

import pytest

from kiln import query
from kiln.errors import UsageError
from kiln.store import Store
from tests.unit.conftest import Publisher

PACKAGES = {
    "llm": [("python", "transformers", "4.51.3"), ("python", "torch", "2.7.0a0+79aa17489c.nv25.4")],
    "old": [("python", "transformers", "4.49.0"), ("apt", "git", "1:2.39.5-0+deb12u2")],
}


@pytest.fixture
def filled(store: Store, put: Publisher) -> Store:
    about = {"llm": "Language models, for training", "old": "What was before"}
    for name, packages in PACKAGES.items():
        put(name)
        path = store.record(name, "1.0-r1")
        path.chmod(0o644)
        listed = [{"kind": kind, "name": package, "version": version} for kind, package, version in packages]
        data = {**json.loads(path.read_text()), "packages": listed, "description": about[name]}
        path.write_text(json.dumps(data))
    return store


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("transformers", {"llm": ("transformers 4.51.3",), "old": ("transformers 4.49.0",)}),
        ("transformers>=4.50", {"llm": ("transformers 4.51.3",)}),
        ("transformers ≥ 4.50", {"llm": ("transformers 4.51.3",)}),
        ("Transformers < 4.50 git", {"old": ("transformers 4.49.0", "git 1:2.39.5-0+deb12u2")}),
        ("torch>=2.7.0a0", {"llm": ("torch 2.7.0a0+79aa17489c.nv25.4",)}),
        ("git>2.39", {"old": ("git 1:2.39.5-0+deb12u2",)}),
        ("git>2.40", {}),
        ("LANGUAGE models", {"llm": ()}),
        ("bookworm current", {"llm": (), "old": ()}),
        ("language before", {}),
        ("trans", {}),
        ("TRANSFORMERS==4.49.0", {"old": ("transformers 4.49.0",)}),
        ("tran old", {}),
    ],
)
def test_what_is_found(filled: Store, words: str, wanted: dict[str, tuple[str, ...]]) -> None:
    assert {hit.row.entry.name: hit.matches for hit in query.search(filled, words)} == wanted


@pytest.mark.parametrize("words", ["", "  ", ">=4", "a>=", "torch>=2>=x y"])
def test_words_that_say_nothing(filled: Store, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        query.search(filled, words)
    assert "transformers>=4.50" in caught.value.hint


def test_a_damaged_record_is_passed_over(filled: Store) -> None:
    path = filled.record("llm", "1.0-r1")
    path.chmod(0o644)
    path.write_text("{")
    assert [hit.row.entry.name for hit in query.search(filled, "transformers")] == ["old"]
    [hit] = query.search(filled, "transformers")
    assert hit.to_data()["matches"] == ["transformers 4.49.0"] and hit.base == "debootstrap:bookworm"
