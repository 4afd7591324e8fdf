"""What `doctor` says of the layer store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiln import doctor, site
from kiln.check import MISSING, OK, WARNING
from kiln.context import Context, user_id
from kiln.runtime import namespace
from tests.unit import layertiers
from tests.unit.layertiers import ENV, Heard, entry


def context(folder: Path, layers: str = "{shared: ./shared}") -> Context:
    (folder / "sites").mkdir(exist_ok=True)
    text = f"format: 1\nname: x\nimages: ./images\ncache: ./cache\nlayers: {layers}\n"
    (folder / "sites/x.yaml").write_text(text)
    return Context(folder, site.load("x", folder, {}), ENV, Heard())


def test_where_overlays_work_layers_are_kept(tmp_path: Path, overlays: None) -> None:
    found = doctor.layer_store(context(tmp_path))
    assert (found.state, found.detail) == (OK, f"overlays work in {tmp_path}/cache/v1/trees")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sites"]


def test_where_they_are_refused_builds_work_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "refusal", lambda folder, env: f"no overlays in {folder}")
    found = doctor.layer_store(context(tmp_path))
    assert (found.state, found.detail) == (WARNING, f"no overlays in {tmp_path}/cache/v1/trees")
    assert "builds work without" in found.remedy
    doctor.conclude([found])


def test_a_store_of_a_newer_kiln_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "refusal", lambda folder, env: "")
    made = context(tmp_path)
    made.layer_store.local.prepare()
    (made.layer_store.local.root / "format").write_text("7\n")
    found = doctor.layer_store(made)
    assert (found.state, "has format 7; this Kiln knows 1" in found.detail) == (MISSING, True)
    assert found.remedy.startswith("update this Kiln")


def test_a_site_without_a_shared_tier_says_nothing_of_one(tmp_path: Path) -> None:
    assert list(doctor.shared_tier(context(tmp_path, "{}"))) == []


def test_a_shared_tier_with_its_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = context(tmp_path)
    [found] = doctor.shared_tier(made)
    assert (found.state, found.detail) == (OK, f"{tmp_path}/shared/v1, read and written")
    assert not (tmp_path / "shared").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    [found] = doctor.shared_tier(made)
    assert found.detail.endswith("read only: what is built here isn't put there")


def test_a_shared_tier_of_a_newer_kiln_is_told(tmp_path: Path) -> None:
    made = context(tmp_path)
    assert made.layer_store.shared
    made.layer_store.shared.put(entry(), layertiers.tree(tmp_path / "tree"))
    (tmp_path / "shared/v1/format").write_text("7\n")
    [found] = doctor.shared_tier(made)
    assert (found.state, "has format '7'" in found.detail) == (MISSING, True)


def test_trusted_users_that_nobody_knows_are_told(tmp_path: Path) -> None:
    made = context(tmp_path, "{shared: ./shared, trusted: [root, '12345', nobody-at-all]}")
    assert made.layer_store.shared
    assert made.layer_store.shared.trusted == {0, 12345}
    first, second = doctor.shared_tier(made)
    assert (first.state, first.detail) == (WARNING, "nobody here is called nobody-at-all")
    assert second.state == OK


@pytest.mark.parametrize(("name", "number"), [("root", 0), ("0", 0), ("77", 77), ("nobody-at-all", None)])
def test_users_by_name_or_number(name: str, number: int | None) -> None:
    assert user_id(name) == number


@pytest.mark.skipif(os.getuid() == 0, reason="root may look anywhere")
def test_folders_below_one_that_may_not_be_looked_into(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    found = doctor.folder("cache", tmp_path / "closed/deep/cache", "a test")
    assert (found.state, found.detail) == (MISSING, f"{tmp_path}/closed can't be written")
