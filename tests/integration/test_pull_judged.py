"""What a pull refuses and warns of before it brings anything; folders with odd names; the real enroot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.imageserver import Server
from tests.integration.namespaces import with_driver
from tests.integration.project import Project

VERSION = "small-r1"
REAL = os.environ.get("KILN_REAL_ENROOT") or shutil.which("enroot")
needs_ssh = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="NO ssh-keygen HERE: nothing is signed")
needs_enroot = pytest.mark.skipif(not REAL, reason="NO ENROOT HERE: no container was made by the real one")


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "to"


def record(project: Project, **changes: object) -> None:
    path = project.store.record("x", VERSION)
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of a test", "-f", path], check=True)
    return path


def allowed(key: Path) -> str:
    path = key.with_suffix(".allowed")
    path.write_text(f'curator@site namespaces="kiln" {key.with_suffix(".pub").read_text()}')
    return str(path)


def sign(project: Project, key: Path) -> None:
    path = project.store.record("x", VERSION)
    path.with_suffix(".json.sig").unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "kiln", path], check=True)


@needs_ssh
@pytest.mark.parametrize("web", [False, True])
def test_a_site_that_demands_signatures(user: Project, to: Path, tmp_path: Path, web: bool) -> None:
    mine, other = make_key(tmp_path / "mine"), make_key(tmp_path / "other")
    user.site("strict", signing={"allowed_signers": allowed(mine), "required": True})
    with Server(user.images) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        argv = ["pull", "x", "--to", str(to), "--site", "strict", *(["--images", server.url] if web else [])]
        user.run(*argv).expect(16, f"x {VERSION} is not pulled", "there is no signature", "docs/record.md")
        sign(user, other)
        user.run(*argv).expect(16, "it is signed by the key SHA256:")
        sign(user, mine)
        record(user, maintainer="somebody else")
        user.run(*argv).expect(16, "the signature by curator@site is not good")
        assert not to.exists()
        sign(user, mine)
        user.run(*argv).expect(0, "sha256 verified, signed by curator@site")
        user.run(*argv).expect(0, "is there already, unchanged, signed by curator@site")
        server.shutdown()


@needs_ssh
def test_a_bad_signature_is_refused_where_none_is_demanded(user: Project, to: Path, tmp_path: Path) -> None:
    user.site("lax", signing={"allowed_signers": allowed(make_key(tmp_path / "mine"))})
    sign(user, make_key(tmp_path / "other"))
    user.run("pull", "x", "--to", str(to), "--site", "lax").expect(16, "it is signed by the key SHA256:")
    user.store.record("x", VERSION).with_suffix(".json.sig").unlink()
    [result] = user.run("pull", "x", "--to", str(to), "--site", "lax", "--json").expect(0).events("result")
    assert result["signed"] == ""


def node(folder: Path, driver: str, *models: str) -> list[str]:
    (folder / "nvidia").mkdir(parents=True)
    (folder / "nvidia/version").write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu Sep  5\n"
    )
    for number, model in enumerate(models):
        place = folder / f"nvidia/gpus/0000:0{number}:00.0"
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t\t {model}\nGPU UUID: \t GPU-{number}\n")
    return with_driver(folder)


def test_a_driver_that_is_too_old_is_warned_of(user: Project, to: Path, tmp_path: Path) -> None:
    record(user, environment={"CUDA_VERSION": "12.8.1"})
    old, new = node(tmp_path / "old", "470.82.01"), node(tmp_path / "new", "580.65.06")
    [result] = user.run("pull", "x", "--to", str(to), "--json", within=old).expect(0).events("result")
    [text] = result["warnings"]
    assert text.startswith(f"x {VERSION} would not run here: ") and "470.82.01" in text
    user.run("pull", "x", "--to", str(to), within=old).expect(0, f"warning: x {VERSION} would not run here")
    assert "warning" not in user.run("pull", "x", "--to", str(to), within=new).expect(0).said
    user.site("old", driver="470.82.01")
    user.run("pull", "x", "--to", str(to), "--site", "old").expect(0, "would not run here")


def test_a_gpu_on_which_it_was_not_tested_is_warned_of(user: Project, to: Path, tmp_path: Path) -> None:
    here = node(tmp_path / "node", "580.65.06", "NVIDIA H100", "NVIDIA L4")
    said = f"warning: x {VERSION} was not tested on NVIDIA H100, NVIDIA L4, only on a node without GPUs"
    user.run("pull", "x", "--to", str(to), within=here).expect(0, said)
    [smoke] = json.loads(user.store.record("x", VERSION).read_text())["smoke"]
    for models, untested in ((["NVIDIA H100"], "NVIDIA L4"), (["NVIDIA H100", "NVIDIA L4"], "")):
        record(user, smoke=[{**smoke, "hardware": {**smoke["hardware"], "gpus": models}}])
        done = user.run("pull", "x", "--to", str(to), within=here).expect(0)
        assert (f"not tested on {untested}, only on NVIDIA H100" in done.err) is bool(untested)
        assert ("not tested" in done.err) is bool(untested)
    record(user, smoke=[{**smoke, "hardware": {**smoke["hardware"], "gpus": ["NVIDIA H100"]}}])
    done = user.run("pull", "x", "--to", str(to), within=here, env={"CUDA_VISIBLE_DEVICES": "0"}).expect(0)
    assert "not tested" not in done.err


def test_deprecated_is_warned_of_and_revoked_is_refused(user: Project, to: Path) -> None:
    record(user, built="2026-01-02T03:04:05Z")
    for path in list(user.store.folder("x").glob(f"x-{VERSION}.*")):
        shutil.copy2(path, path.with_name(path.name.replace(VERSION, "small-r2")))
    second = user.store.record("x", "small-r2")
    second.chmod(0o644)
    second.write_text(second.read_text().replace(VERSION, "small-r2"))
    user.run("promote", "x:small-r2").expect(0)
    words = ("--until", "9999-01-31", "--use", "x:small-r2", "--because", "old CUDA")
    user.run("deprecate", f"x:{VERSION}", *words).expect(0)
    with Server(user.images) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for more in ((), ("--images", server.url)):
            argv = ("pull", f"x:{VERSION}", "--to", str(to), *more)
            user.run(*argv).expect(
                0, f"x {VERSION}: deprecated until 9999-01-31: old CUDA; use x:small-r2", "warning:"
            )
            [result] = user.run(*argv, "--json").expect(0).events("result")
            assert result["deprecated"]["until"] == "9999-01-31" and len(result["warnings"]) == 1
            assert "warning" not in user.run("pull", "x", "--to", str(to), *more).expect(0).said
        user.run("revoke", f"x:{VERSION}", "--because", "a token in it").expect(0)
        (to / f"x-{VERSION}.sqsh").unlink()
        for more in ((), ("--images", server.url)):
            done = user.run("pull", f"x:{VERSION}", "--to", str(to), *more)
            done.expect(17, f"x {VERSION} can't be pulled: it is revoked: a token in it")
        server.shutdown()
    assert [path.name for path in to.iterdir()] == ["x-small-r2.sqsh"]


def test_an_images_folder_with_quotes_spaces_and_unicode(user: Project, to: Path) -> None:
    images = user.root / 'Iñaki\'s "big" $(touch gone) <b>&; 箱\n'
    shutil.move(user.images, images)
    env = {"KILN_IMAGES": str(images)}
    for words in (("list",), ("search", "x"), ("show", "x"), ("history", "x"), ("verify", "x")):
        user.run(*words, env=env).expect(0)
    user.run("pull", "x", "--to", str(to), env=env).expect(0, "sha256 verified")
    user.run("promote", f"x:{VERSION}", "--channel", "lts", env=env).expect(0)
    user.hook("fine", "exit 0")
    user.manifest("x", smoke=["fine"])
    user.run("build", "x", "--images", str(images)).expect(0, "Published x small-r2")
    user.run("rollback", "x", env=env).expect(0, VERSION)
    user.run("smoke", "x", env=env).expect(0)
    user.site("strict", images=str(user.images), store={"keep_last": 1, "grace": "1h"})
    user.run("gc", "--store", "--site", "strict", "--dry-run", env=env).expect(0)
    catalog = json.loads((images / "catalog.json").read_text())["images"]["x"]
    assert catalog["channels"] == {"current": VERSION, "lts": VERSION}
    assert not user.images.exists() and not (user.root / "gone").exists()
    with Server(images) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        argv = ("pull", "x:small-r2", "--images", server.url, "--to", str(to))
        user.run(*argv).expect(0, "sha256 verified")
        server.shutdown()
    assert len(list(to.iterdir())) == 2


@needs_enroot
def test_the_real_enroot_makes_the_container(user: Project, to: Path, tmp_path: Path) -> None:
    """In the place of the job, from a path with a space, and not over one that is there."""
    assert REAL
    (tmp_path / "job 7").mkdir()
    user.site("cluster", containers=str(tmp_path / "job 7"))
    env = {"PATH": f"{Path(REAL).parent}:{user.environ['PATH']}", "PBS_JOBID": "7"}
    argv = ("pull", "x", "--to", f"{to} go", "--create", "--site", "cluster")
    user.run(*argv, env=env).expect(0, "Start it: enroot start --rw x")
    assert (tmp_path / "job 7/x/data").stat().st_size == 3_000_000
    user.run(*argv, env=env).expect(7, "enroot could not create x", "enroot remove x")
