"""The pages as they are written: which, when, with what in them; how they behave is tested in a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kiln import files, history, page, publish
from kiln.errors import SpaceError
from kiln.history import Change
from kiln.inventory import PYTHON, Package
from kiln.site import Site
from kiln.store import Store
from tests import showcase

EVIL = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}'\"&"


class Seen(HTMLParser):
    """The elements of a page, and the text of those that are no markup to a browser."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._within = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._within = tag if tag in self.raw else ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self.raw[self._within].append(data)
            self._within = ""
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def site(store: Store) -> Site:
    return showcase.site_of(store.root)


@pytest.fixture
def shown(store: Store, site: Site, told: list[str]) -> Store:
    showcase.make(store.root, 12, 3)
    publish.refresh_catalog(store, told.append)
    page.write(store, site, "", told.append)
    assert told == []
    return store


def of(store: Store, name: str = "") -> Seen:
    return Seen(store.root / name / page.PAGE)


def written(store: Store) -> dict[str, int]:
    """Which files the pages are."""
    return {str(path.relative_to(store.root)): path.stat().st_ino for path in store.root.rglob(page.PAGE)}


def test_a_table_of_all_images_and_a_page_for_each(shown: Store) -> None:
    links = [each["href"] for each in of(shown).all("a") if "index.html" in each["href"]]
    assert links == [f"{name}/index.html" for name in shown.names()]
    assert all((shown.root / link).is_file() for link in links)
    assert f"12 images, {sum(len(shown.versions(name)) for name in shown.names())} versions" in of(shown).text


def test_a_page_has_versions_packages_differences_tests_start_lines_and_history(shown: Store) -> None:
    seen = of(shown, "sglang").text
    wanted = ["enroot create --name sglang", "container_engine=enroot", "torchrun", "transformers", "4.51.3"]
    wanted += ["2 x NVIDIA H100 80GB HBM3, driver 550.54.15", "all-reduce over 2 ranks", "tester@gpu7"]
    wanted += ["Since 25.01-py3-r2: base, 3 Python packages", "candidate", "HF_HOME=/workspace/hf"]
    wanted += ["published 25.02-py3-r1, current moved to it: was 25.01-py3-r2", "curator@login1"]
    assert [text for text in wanted if text not in seen] == []


def test_what_is_revoked_says_why_and_is_not_started(shown: Store) -> None:
    for name, said in (
        ("jax", "25.06-r1 is revoked: its cuDNN"),
        ("alphafold", "built on jax 25.06-r1, which is"),
    ):
        seen = of(shown, name)
        assert said in " ".join(seen.text.split())
        assert "enroot start" not in seen.text
    assert "until 2027-01-31: CUDA 12.4; use pytorch-llm" in of(shown).text


def test_the_policy_lets_the_pages_own_script_and_style_run_alone(shown: Store) -> None:
    for seen in (of(shown), of(shown, "vllm")):
        [policy] = [each["content"] for each in seen.all("meta") if each.get("http-equiv")]
        for kind in ("style", "script"):
            digest = base64.b64encode(hashlib.sha256(seen.raw[kind][-1].encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        places = [
            value for _, each in seen.elements for name, value in each.items() if name in ("src", "href")
        ]
        assert [
            place for place in places if not place.startswith(("#", "data:", "../index")) and ":" in place
        ] == []


def evil(store: Store) -> None:
    made = showcase.record("demo", 0, 0)
    result = dataclasses.replace(made.smoke[0], hook=EVIL, reason=EVIL)
    made = dataclasses.replace(
        made,
        description=EVIL,
        maintainer=EVIL,
        base=EVIL,
        built=EVIL,
        env={EVIL: EVIL},
        layers=(dataclasses.replace(made.layers[0], title=EVIL),),
        smoke=(result,),
        packages=(Package(PYTHON, EVIL, EVIL, EVIL),),
    )
    because = Change(history.DEPRECATE, "", until=EVIL, use=EVIL, because=EVIL, who=EVIL, time=EVIL)
    showcase.put(store, dataclasses.replace(made, packages=()), "1", [because])
    showcase.put(store, made, "1", [because])


def test_every_value_is_escaped(store: Store, site: Site, told: list[str]) -> None:
    evil(store)
    page.write(store, site, "demo", told.append)
    for seen, scripts in ((of(store), 2), (of(store, "demo"), 1)):
        assert len(seen.all("script")) == scripts
        assert seen.all("img") == []
        assert [name for _, each in seen.elements for name in each if name.startswith("on")] == []
        assert EVIL in seen.text and "{{7*7}}" in seen.text
    data = json.loads(of(store).raw["script"][0])
    assert EVIL in data["known"]
    assert told == []


def test_a_publish_makes_its_own_page_and_the_table_alone(shown: Store, site: Site, told: list[str]) -> None:
    before = written(shown)
    showcase.put(shown, showcase.record("vllm", 4, 7), "25.09-py3")
    page.write(shown, site, "vllm", told.append)
    after = written(shown)
    assert {name for name in after if after[name] != before[name]} == {"index.html", "vllm/index.html"}
    assert "25.09-py3-r1" in of(shown).text and "25.09-py3-r1" in of(shown, "vllm").text


def test_a_missing_page_and_one_of_another_kiln_are_made_again(
    shown: Store, site: Site, told: list[str]
) -> None:
    (shown.root / "hello" / page.PAGE).unlink()
    old = shown.root / "sglang" / page.PAGE
    old.write_text(old.read_text().replace("Kiln 0.", "Kiln 00."))
    before = written(shown)
    page.write(shown, site, "vllm", told.append)
    made = {name for name, inode in written(shown).items() if before.get(name) != inode}
    assert made == {"index.html", "vllm/index.html", "hello/index.html", "sglang/index.html"}


def test_a_revocation_is_told_on_the_pages_of_what_is_built_on_it(
    store: Store, site: Site, told: list[str]
) -> None:
    parent = showcase.record("parent", 0, 0)
    showcase.put(store, parent, "1")
    child = dataclasses.replace(
        showcase.record("child", 1, 0), base="image:parent:1-r1", base_digest=parent.digest
    )
    showcase.put(store, child, "2")
    grandchild = dataclasses.replace(
        showcase.record("far", 2, 0), base="image:child", base_digest=child.digest
    )
    showcase.put(store, grandchild, "3")
    page.write(store, site, "", told.append)
    assert "revoked" not in of(store, "far").text
    history.add(store, "parent", Change(history.REVOKE, "1-r1", because="broken"))
    publish.refresh_catalog(store, told.append)
    page.write(store, site, "parent", told.append)
    for name in ("child", "far"):
        assert "built on parent 1-r1, which is revoked: broken" in of(store, name).text


DAMAGE: dict[str, Any] = {
    "cut": '{"format": 1, "na',
    "newer": '{"format": 99}',
    "size": {"size": "large"},
    "env": {"env": ["A=1"]},
    "smoke": {"smoke": [{"hook": "x", "args": [], "state": 1, "required": True, "seconds": "long"}]},
    "layers": {"layers": [{"kind": 1}]},
    "packages": {"packages": [7]},
    "package": {"packages": [{"kind": [], "name": {}, "version": 3}]},
    "hardware": {"smoke": [{"hook": "x", "args": [], "state": "passed", "required": True, "seconds": 1,
                            "hardware": {"gpus": [["a"]]}}]},
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_makes_one_version_doubtful(
    shown: Store, site: Site, told: list[str], kind: str
) -> None:
    path = shown.record("vllm", shown.channels("vllm")["current"])
    damage = DAMAGE[kind]
    path.write_text(
        damage if isinstance(damage, str) else json.dumps({**json.loads(path.read_text()), **damage})
    )
    page.write(shown, site, "vllm", told.append)
    assert told == []
    assert "is doubtful" in of(shown, "vllm").text
    for name in shown.names():
        assert f"{name}/index.html" in [each.get("href") for each in of(shown).all("a")]
    # The version before it is told of all the same.
    assert "25.01-py3-r2" in of(shown, "vllm").text and "current" in of(shown, "vllm").text


def test_a_damaged_history_costs_no_page(shown: Store, site: Site, told: list[str]) -> None:
    path = history.path(shown, "vllm")
    path.unlink()
    path.mkdir()
    page.write(shown, site, "vllm", told.append)
    assert told == [] and "25.02-py3-r1" in of(shown, "vllm").text


def test_a_page_that_cannot_be_written_is_told_and_stops_nothing(
    shown: Store, site: Site, told: list[str]
) -> None:
    (shown.root / "vllm" / page.PAGE).unlink()
    (shown.root / "vllm" / page.PAGE / "x").mkdir(parents=True)
    before = written(shown)
    page.write(shown, site, "hello", told.append)
    assert len(told) == 1 and "the page of vllm is not up to date" in told[0]
    assert written(shown)["index.html"] != before["index.html"]


def test_a_full_disk_is_told_and_leaves_the_old_table(
    shown: Store, site: Site, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, mode: int = 0o644) -> None:
        raise SpaceError(f"no space left while writing {path}")

    before = (shown.root / page.PAGE).read_text()
    monkeypatch.setattr(files, "write_atomic", full)
    page.write(shown, site, "hello", told.append)
    assert ["no space left" in text for text in told] == [True, True]
    assert (shown.root / page.PAGE).read_text() == before


def test_what_a_killed_writer_left_goes(shown: Store, site: Site, told: list[str]) -> None:
    left = [shown.root / ".index.html.abc", shown.root / "vllm/.index.html.def"]
    for path in left:
        path.write_text("half")
    page.write(shown, site, "vllm", told.append)
    assert not any(path.exists() for path in left)


def test_an_image_without_versions_has_no_page(shown: Store, site: Site, told: list[str]) -> None:
    for version in shown.versions("hello"):
        shown.image("hello", version).unlink()
    page.write(shown, site, "hello", told.append)
    assert not (shown.root / "hello" / page.PAGE).exists()
    assert "hello/index.html" not in [each.get("href") for each in of(shown).all("a")]


def test_an_empty_store_says_what_to_do(store: Store, site: Site, told: list[str]) -> None:
    store.root.mkdir()
    page.write(store, site, "", told.append)
    assert "invoke build hello" in of(store).text


def test_others_may_read_the_pages_whatever_the_umask(store: Store, site: Site, told: list[str]) -> None:
    before = os.umask(0o077)
    try:
        showcase.put(store, showcase.record("demo", 0, 0), "1")
        page.write(store, site, "demo", told.append)
    finally:
        os.umask(before)
    assert (store.root / page.PAGE).stat().st_mode & 0o777 == 0o644


def test_packages_that_many_images_share_are_listed_once(store: Store, site: Site, told: list[str]) -> None:
    for name in ("a", "b", "c"):
        showcase.put(store, dataclasses.replace(showcase.record("x", 0, 1), name=name), "1")
    page.write(store, site, "", told.append)
    data = json.loads(of(store).raw["script"][0])
    assert data["rows"] == [[0, 1, 2]] and data["known"]["torch"] == {"2.7.0": 0}
