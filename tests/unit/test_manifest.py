"""Manifests: what is taken, what a person is told, what ships."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent, indent

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kiln import manifest
from kiln.document import schema
from kiln.errors import ManifestError, UsageError
from kiln.manifest import (
    Manifest,
    Mount,
    SmokeTest,
)
from kiln.reference import reference

ROOT = Path(__file__).resolve().parents[2]
HOOKS = ("gpu-visible", "nccl-init", "torch-cuda", "fp8", "ddp", "python-imports", "commands")
HEAD = "format: 1\nname: x\nbase: debian:12\n"


def load(folder: Path, text: str, head: str = HEAD) -> Manifest:
    path = folder / "manifests/x.yaml"
    path.parent.mkdir(exist_ok=True)
    (path.parent / "greet.py").touch()
    (path.parent / "data").mkdir(exist_ok=True)
    path.write_text(head + text)
    return manifest.load(path, HOOKS)


def told(folder: Path, text: str, head: str = HEAD) -> list[str]:
    """The words of each mistake, without its place."""
    with pytest.raises(ManifestError) as caught:
        load(folder, text, head)
    found = (re.match(r"\S*x\.yaml:\d+:\d+: (.*)", line) for line in caught.value.details)
    return [match[1] for match in found if match]


# --- what is taken -----------------------------------------------------------------------------


def test_the_least_there_can_be(tmp_path: Path) -> None:
    found = load(tmp_path, "")
    assert (found.name, found.layers, found.smoke, dict(found.env)) == ("x", (), (), {})
    assert (found.workdir, found.entrypoint, found.command) == (None, None, None)
    assert found.folder == tmp_path / "manifests"


def test_everything_that_stays_in_the_image(tmp_path: Path) -> None:
    text = """\
        env: {A: "1", PATH: "/opt/bin:${PATH}"}
        workdir: /work
        entrypoint: [/bin/tini, --]
        command: [bash, -l]
        fstab: [tmpfs /scratch tmpfs x-create=dir]
        mounts: [/data/wheels:/mnt/wheels, "/a b:/b:rw"]
        """
    found = load(tmp_path, dedent(text))
    assert dict(found.env) == {"A": "1", "PATH": "/opt/bin:${PATH}"}
    assert (found.workdir, found.entrypoint) == ("/work", ("/bin/tini", "--"))
    assert found.command == ("bash", "-l")
    assert found.fstab == ("tmpfs /scratch tmpfs x-create=dir",)
    assert found.mounts == (
        Mount(Path("/data/wheels"), "/mnt/wheels", read_only=True),
        Mount(Path("/a b"), "/b", read_only=False),
    )


def test_smoke_hooks(tmp_path: Path) -> None:
    text = """\
        smoke:
          - gpu-visible
          - nccl-init: --net-ib
          - commands: [rolldice 1d6, git --version]
          - {hook: ddp, args: --nproc, required: false, timeout: 2m}
        """
    assert load(tmp_path, dedent(text)).smoke == (
        SmokeTest(hook="gpu-visible"),
        SmokeTest(hook="nccl-init", args=("--net-ib",)),
        SmokeTest(hook="commands", args=("rolldice 1d6", "git --version")),
        SmokeTest(hook="ddp", args=("--nproc",), required=False, timeout=120),
    )


# --- what a person is told ---------------------------------------------------------------------


TEN_MISTAKES = """\
format: 1
name: y
base: nvcr.io/nvidia/pytorch
env: {VERSION: 24.10}
layers:
  - apt:
      pakages: [git, "vim; reboot"]
  - copy: {great.py: bin/greet}
  - run: ""
  - pip: [-r a.txt]
smoke: [gpu-visble]
"""

TOLD_OF_THEM = """\
manifests/x.yaml:2:7: the name 'y' differs from the file's; write x, or rename the file
  2 | name: y
    |       ^
manifests/x.yaml:3:7: 'nvcr.io/nvidia/pytorch' has no tag; name a tag or digest: 'latest' moves
  3 | base: nvcr.io/nvidia/pytorch
    |       ^^^^^^^^^^^^^^^^^^^^^^
manifests/x.yaml:4:16: 24.10 is read as the number 24.1, not as text; quote it: '24.10'
  4 | env: {VERSION: 24.10}
    |                ^^^^^
manifests/x.yaml:7:7: unknown key 'pakages'; did you mean 'packages'?
  7 |       pakages: [git, "vim; reboot"]
    |       ^^^^^^^
manifests/x.yaml:7:22: 'vim; reboot' is not a package name; write NAME, NAME:ARCH or NAME=VERSION
  7 |       pakages: [git, "vim; reboot"]
    |                      ^^^^^^^^^^^^^
manifests/x.yaml:8:12: there is no 'great.py' beside the manifest; looked for manifests/great.py
  8 |   - copy: {great.py: bin/greet}
    |            ^^^^^^^^
manifests/x.yaml:8:22: 'bin/greet' is not an absolute path; write '/bin/greet'?
  8 |   - copy: {great.py: bin/greet}
    |                      ^^^^^^^^^
manifests/x.yaml:9:10: this script is empty; write one, or remove the layer
  9 |   - run: ""
    |          ^^
manifests/x.yaml:10:11: '-r a.txt' is an option, not a package; write the file under 'requirements:'
  10 |   - pip: [-r a.txt]
     |           ^^^^^^^^
manifests/x.yaml:11:9: there is no smoke hook 'gpu-visble'; did you mean 'gpu-visible'?
  11 | smoke: [gpu-visble]
     |         ^^^^^^^^^^
"""


def test_ten_mistakes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError) as caught:
        load(Path(), TEN_MISTAKES, head="")
    assert "\n".join(caught.value.details) + "\n" == TOLD_OF_THEM
    assert caught.value.message == "manifests/x.yaml has 10 mistakes"
    assert caught.value.hint == "docs/manifest.md describes every key"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("env: {1A: b}", "'1A' can't be the name of a variable; use letters, digits and _"),
        ('env: {A: "b\\nc"}',
         "a variable's value can't have a line break; /etc/environment has one line for each"),
        ("env: {A: no}", "no is read as false, not as text; quote it: 'no'"),
        ("workdir: ../x", "'../x' is not an absolute path; write '/x'?"),
        ("workdir: /a/../b", "'/a/../b' has '..' in it; write where it leads"),
        ("entrypoint: bash -l", "a list is wanted here, not the text 'bash -l'; write a list: [bash -l]"),
        ("fstab: [tmpfs]", "'tmpfs' is not a line of fstab; write SOURCE TARGET [TYPE [OPTIONS [0 [0]]]]"),
        ("mounts: [/a]", "'/a' is not a mount; write SOURCE:TARGET, SOURCE:TARGET:ro or SOURCE:TARGET:rw"),
        ("mounts: [8080:22]", "8080:22 is read as the number 484822, not as text; quote it: '8080:22'"),
        ("layers: {apt: [git]}", "a list is wanted here, not a mapping"),
        ("layers: [apt]", "a layer is a mapping with one key, its kind; give it its content: apt: …"),
        ("layers: [{}]",
         "a layer has one key, its kind; this one has none; indent a layer's own keys below its "
         "kind; begin each layer with '- '"),
        ("layers: [{apt: , packages: [git]}]",
         "a layer has one key, its kind; this one has 'apt', 'packages'; "
         "indent a layer's own keys below its kind; begin each layer with '- '"),
        ("layers: [{atp: [git]}]", "unknown key 'atp'; did you mean 'apt'?"),
        ("layers: [{brew: [git]}]", "unknown key 'brew'; known are: apt, copy, pip, run, uv"),
        ("layers: [{apt: }]", "a value is missing here; write one, or remove the line"),
        ("layers: [{apt: git}]", "a list is wanted here, not the text 'git'; write a list: [git]"),
        ("layers: [{apt: []}]", "this layer does nothing; name packages, or write 'upgrade: true'"),
        ("layers: [{apt: {recommends: true}}]",
         "this layer does nothing; name packages, or write 'upgrade: true'"),
        ("layers: [{pip: {}}]", "this layer does nothing; name packages or requirements"),
        ("layers: [{uv: []}]", "this layer does nothing; name packages or requirements"),
        ("layers: [{uv: {packages: [a], system_site_packages: true}}]",
         "system_site_packages is for a virtual environment; add 'venv: /opt/venv', or remove it"),
        ("layers: [{uv: {venv: /v, python: -c x}}]", "'-c x' is not a command; write one as python3 or "
         "/usr/bin/python3.12"),
        ("layers: [{uv: {venv: /v, python: 3.12}}]",
         "3.12 is read as a number, not as text; quote it: '3.12'"),
        ("layers: [{pip: {packages: [a], index_url: 'https://me:secret@a.b/c'}}]",
         "this address has a login in it; "
         "take it out: logins belong in the site profile or the caller's environment"),
        ("layers: [{pip: {packages: [a], index_url: 'file:///a'}}]", "'file:///a' is not an address; "
         "write http://HOST/… or https://HOST/…"),
        ("layers: [{pip: {requirements: [data]}}]", "'data' is a folder; name a file"),
        ("layers: [{copy: {}}]", "this layer does nothing; write SOURCE: /TARGET"),
        ("layers: [{copy: greet.py}]",
         "SOURCE: /TARGET is wanted here; or {from: SOURCE, to: /TARGET, mode: '0755'}"),
        ("layers: [{copy: {from: greet.py}}]", "the key 'to' is missing; add it"),
        ("layers: [{copy: {from: greet.py, to: /a, mode: 0755}}]",
         "0755 is read as the number 493, not as text; quote it: '0755'"),
        ("layers: [{copy: {from: greet.py, to: /a, mode: '0999'}}]",
         "'0999' is not a mode; write it in octal, quoted: '0755'"),
        ("layers: [{copy: {/etc/passwd: /a}}]",
         "'/etc/passwd' is outside the manifest's folder; name a file beside "
         "the manifest, without '/' in front"),
        ("layers: [{copy: {../x: /a}}]",
         "'../x' leads out of the manifest's folder; copy it beside the manifest"),
        ("layers: [{copy: {link: /a}}]",
         "'link' leads out of the manifest's folder; copy it beside the manifest"),
        ("layers: [{copy: {.: /a}}]", "this is the manifests' own folder; name one file or folder in it"),
        ("layers: [{copy: {%s: /a}}]" % ("a" * 300),
         "%r can't be looked at; is it a file beside the manifest?"
         % ("a" * 59 + "…")),
        ("layers: [{run: [a]}]", "text is wanted here, not a list"),
        ("layers: [{run: true}]", "true is read as true, not as text; quote it: 'true'"),
        ("layers: [{run: {}}]", "this script is empty; write one, or remove the layer"),
        ("layers: [{run: {script: a, file: greet.py}}]",
         "this layer has both 'script' and 'file'; keep one of them"),
        ("layers: [{run: {script: a, timeout: 22:30}}]",
         "22:30 is not a time; write seconds, or 90s, 30m, 2h"),
        ("layers: [{run: {script: a, timeout: 0}}]", "the time must be from 1 to 604800 seconds"),
        ("smoke: [{hok: ddp, args: []}]", "unknown key 'hok'; did you mean 'hook'?"),
        ("smoke: [{commands: {a: b}}]", "a list is wanted here, not a mapping"),
        ("smoke: [3]", "the name of a smoke hook is wanted here, not 3"),
        ("smoke: [Bad Hook]", "'Bad Hook' is not a smoke hook; write the name of a file in hooks/"),
        ("smoke: [brew]", "there is no smoke hook 'brew'; known are: commands, ddp, fp8, gpu-visible, "
         "nccl-init, python-imports, torch-cuda"),
    ],
)  # fmt: skip
def test_mistakes(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/link").symlink_to("/etc/passwd")
    assert told(tmp_path, text) == [words]


def test_a_newer_format_is_all_that_is_said(tmp_path: Path) -> None:
    words = "format 2 is for a newer Kiln; this one reads 1; update Kiln"
    assert told(tmp_path, "format: 2\nflavour: mint\n", head="") == [words]


def test_required_keys(tmp_path: Path) -> None:
    assert told(tmp_path, "description: a\n", head="") == [
        "the key 'base' is missing; add it",
        "the key 'format' is missing; add it",
        "the key 'name' is missing; add it",
    ]


# --- finding -----------------------------------------------------------------------------------


def test_finding_a_manifest(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", ".hidden.yaml", "UPPER.yaml", "a.lock"):
        (tmp_path / name).touch()
    assert manifest.names(tmp_path) == ["a", "b"]
    assert manifest.find(tmp_path, "a") == tmp_path / "a.yaml"
    assert manifest.names(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pytorch-lm", "did you mean 'pytorch-llm'?"),
        ("xyz", "known are: pytorch-llm, workshop"),
        ("../workshop", "did you mean 'workshop'?"),
    ],
)
def test_an_unknown_manifest(name: str, hint: str, tmp_path: Path) -> None:
    for known in ("workshop", "pytorch-llm"):
        (tmp_path / f"{known}.yaml").touch()
    with pytest.raises(UsageError, match=f"there is no manifest {name!r} in ") as caught:
        manifest.find(tmp_path, name)
    assert caught.value.hint == hint


def test_no_manifests_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        manifest.find(tmp_path / "manifests", "x")
    assert caught.value.hint.startswith("write one: ")


# --- what ships --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", manifest.names(ROOT / "manifests"))
def test_every_shipped_manifest_loads(name: str) -> None:
    path = manifest.find(ROOT / "manifests", name)
    hooks = [hook.name for hook in (ROOT / "hooks").iterdir()]
    found = manifest.load(path, hooks)
    assert found.description
    assert found.smoke
    first = path.read_text().partition("\n")[0]
    assert first == "# yaml-language-server: $schema=../docs/manifest.schema.json"


def test_the_images_of_the_workshop_ship() -> None:
    names = manifest.names(ROOT / "manifests")
    assert {"workshop", "pytorch-llm", "sglang", "pytorch-fsdp"} <= set(names)


REMAKE = "make it again, with kiln.document.schema or kiln.reference.reference"


def test_the_schema_that_ships_is_the_models() -> None:
    shipped = (ROOT / "docs/manifest.schema.json").read_text()
    assert shipped == json.dumps(schema(Manifest), indent=2, ensure_ascii=False) + "\n", REMAKE


def test_the_reference_that_ships_is_the_models() -> None:
    assert (ROOT / "docs/manifest.md").read_text() == reference(Manifest), REMAKE


def test_every_key_is_described() -> None:
    found = schema(Manifest)
    for part in (found, *found["$defs"].values()):
        for name, field in part["properties"].items():
            assert field.get("description"), f"{part['title']}: {name}"


def test_the_example_in_the_reference_is_a_manifest(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", reference(Manifest), re.DOTALL)
    (tmp_path / "geo").mkdir()
    (tmp_path / "geo/tiles.py").touch()
    (tmp_path / "geo.yaml").write_text(example)
    assert len(manifest.load(tmp_path / "geo.yaml", HOOKS).layers) == 5


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ["env", "workdir", "entrypoint", "fstab", "mounts", "layers", "smoke", "base", "name", "format"]
KINDS = ["apt", "pip", "uv", "copy", "run", "packages", "timeout", "from", "to", "script", "hook", "args"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3), st.sampled_from(KINDS), VALUES)
@settings(max_examples=100, deadline=None)
def test_nothing_gives_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, object], kind: str, value: object
) -> None:
    layered = {**data, "layers": [{kind: value}, {"apt": {kind: value}}, {"copy": {kind: value}}]}
    tested = {**data, "smoke": [{kind: value}, {"hook": "ddp", kind: value}]}
    for document in (data, layered, tested):
        try:
            load(tmp_path_factory.getbasetemp(), yaml.dump(document, allow_unicode=True), head="")
        except ManifestError as error:
            assert error.details
            assert "pydantic" not in str(error.details)


def test_a_manifest_in_a_text_editor(tmp_path: Path) -> None:
    """Half-written, as an editor saves it: the message is about the line that is being written."""
    text = indent("apt: [git\n", "  - ")
    assert told(tmp_path, f"layers:\n{text}") == ["what begins here is never closed"]
