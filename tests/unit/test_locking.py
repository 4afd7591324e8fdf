"""Making locks: what of an earlier lock is kept, what is refused, and a lock in a build."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from kiln import build, debootstrap, locked, lockfile, locking, lockuse, ui
from kiln.context import Context, open_context
from kiln.errors import BaseError, LockError, UsageError
from kiln.locked import WHEEL, Lock, Locked, LockedBase, LockedLayer
from kiln.locking import Update, Work
from kiln.manifest import Manifest
from kiln.order import Options

A, B = ("0" * 63 + each for each in "ab")
PYPI = "https://files.example/p"
SOURCES = (
    "deb http://deb.debian.org/debian bookworm main",
    "deb http://deb.debian.org/debian-security bookworm-security main",
)


def package(name: str, version: str = "1.0", place: str = WHEEL) -> Locked:
    sha256 = hashlib.sha256(f"{name} {version}".encode()).hexdigest()
    return Locked(name, version, place, 10, sha256, f"{PYPI}/{name}-{version}-py3-none-any.whl")


# --- what is kept ------------------------------------------------------------------------------


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "hooks").mkdir()
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites/local.yaml").write_text("format: 1\nname: local\nimages: ./images\ncache: ./cache\n")
    return open_context(tmp_path, None, None, {"HOME": str(tmp_path)}, ui.Ui())


def loaded(context: Context, *layers: str, env: str = "{}", base: str = "debootstrap:bookworm") -> Manifest:
    head = f"format: 1\nname: demo\nbase: {base}\nenv: {env}\nlayers:\n"
    text = head + "".join(f"  - {each}\n" for each in layers)
    (context.manifests / "demo.yaml").write_text(text)
    return context.load("demo")


def lock_of(context: Context, made: Manifest, base: LockedBase | None = None) -> Lock:
    packages: dict[str, tuple[Locked, ...]] = {
        "apt": (package("rolldice", place="amd64"),),
        "pip": (package("a"), package("b")),
        "uv": (package("c"),),
    }
    layers = tuple(
        LockedLayer(number, each.kind, locked.layer_inputs(each, made.folder), packages.get(each.kind, ()))
        for number, each in enumerate(made.layers, 1)
    )
    found = LockedBase("debootstrap:bookworm", "bookworm", f"sha256:{A}", f"sha256:{A}", 1, SOURCES)
    path = lockfile.path_of(context.manifests, "demo")
    return Lock(path, "demo", "amd64", locked.environment(made), locked.guarded(made), base or found, layers)


LAYERS = ("apt: [rolldice]", "run: echo", "pip: [a]", "uv: {venv: /opt/v, packages: [c]}")


@pytest.mark.parametrize(
    ("layers", "what", "kept"),
    [
        (LAYERS, (), [1, 3, 4]),
        # A run layer is not run to lock.
        ((LAYERS[0], *LAYERS[2:]), (), [1, 2, 3]),
        ((LAYERS[0], "run: echo b", *LAYERS[2:]), (), [1, 3, 4]),
        # What lies above a change is asked for again.
        (("apt: [git]", *LAYERS[1:]), (), []),
        ((*LAYERS[:2], "pip: [a, b]", LAYERS[3]), (), [1]),
        (LAYERS, ("apt",), []),
        (LAYERS, ("pip",), [1]),
        (LAYERS, ("b",), [1]),
        (LAYERS, ("c",), [1, 3]),
        (LAYERS, ("rolldice",), []),
    ],
)
def test_layers_stay_as_they_were_up_to_the_first_change(
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    layers: tuple[str, ...],
    what: tuple[str, ...],
    kept: list[int],
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    before = lock_of(context, loaded(context, *LAYERS))
    assert sorted(locking._kept(context, loaded(context, *layers), before, Update(what))) == kept


def test_another_variable_or_machine_keeps_nothing(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    before = lock_of(context, loaded(context, *LAYERS))
    assert locking._kept(context, loaded(context, *LAYERS, env="{A: b}"), before, Update()) == {}
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert locking._kept(context, loaded(context, *LAYERS), before, Update()) == {}


def test_a_layer_that_is_asked_for_again_prefers_the_versions_it_had(context: Context) -> None:
    made = loaded(context, *LAYERS)
    before = lock_of(context, made)

    def names(what: tuple[str, ...]) -> list[str]:
        work = Work(context, made, before, Update(what), before.base, {})
        return [each.name for each in work.question(3, made.layers[2]).kept]

    assert (names(()), names(("b",)), names(("pip",))) == (["a", "b"], ["a"], [])
    # apt knows only what its mirrors have now.
    work = Work(context, made, before, Update(), before.base, {})
    assert work.question(1, made.layers[0]).kept == ()


def test_layers_of_one_environment_lie_on_each_other(context: Context) -> None:
    layers = ("pip: [a]", "uv: [b]", "uv: {venv: /opt/v, packages: [c]}", "pip: [d]", "apt: [git]")
    made = loaded(context, *layers)
    work = Work(context, made, None, Update(), LockedBase("x", "x", "", "", 0), {})
    for number, layer in work.numbered():
        below = [each.name for each in work.question(number, layer).below]
        assert below == {2: ["p1"], 4: ["p1", "p2"]}.get(number, []), number
        work.resolved(number, layer, [package(f"p{number}")])
    assert [each.number for each in work.lock.layers] == [1, 2, 3, 4, 5]


def test_what_is_to_be_updated_must_be_there(context: Context) -> None:
    before = lock_of(context, loaded(context, *LAYERS))
    for what in ("base", "apt", "pip", "rolldice", "c"):
        locking._refuse_unknown(Update((what,)), before, "demo")
    assert locking._named(" Torch_Vision ", before) == "torch-vision"
    assert locking._named("rolldice", before) == "rolldice"
    with pytest.raises(UsageError, match="'torch' is not in the lock of demo"):
        locking._refuse_unknown(Update(("torch",)), before, "demo")


def test_a_lock_that_needs_no_question_is_made_without_a_tree(context: Context) -> None:
    (context.manifests / "data").write_text("1")
    (context.manifests / "base").mkdir()
    lock = lock_of(context, loaded(context, "copy: {data: /data}", *LAYERS))
    lock = dataclasses.replace(lock, architecture=context.architecture)
    lockfile.write(lock)
    made, changed = locking.lock(context, "demo", [], "")
    assert (made, changed) == (lock, [])
    # Another script asks nobody.
    loaded(context, "copy: {data: /data}", LAYERS[0], "run: echo other", *LAYERS[2:])
    made, changed = locking.lock(context, "demo", [""], "")
    assert changed == []
    assert made.made_from != lock.made_from
    assert lockfile.load(context.manifests, "demo") == made


def test_differences_of_locks_are_a_line_a_package(context: Context) -> None:
    before = lock_of(context, loaded(context, *LAYERS))
    other = dataclasses.replace(before.base, digest=f"sha256:{B}")
    packages = (package("b", "2.0"), package("new"))
    layers = (*before.layers[:2], dataclasses.replace(before.layers[2], locked=packages), *before.layers[3:])
    now = dataclasses.replace(before, base=other, layers=layers)
    assert locking.differences(before, now) == [
        f"base sha256:{A} -> sha256:{B}",
        "- a 1.0",
        "  b 1.0 -> 2.0",
        "+ new 1.0",
    ]
    assert locking.differences(None, before)[0] == "+ a 1.0"
    assert locking.differences(before, before) == []


def test_a_password_of_the_site_never_gets_into_a_lock(tmp_path: Path, context: Context) -> None:
    (tmp_path / "sites/local.yaml").write_text(
        "format: 1\nname: local\nimages: ./images\ncache: ./cache\n"
        "indexes: {pip: 'https://me:sesame@index.example/simple'}\n"
    )
    again = open_context(tmp_path, None, None, {"HOME": str(tmp_path)}, ui.Ui())
    made = lock_of(again, loaded(again, *LAYERS))
    locking._refuse_secrets(made, again)
    signed = dataclasses.replace(package("a"), url="https://index.example/a-1.0.whl?token=sesame")
    layers = (*made.layers[:2], dataclasses.replace(made.layers[2], locked=(signed,)), *made.layers[3:])
    with pytest.raises(LockError, match=r"line \d+ of the lock would hold a password") as caught:
        locking._refuse_secrets(dataclasses.replace(made, layers=layers), again)
    assert "sesame" not in caught.value.message


# --- a lock in a build -------------------------------------------------------------------------


def test_a_lock_is_demanded_only_by_who_asks_for_one(context: Context) -> None:
    made = loaded(context, *LAYERS)
    assert lockuse.in_force(context, made, demanded=False) is None
    with pytest.raises(LockError, match="demo has no lock") as caught:
        lockuse.in_force(context, made, demanded=True)
    assert caught.value.hint == "make one: invoke lock demo"


def test_a_lock_that_does_not_fit_stops_a_build(context: Context) -> None:
    lock = dataclasses.replace(lock_of(context, loaded(context, *LAYERS)), architecture=context.architecture)
    lockfile.write(lock)
    assert lockuse.in_force(context, loaded(context, *LAYERS), demanded=True) == lock
    with pytest.raises(
        LockError, match=r"demo\.lock no longer matches demo\.yaml: layer 1 \(apt\): packages"
    ):
        lockuse.in_force(context, loaded(context, "apt: [git]", *LAYERS[1:]), demanded=False)


def test_a_locked_mirror_is_asked_for_nothing(context: Context) -> None:
    made = loaded(context, *LAYERS)
    lock = lock_of(context, made)
    found = lockuse.find_base(context, made, lock)
    assert (found.digest, found.epoch, found.label) == (f"sha256:{A}", 1, "bookworm")
    assert found.suite
    assert found.suite.public_sources == SOURCES


def test_a_site_reaches_a_locked_suite_by_its_own_mirror() -> None:
    mirror = "http://me:secret@mirror.example/debian"
    suite = debootstrap.pinned("bookworm", SOURCES, f"sha256:{A}", 1, {"debian": mirror})
    assert suite.sources[1] == f"deb {mirror}-security bookworm-security main"
    assert suite.public_sources == SOURCES
    with pytest.raises(BaseError, match="on a mirror that this Kiln doesn't know"):
        debootstrap.pinned("x", ("deb http://x.example/d x main",), f"sha256:{A}", 1, {})


def test_a_base_that_is_another_now_is_refused(context: Context, image: Path) -> None:
    os.link(image, context.manifests / "base.sqsh")
    made = loaded(context, *LAYERS, base="sqsh:base.sqsh")
    found = context.finder().find(made.base)
    base = LockedBase(made.base.text, found.label, found.digest, found.platform_digest, found.epoch)
    lock = lock_of(context, made, base)
    assert lockuse.find_base(context, made, lock) == found
    other = lock_of(context, made, dataclasses.replace(base, digest=f"sha256:{A}"))
    with pytest.raises(LockError, match=r"the base sqsh:base\.sqsh is no longer what was locked") as caught:
        lockuse.find_base(context, made, other)
    assert "invoke lock demo --update base" in caught.value.hint


def plan_inputs(context: Context, lock: Lock | None, made: Manifest) -> list[Any]:
    found = lockuse.find_base(context, made, lock_of(context, made))
    planned = build.planned(context, made, found, Options("embedded"), lock)
    return [item.wanted for item in planned.layers]


def test_locked_versions_are_in_the_keys_of_their_layers_and_nothing_else_is(context: Context) -> None:
    made = loaded(context, *LAYERS)
    lock = lock_of(context, made)
    plain_keys, locked_keys = (plan_inputs(context, each, made) for each in (None, lock))
    assert all("locked" not in each.key.inputs for each in plain_keys)
    assert [("locked" in each.key.inputs) for each in locked_keys] == [True, False, True, True]
    assert all(each.pinned for each in locked_keys)
    # Another address makes no other layer, other bytes do.
    for change, same in (({"url": "https://other.example/c.whl"}, True), ({"sha256": B}, False)):
        other = dataclasses.replace(lock.layers[3].locked[0], **change)  # type: ignore[arg-type]
        layers = (*lock.layers[:3], dataclasses.replace(lock.layers[3], locked=(other,)))
        again = plan_inputs(context, dataclasses.replace(lock, layers=layers), made)
        assert (again[3].key.digest == locked_keys[3].key.digest) is same
        assert again[2].key.digest == locked_keys[2].key.digest
