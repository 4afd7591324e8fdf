"""Locks as files: the same text for the same lock, hand edits with their places, words for what changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kiln import locked, lockfile, manifest
from kiln.document import Mistake
from kiln.errors import LockError
from kiln.locked import Lock, Locked, LockedBase, LockedLayer
from kiln.manifest import Manifest

A, B, C = ("0" * 63 + each for each in "abc")
MIRROR = "http://deb.example/debian/pool/main"
ROLLDICE = Locked("rolldice", "1.16-1+b3", "amd64", 13772, A, f"{MIRROR}/r/rolldice_1.16-1+b3_amd64.deb")
HUMANIZE = Locked("humanize", "4.16.0", "wheel", 136487, B, "https://index.example/humanize-4.16.0-any.whl")
LAYERS = (
    "apt: [rolldice]",
    "pip: {packages: [humanize], requirements: [data/needs.txt]}",
    "copy: {data/greet: /usr/bin/greet}",
    "run: echo hello",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    (made / "data").mkdir(parents=True)
    for name in ("needs.txt", "greet"):
        (made / "data" / name).write_text("humanize\n")
    return made


def loaded(folder: Path, *layers: str, base: str = "debootstrap:bookworm", env: str = "{A: '1'}") -> Manifest:
    lines = [f"format: 1\nname: demo\nbase: {base}\nenv: {env}\nlayers:", *(f"  - {each}" for each in layers)]
    (folder / "demo.yaml").write_text("\n".join(lines) + "\n")
    return manifest.load(folder / "demo.yaml")


def lock_of(folder: Path, made: Manifest) -> Lock:
    """A lock as `invoke lock` would write it."""
    packages = {"apt": (ROLLDICE,), "pip": (HUMANIZE,)}
    layers = tuple(
        LockedLayer(number, each.kind, locked.layer_inputs(each, made.folder), packages.get(each.kind, ()))
        for number, each in enumerate(made.layers, 1)
    )
    sources = (f"deb {MIRROR} bookworm main",)
    base = LockedBase(made.base.text, made.base.label, f"sha256:{A}", f"sha256:{B}", 1_700_000_000, sources)
    return Lock(
        folder / "demo.lock", "demo", "amd64", locked.environment(made), locked.guarded(made), base, layers
    )


@pytest.fixture
def lock(folder: Path) -> Lock:
    made = lock_of(folder, loaded(folder, *LAYERS))
    lockfile.write(made)
    return made


# --- the file ----------------------------------------------------------------------------------


def test_what_is_written_is_read_again(folder: Path, lock: Lock) -> None:
    again = lockfile.load(folder, "demo")
    assert again == lock
    assert again and lockfile.render(again) == lock.path.read_text()
    locked.require(again, loaded(folder, *LAYERS), "amd64")


def test_there_need_not_be_a_lock(folder: Path) -> None:
    assert lockfile.load(folder, "demo") is None


def test_a_lock_is_yaml_with_a_package_a_line(lock: Lock) -> None:
    text = lock.path.read_text()
    plain = yaml.safe_load(text)
    assert plain["layers"][0]["locked"] == [ROLLDICE.text]
    assert [line.strip(" -") for line in text.splitlines() if "rolldice_" in line] == [ROLLDICE.text]
    assert max(map(len, text.splitlines())) < 250


def test_packages_know_their_lines(folder: Path, lock: Lock) -> None:
    again = lockfile.load(folder, "demo")
    assert again
    [package] = again.layers[1].locked
    assert lock.path.read_text().splitlines()[package.line - 1].endswith(HUMANIZE.url)
    assert again.place(package).endswith(f"demo.lock:{package.line}")


@pytest.mark.parametrize(
    ("before", "now", "place"),
    [
        ("rolldice 1.16-1+b3", "rolldice 1.16-2", "layer 1 (apt)"),
        (A + " http", C + " http", "layer 1 (apt)"),
        ("humanize 4.16.0", "humanize 4.16.1", "layer 2 (pip)"),
        ("136487", "136488", "layer 2 (pip)"),
        (f"digest: sha256:{A}", f"digest: sha256:{C}", "the base"),
        ("epoch: 1700000000", "epoch: 1700000001", "the base"),
        ('A: "1"', 'A: "2"', "a line before 'base:'"),
        ("number: 1", "number: 2", "layer 1 (apt)"),
    ],
)
def test_a_change_by_hand_is_refused_with_its_place(lock: Lock, before: str, now: str, place: str) -> None:
    text = lock.path.read_text()
    assert before in text
    lock.path.write_text(text.replace(before, now, 1))
    with pytest.raises(LockError, match=r"demo\.lock was changed by hand") as caught:
        lockfile.load(lock.path.parent, "demo")
    [detail] = caught.value.details
    assert f": {place}" in detail
    assert "invoke lock demo" in caught.value.hint
    line = int(detail.split("demo.lock:")[1].split(":")[0])
    assert abs(line - text[: text.index(before)].count("\n")) < 14


def test_layers_in_another_order_are_refused(lock: Lock) -> None:
    text = lock.path.read_text()
    head, *blocks = text.split("  - number")
    lock.path.write_text("  - number".join([head, blocks[1], blocks[0], *blocks[2:]]))
    with pytest.raises(LockError, match="by hand"):
        lockfile.load(lock.path.parent, "demo")


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ("format: 1", "format: 2", "format 2 is for a newer Kiln; this one reads 1; update Kiln"),
        ("name: demo", "nome: demo", "unknown key 'nome'"),
        ("    locked:\n", "    locked: x\n", ""),
        (" 13772 ", " many ", "a size in bytes"),
        (f"{A} http://deb", f"{A} http://me:secret@deb", "without a login"),
        ("deb http://deb", "deb http://me:secret@deb", "has an address with a login"),
        ("https://index", "git+https://index", "without a login"),
        ("rolldice 1.16", "--rolldice 1.16", "is not a package"),
        ("sha256:", "sha1:", "64 hexadecimal digits"),
        ("layers:", "<<<<<<< HEAD\nlayers:", ""),
    ],
)
def test_what_is_no_lock_is_refused_with_its_line(lock: Lock, before: str, now: str, words: str) -> None:
    lock.path.write_text(lock.path.read_text().replace(before, now, 1))
    with pytest.raises(LockError) as caught:
        lockfile.load(lock.path.parent, "demo")
    said = "\n".join([caught.value.message, *caught.value.details])
    assert "demo.lock:" in said
    assert words in said
    assert caught.value.exit_code == 14
    assert "secret" not in caught.value.message


def test_a_lock_under_another_name_is_refused(folder: Path, lock: Lock) -> None:
    (folder / "other.lock").write_text(lock.path.read_text())
    with pytest.raises(LockError, match="by hand"):
        lockfile.load(folder, "other")


@pytest.mark.parametrize("text", ["", "a b", "a 1 wheel 1 sha256:x http://x", f"a 1 w 1 sha256:{A} ftp://x"])
def test_a_line_that_is_no_package_is_a_mistake(text: str) -> None:
    with pytest.raises(Mistake):
        lockfile.parse_line(text)


def test_a_line_is_read_as_it_was_written() -> None:
    for package in (ROLLDICE, HUMANIZE):
        assert lockfile.parse_line(package.text) == package


KEYS = st.text("abcdefgnoyu", min_size=1, max_size=4)
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12) | st.text(
    "äß✓", max_size=4
)
VALUES = TEXTS | st.booleans() | st.lists(TEXTS | st.dictionaries(KEYS, TEXTS), max_size=3)


@given(st.dictionaries(KEYS, VALUES | st.dictionaries(TEXTS.filter(bool), TEXTS), max_size=4))
def test_whatever_a_manifest_says_is_read_again(tmp_path_factory: Any, values: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("lock")
    base = LockedBase("debootstrap:x", "x", f"sha256:{A}", f"sha256:{A}", 0)
    env = {name: value for name, value in values.items() if isinstance(value, str)}
    made = Lock(folder / "x.lock", "x", "amd64", env, {}, base, (LockedLayer(1, "copy", values),))
    lockfile.write(made)
    assert lockfile.load(folder, "x") == made


# --- the manifest ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (("apt: [rolldice, git]", *LAYERS[1:]), ["layer 1 (apt): packages +git"]),
        (("apt: [git]", *LAYERS[1:]), ["layer 1 (apt): packages +git -rolldice"]),
        (("apt: {packages: [rolldice], upgrade: true}", *LAYERS[1:]), ["layer 1 (apt): upgrade"]),
        (LAYERS[1:], ["layer 1 of the lock (apt) is gone"]),
        ((*LAYERS, "uv: [a]"), ["layer 5 (uv) is new"]),
        ((*LAYERS[:3], "run: echo goodbye"), ["layer 4 (run): script"]),
        (
            (LAYERS[0], "pip: {packages: [humanize]}", *LAYERS[2:]),
            ["layer 2 (pip): requirements -data/needs.txt, files data/needs.txt"],
        ),
        (("uv: [rolldice]", *LAYERS[1:]), ["layer 1 (apt) is now uv"]),
        (("apt: {packages: [rolldice], timeout: 3s}", *LAYERS[1:]), []),
    ],
)
def test_what_changed_in_the_manifest_is_said(
    folder: Path, lock: Lock, layers: tuple[str, ...], words: list[str]
) -> None:
    assert locked.changes(lock, loaded(folder, *layers), "amd64") == words


def test_a_change_of_base_env_or_architecture_is_said(folder: Path, lock: Lock) -> None:
    assert locked.changes(lock, loaded(folder, *LAYERS, base="debootstrap:trixie"), "amd64") == [
        "base debootstrap:bookworm is now debootstrap:trixie"
    ]
    assert locked.changes(lock, loaded(folder, *LAYERS, env="{A: '2', B: x}"), "amd64") == ["env A B"]
    text = (folder / "demo.yaml").read_text()
    (folder / "demo.yaml").write_text(text + "guard: {allow: [torch]}\n")
    assert locked.changes(lock, manifest.load(folder / "demo.yaml"), "amd64") == ["env A B", "guard allow"]
    assert locked.changes(lock, loaded(folder, *LAYERS), "arm64") == ["architecture amd64 is now arm64"]


@pytest.mark.parametrize(
    ("name", "layer"), [("data/greet", "layer 3 (copy)"), ("data/needs.txt", "layer 2 (pip)")]
)
def test_a_changed_file_is_named(folder: Path, lock: Lock, name: str, layer: str) -> None:
    (folder / name).write_text("other\n")
    assert locked.changes(lock, loaded(folder, *LAYERS), "amd64") == [f"{layer}: files {name}"]


def test_a_lock_that_no_longer_matches_is_refused_with_the_command(folder: Path, lock: Lock) -> None:
    changed = loaded(folder, "apt: [git]", *LAYERS[1:], base="debootstrap:trixie")
    with pytest.raises(
        LockError, match=r"demo\.lock no longer matches demo\.yaml: base .* is now .*trixie"
    ) as caught:
        locked.require(lock, changed, "amd64")
    assert caught.value.hint == "run: invoke lock demo"
    assert caught.value.details == ("layer 1 (apt): packages +git -rolldice",)


def test_logins_of_the_manifests_variables_stay_out(folder: Path) -> None:
    made = loaded(folder, *LAYERS, env="{PIP_INDEX_URL: 'https://me:secret@index.example/simple'}")
    text = lockfile.render(lock_of(folder, made))
    assert "secret" not in text
    assert "https://index.example/simple" in text


def test_where_a_package_comes_from_decides_nothing() -> None:
    elsewhere = dataclasses.replace(HUMANIZE, url="https://other.example/humanize.whl", line=9)
    assert elsewhere.identity == HUMANIZE.identity
    assert dataclasses.replace(HUMANIZE, sha256=C).identity != HUMANIZE.identity


@pytest.mark.parametrize("login", ["me", "me:pa55", "me:p%40ss", "me:p@ss@word", ":", ""])
def test_an_address_loses_all_of_its_login(login: str) -> None:
    assert locked.without_login(f"deb http://{login}@x.example/a@b main") == "deb http://x.example/a@b main"
    assert locked.without_login("https://x.example/a@b?c=//d@e#f@g").startswith("https://x.example/a@b?c=//")


def test_layers_without_packages_of_their_own_have_nothing_locked(lock: Lock) -> None:
    assert [lock.of(number) for number in (1, 2, 3, 4)] == [(ROLLDICE,), (HUMANIZE,), None, None]
    assert lock.inputs_of(1) == {"rolldice 1.16-1+b3 amd64": f"sha256:{A}"}
    assert lock.inputs_of(4) is None
