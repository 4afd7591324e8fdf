"""Keys: what makes another layer and what doesn't, and the words for what changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln import manifest, protection
from kiln.errors import ManifestError
from kiln.layercommand import SCRIPTS
from kiln.layers import key
from kiln.layers.key import Key
from kiln.protection import Protection

HEAD = "format: 1\nname: demo\nbase: debootstrap:bookworm\n"
KINDS = {
    "apt": "apt: [git, rolldice=1.16-1]",
    "pip": "pip: {packages: [a, b==2], requirements: [data/needs.txt]}",
    "uv": "uv: {venv: /opt/v, packages: [a]}",
    "copy": "copy: {data: /opt/data}",
    "run": "run: {file: data/setup.sh}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    (made / "data/sub").mkdir(parents=True)
    for name in ("needs.txt", "setup.sh", "sub/deep"):
        (made / "data" / name).write_text("# a file\n")
    return made


def keyed(folder: Path, layer: str, more: str = "", parent: str = "p", architecture: str = "amd64") -> Key:
    """The key of a manifest's only layer."""
    (folder / "demo.yaml").write_text(f"{HEAD}{more}layers:\n  - {layer}\n")
    loaded = manifest.load(folder / "demo.yaml")
    return key.of_layer(loaded.layers[0], parent, loaded.env, loaded.guard, folder, architecture)


# --- what makes another layer ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ("apt: [git]", "apt: [git, vim]", "packages +vim"),
        ("apt: [git, vim]", "apt: [git]", "packages -vim"),
        ("apt: [git, vim]", "apt: [vim, git]", "the order of packages"),
        ("apt: [git=1]", "apt: [git=2]", "packages +git=2 -git=1"),
        ("apt: [bb]", "apt: [aa, cc, dd, ee]", "packages +aa +cc +dd and 2 more"),
        ("apt: [git]", "apt: {packages: [git], recommends: true}", "recommends"),
        ("apt: [git]", "apt: {packages: [git], upgrade: true}", "upgrade"),
        ("pip: [a]", "pip: {packages: [a], upgrade_pip: true}", "upgrade_pip"),
        ("pip: [a]", "pip: {packages: [a], index_url: 'https://x.example/s'}", "index_url"),
        (
            "pip: [a]",
            "pip: {packages: [a], extra_index_urls: ['https://x.example/s']}",
            "extra_index_urls +https://x.example/s",
        ),
        (
            "pip: [a]",
            "pip: {packages: [a], requirements: [data/needs.txt]}",
            "requirements +data/needs.txt, files data/needs.txt",
        ),
        ("uv: [a]", "uv: {packages: [a], venv: /opt/v}", "venv"),
        (
            "uv: {venv: /opt/v, packages: [a]}",
            "uv: {venv: /opt/v, packages: [a], python: python3.12}",
            "python",
        ),
        ("copy: {data: /a}", "copy: {data: /b}", "items"),
        ("copy: {data: /a}", "copy: {from: data, to: /a, mode: '0700'}", "items"),
        ("run: echo a", "run: echo b", "script"),
        (
            "run: echo a",
            "run: {file: data/setup.sh}",
            "script, file, files data/setup.sh",
        ),
    ],
)
def test_what_a_layer_says_is_in_its_key(folder: Path, before: str, now: str, words: str) -> None:
    one, other = keyed(folder, before), keyed(folder, now)
    assert one.digest != other.digest
    assert key.changes(one.inputs, other.inputs) == words


def test_each_kind_has_a_key_of_its_own(folder: Path) -> None:
    assert len({keyed(folder, layer).digest for layer in KINDS.values()}) == len(KINDS)
    one, other = keyed(folder, "pip: [a]"), keyed(folder, "uv: [a]")
    assert key.changes(one.inputs, other.inputs).startswith("kind, Kiln's own way of making it, ")


def _appended(path: Path) -> None:
    path.write_text("# a fill\n")  # of the same size


@pytest.mark.parametrize(
    ("layer", "name", "change"),
    [
        (KINDS["pip"], "data/needs.txt", _appended),
        (KINDS["run"], "data/setup.sh", _appended),
        (KINDS["run"], "data/setup.sh", lambda path: path.chmod(0o755)),
        (KINDS["copy"], "data/sub/deep", _appended),
        (KINDS["copy"], "data/sub/deep", lambda path: path.chmod(0o755)),
        (KINDS["copy"], "data/sub/deep", lambda path: path.rename(path.with_name("other"))),
        (KINDS["copy"], "data/sub", shutil.rmtree),
        (KINDS["copy"], "data/new", lambda path: path.mkdir()),
        (KINDS["copy"], "data/link", lambda path: path.symlink_to("sub")),
    ],
)
def test_files_beside_the_manifest_are_in_the_key(
    folder: Path, layer: str, name: str, change: Callable[[Path], None]
) -> None:
    before = keyed(folder, layer)
    change(folder / name)
    now = keyed(folder, layer)
    assert before.digest != now.digest
    assert key.changes(before.inputs, now.inputs).startswith("files data")


@pytest.mark.parametrize("layer", ["copy: {link: /a}", "run: {file: link}", "pip: {requirements: [link]}"])
def test_a_link_beside_the_manifest_is_what_it_leads_to(folder: Path, layer: str) -> None:
    (folder / "link").symlink_to("data/needs.txt")
    before = keyed(folder, layer)
    (folder / "data/needs.txt").write_text("# another\n")
    assert keyed(folder, layer).digest != before.digest


def test_a_link_to_a_folder_is_what_lies_there(folder: Path) -> None:
    (folder / "link").symlink_to("data")
    before = keyed(folder, "copy: {link: /a}")
    (folder / "data/sub/deep").write_text("# another\n")
    assert keyed(folder, "copy: {link: /a}").digest != before.digest


def test_a_file_that_is_gone_since_the_manifest_was_read(folder: Path) -> None:
    (folder / "demo.yaml").write_text(f"{HEAD}layers:\n  - {KINDS['run']}\n")
    [layer] = manifest.load(folder / "demo.yaml").layers
    (folder / "data/setup.sh").unlink()
    with pytest.raises(ManifestError, match=r"/data/setup\.sh can't be read"):
        key.of_layer(layer, "p", {}, Protection(), folder, "amd64")


def test_what_the_manifest_says_of_the_guard_is_in_the_key(folder: Path) -> None:
    texts = (
        "{protect: [a], allow: [b]}",
        "{allow: [B], protect: [A]}",
        "{protect: [a]}",
        "{allow: [b]}",
        "{}",
    )
    keys = [keyed(folder, "run: echo a", f"guard: {text}\n") for text in texts]
    said = [key.changes(keys[0].inputs, other.inputs) for other in keys]
    assert said == ["", "", "guard allow", "guard protect", "guard protect allow"]
    assert len({each.digest for each in keys}) == 4
    assert keys[-1] == keyed(folder, "run: echo a")


def test_another_list_of_protected_packages_makes_all_layers_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keyed(folder, "run: echo a")
    monkeypatch.setattr(protection, "FORMAT", protection.FORMAT + 1)
    now = keyed(folder, "run: echo a")
    assert before.digest != now.digest
    assert key.changes(before.inputs, now.inputs) == "guard format"


def test_the_environment_and_its_order_are_in_the_key(folder: Path) -> None:
    layer = "run: echo a"
    texts = ("{A: '1', B: '2'}", "{B: '2', A: '1'}", "{A: '1', B: '3'}", "{A: '1'}", "{}")
    keys = [keyed(folder, layer, f"env: {text}\n") for text in texts]
    digests = {each.digest for each in keys}
    assert len(digests) == 5
    said = [key.changes(keys[0].inputs, other.inputs) for other in keys]
    assert said == ["", "the order of env", "env B", "env B", "env A B"]


def test_parent_and_architecture_are_in_the_key(folder: Path) -> None:
    before = keyed(folder, "run: echo a")
    above, arm = keyed(folder, "run: echo a", parent="q"), keyed(folder, "run: echo a", architecture="arm64")
    assert len({before.digest, above.digest, arm.digest}) == 3
    # What lies below is said in other words.
    assert key.changes(before.inputs, above.inputs) == ""
    assert key.changes(before.inputs, arm.inputs) == "architecture"


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("script", ["rc", "layer.sh", "own"])
def test_kilns_own_scripts_are_in_the_key(
    folder: Path, tmp_path: Path, kind: str, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    monkeypatch.setattr("kiln.layers.key.SCRIPTS", tmp_path / "scripts")
    before = keyed(folder, KINDS[kind])
    name = f"{kind}.sh" if script == "own" else script
    (tmp_path / "scripts" / name).open("a").write("# a line\n")
    now = keyed(folder, KINDS[kind])
    assert (before.digest == now.digest) is (name == "run.sh")  # a run layer has no script of Kiln's own
    assert key.changes(before.inputs, now.inputs) == (
        "" if name == "run.sh" else "Kiln's own way of making it"
    )


# --- what doesn't ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "same"),
    [
        ("apt: [git]", "apt: {packages: [git], timeout: 3s}"),
        ("apt: [git]", "apt: {packages: [git], upgrade: false}"),
        ("run: echo a", "run: {script: echo a, timeout: 2h}"),
        ("copy: {data: /a}", "copy: [{from: data, to: /a}]"),
        ("uv: [a]", "uv: {timeout: 20, packages: [a], python: python3}"),
    ],
)
def test_what_makes_no_other_layer(folder: Path, layer: str, same: str) -> None:
    assert keyed(folder, layer) == keyed(folder, same)


def test_what_the_manifest_says_elsewhere_makes_no_other_layer(folder: Path, tmp_path: Path) -> None:
    more = f"description: x\nworkdir: /w\ncommand: [a]\nfstab: [a b]\nmounts: ['{tmp_path}:/m']\nsmoke: [x]\n"
    assert keyed(folder, "run: echo a", more) == keyed(folder, "run: echo a")


def test_the_place_and_age_of_the_checkout_make_no_other_layer(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere/manifests")
    os.utime(tmp_path / "elsewhere/manifests/data/sub/deep", (0, 0))
    for layer in KINDS.values():
        assert keyed(folder, layer) == keyed(tmp_path / "elsewhere/manifests", layer)


# --- inputs as they are remembered -------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_remembered_is_what_is_made(folder: Path, kind: str) -> None:
    made = keyed(folder, KINDS[kind], "env: {A: '1', B: ü}\n")
    again = json.loads(json.dumps(made.inputs))
    assert again == made.inputs
    assert key.of(again).digest == made.digest
    assert key.changes(again, made.inputs) == ""


def test_the_key_of_a_base_has_its_digest_and_what_unpacked_it() -> None:
    made = key.of_base("sha256:1", "enroot")
    assert (
        len({made.digest, key.of_base("sha256:2", "enroot").digest, key.of_base("sha256:1", "kiln").digest})
        == 3
    )
    assert key.changes(made.inputs, key.of_base("sha256:2", "enroot").inputs) == "base"


WORDS = st.text("ab", min_size=1, max_size=3)
PLAIN = st.none() | st.booleans() | WORDS | st.lists(WORDS, max_size=4)
VALUES = PLAIN | st.dictionaries(WORDS, PLAIN, max_size=3) | st.lists(PLAIN, max_size=3)
NAMES = st.sampled_from(["env", "files", "packages", "script", "tool", "kind", "items"])
INPUTS = st.dictionaries(NAMES, VALUES, max_size=4)
ENVIRONMENTS = st.lists(st.tuples(WORDS, WORDS).map(list), max_size=3)


@given(INPUTS, INPUTS)
def test_changes_are_said_where_there_are_any(before: dict[str, object], now: dict[str, object]) -> None:
    assert key.changes(now, now) == ""
    said = key.changes(before, now)
    assert (said == "") is (before == now)
    assert said == said.strip()


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_changes_of_an_environment_are_said(before: list[list[str]], now: list[list[str]]) -> None:
    said = key.changes({"env": before}, {"env": now})
    assert (said == "") is (before == now)


# --- pinned ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "pinned"),
    [
        ("apt: [git=1:2.39]", True),
        ("apt: [git=1, vim]", False),
        ("apt: {upgrade: true}", False),
        ("apt: {packages: [git=1], upgrade: true}", False),
        ("pip: [a==1, 'b[x]===2', 'c @ https://x.example/c.whl']", True),
        ("pip: ['c@https://x.example/c.whl']", True),
        ("pip: [a]", False),
        ("pip: ['a>=1']", False),
        ("pip: ['a~=1.1']", False),
        ("pip: ['a==1.*']", False),
        ("pip: ['a==1.*, ==1.2']", True),
        ("pip: ['a; python_version == \"3.10\"']", False),
        ("pip: {packages: [a==1], upgrade_pip: true}", False),
        ("pip: {packages: [a==1], requirements: [data/needs.txt]}", False),
        ("uv: [a==1]", True),
        ("uv: {packages: [a]}", False),
        ("uv: {venv: /opt/v}", True),
        ("copy: {data: /a}", True),
        ("run: date > /now", True),
    ],
)
def test_a_layer_that_says_exactly_what_it_installs_is_pinned(folder: Path, layer: str, pinned: bool) -> None:
    (folder / "demo.yaml").write_text(f"{HEAD}layers:\n  - {layer}\n")
    [loaded] = manifest.load(folder / "demo.yaml").layers
    assert key.pinned(loaded) is pinned


# --- images ------------------------------------------------------------------------------------


def imaged(folder: Path, text: str = "", epoch: int = 1, packing: tuple[str, ...] = ("-x",)) -> Key:
    (folder / "demo.yaml").write_text(HEAD + text)
    return key.of_image("top", manifest.load(folder / "demo.yaml"), epoch, packing, folder / "hooks")


def test_everything_that_is_declared_packed_or_tested_is_in_the_key_of_an_image(folder: Path) -> None:
    (folder / "hooks").mkdir()
    (folder / "hooks/try").write_text("old")
    texts = (
        "",
        "env: {A: '1', B: '2'}\n",
        "env: {B: '2', A: '1'}\n",
        "workdir: /w\n",
        "command: [a]\n",
        "entrypoint: [a]\n",
        "fstab: [a b]\n",
        "description: x\n",
        "maintainer: x\n",
        "smoke: [try]\n",
        "smoke: [{try: [a]}]\n",
        "smoke: [{hook: try, required: false}]\n",
    )
    digests = [imaged(folder, text).digest for text in texts]
    digests += [imaged(folder, epoch=2).digest, imaged(folder, packing=()).digest]
    (folder / "hooks/try").write_text("new")
    digests.append(imaged(folder, "smoke: [try]\n").digest)
    assert len(set(digests)) == len(digests)
    assert imaged(folder) == imaged(folder)
