"""What is taken out of a tree before export, and what is not."""

from __future__ import annotations

import os
import py_compile
import stat
from pathlib import Path

import pytest

from kiln import baseline, scrub
from kiln.baseline import Seen, nothing

EPOCH = 1_700_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def put(tree: Path, name: str, text: str = "x", mode: int = 0o644) -> Path:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def left(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir() or path.is_symlink()}


LEFT_BEHIND = (
    "var/lib/apt/lists/deb.debian.org_Packages",
    "var/cache/apt/archives/git_1_amd64.deb",
    "var/cache/apt/pkgcache.bin",
    "root/.cache/pip/http/a/b",
    "root/.cache/uv/archive-v0/x",
    "opt/miniconda3/pkgs/numpy-1.conda",
    "var/log/apt/history.log",
    "var/log/dpkg.log",
    "var/log/dpkg.log.1",
    "var/log/alternatives.log",
    "root/.bash_history",
    "root/.python_history",
    "root/.wget-hsts",
    "home/alice/.lesshst",
    "etc/passwd-",
    "var/lib/dpkg/status-old",
    "var/cache/debconf/config.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/systemd/random-seed",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "tmp/.hidden/file",
    "var/tmp/file",
)
OF_THE_IMAGE = (
    "var/lib/dpkg/status",
    "var/log/syslog",
    "root/.bashrc",
    "root/.cache/huggingface/hub/model",
    "etc/passwd",
    "etc/ssh/sshd_config",
    "opt/miniconda3/pkgs/numpy-1/lib/numpy.so",
    "opt/history/.bash_history",
    "home/alice/work",
)


def test_what_a_build_leaves_goes_and_what_is_the_images_stays(tree: Path) -> None:
    for name in (*LEFT_BEHIND, *OF_THE_IMAGE):
        put(tree, name)
    done = scrub.scrub(tree, EPOCH, nothing)
    assert left(tree) == set(OF_THE_IMAGE)
    assert [line for line in done if line.startswith("/var/log/apt/history.log: a package manager's log")]
    assert (tree / "tmp").is_dir()


def test_a_folder_that_held_only_caches_goes_but_for_the_bases_own(tree: Path) -> None:
    put(tree, "root/.cache/pip/x")
    put(tree, "home/alice/.cache/uv/x")
    base = {"/home/alice/.cache": Seen(stat.S_IFDIR | 0o755, 0)}.get
    scrub.scrub(tree, EPOCH, base)
    assert not (tree / "root/.cache").exists()
    assert (tree / "home/alice/.cache").is_dir()


def test_host_keys_that_the_base_brought_are_left_to_the_audit(tree: Path) -> None:
    put(tree, "etc/ssh/ssh_host_rsa_key")
    base = baseline.snapshot(tree)
    put(tree, "etc/ssh/ssh_host_ed25519_key")
    scrub.scrub(tree, EPOCH, base)
    assert left(tree) == {"etc/ssh/ssh_host_rsa_key"}


def test_links_are_never_followed_out_of_the_tree(tree: Path, tmp_path: Path) -> None:
    outside = put(tmp_path, "outside/apt/history.log")
    put(tmp_path, "outside/dpkg.log")
    (tree / "var").mkdir()
    (tree / "var/log").symlink_to(tmp_path / "outside")
    (tree / "tmp").symlink_to("../outside")
    put(tree, "etc/hosts")
    (tree / "etc/machine-id").symlink_to(outside)
    (tree / "etc/shadow").symlink_to(outside)
    scrub.scrub(tree, EPOCH, nothing)
    assert outside.read_text() == "x"
    assert (tmp_path / "outside/dpkg.log").exists()


def test_links_in_a_circle_lead_nowhere(tree: Path) -> None:
    (tree / "var").symlink_to("tmp")
    (tree / "tmp").symlink_to("var")
    assert scrub.scrub(tree, EPOCH, nothing) == []


def test_links_within_the_tree_are_followed(tree: Path) -> None:
    put(tree, "data/log/dpkg.log")
    (tree / "var").mkdir()
    (tree / "var/log").symlink_to("/data/log")
    scrub.scrub(tree, EPOCH, nothing)
    assert left(tree) == {"var/log"}


def test_folders_that_nobody_may_write_to_are_emptied_too(tree: Path) -> None:
    put(tree, "var/log/apt/term.log")
    (tree / "var/log/apt").chmod(0o555)
    scrub.scrub(tree, EPOCH, nothing)
    assert os.listdir(tree / "var/log/apt") == []
    assert stat.S_IMODE((tree / "var/log/apt").stat().st_mode) == 0o555


def test_the_machines_identity_is_emptied_and_users_have_names(tree: Path) -> None:
    put(tree, "etc/machine-id", "0123456789abcdef\n", 0o444)
    put(tree, "etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n", 0o600)
    put(tree, "etc/group", "root:x:0:\n", 0o600)
    scrub.scrub(tree, EPOCH, nothing)
    assert (tree / "etc/machine-id").read_bytes() == b""
    modes = [
        stat.S_IMODE((tree / f"etc/{name}").stat().st_mode) for name in ("machine-id", "passwd", "group")
    ]
    assert modes == [0o444, 0o644, 0o644]
    assert "alice" in (tree / "etc/passwd").read_text()


def test_the_day_of_a_new_password_is_the_images(tree: Path) -> None:
    day = EPOCH // 86_400
    text = f"root:*:19000:0:99999:7:::\nalice:!:{day + 40}:0:99999:7:::\nodd\n:::\n"
    put(tree, "etc/shadow", text, 0o640)
    scrub.scrub(tree, EPOCH, nothing)
    assert (tree / "etc/shadow").read_text() == text.replace(str(day + 40), str(day))
    assert stat.S_IMODE((tree / "etc/shadow").stat().st_mode) == 0o640


def test_apts_states_are_in_one_order(tree: Path) -> None:
    one, two = "Package: b\nArchitecture: amd64\nAuto-Installed: 1\n", "Package: a\nAuto-Installed: 1\n"
    for text in (f"{one}\n{two}\n", f"{two}\n{one}\n"):
        path = put(tree, "var/lib/apt/extended_states", text)
        scrub.scrub(tree, EPOCH, nothing)
        assert path.read_text() == f"{two}\n{one}\n"


def compiled(tree: Path, name: str, mode: py_compile.PycInvalidationMode, time: int) -> Path:
    source = put(tree, name, "value = 1\n")
    os.utime(source, (time, time))
    made = py_compile.compile(str(source), invalidation_mode=mode)
    assert made
    return Path(made)


TIMED, HASHED = py_compile.PycInvalidationMode.TIMESTAMP, py_compile.PycInvalidationMode.CHECKED_HASH


def test_bytecode_has_the_time_that_its_source_will_have(tree: Path) -> None:
    new = compiled(tree, "usr/lib/python3/new.py", TIMED, EPOCH + 5000)
    old = compiled(tree, "usr/lib/python3/old.py", TIMED, EPOCH - 5000)
    hashed = compiled(tree, "usr/lib/python3/hashed.py", HASHED, EPOCH + 5000)
    before = {path: path.read_bytes() for path in (new, old, hashed)}
    new.chmod(0o444)
    scrub.scrub(tree, EPOCH, nothing)
    assert int.from_bytes(new.read_bytes()[8:12], "little") == EPOCH
    assert new.read_bytes()[12:] == before[new][12:]
    assert stat.S_IMODE(new.stat().st_mode) == 0o444
    assert (old.read_bytes(), hashed.read_bytes()) == (before[old], before[hashed])


def test_bytecode_of_another_source_goes_but_not_the_bases(tree: Path) -> None:
    stale = compiled(tree, "opt/a/stale.py", TIMED, EPOCH + 1)
    (tree / "opt/a/stale.py").write_text("value = 2, longer\n")
    cut = put(tree, "opt/a/__pycache__/stale.cpython-311.opt-1.pyc", "short")
    alone = put(tree, "opt/a/__pycache__/gone.cpython-311.pyc")
    of_base = compiled(tree, "opt/b/stale.py", TIMED, EPOCH + 1)
    (tree / "opt/b/stale.py").write_text("value = 2, longer\n")
    os.utime(of_base.parent, (EPOCH, EPOCH))
    done = scrub.scrub(tree, EPOCH, nothing)
    assert [path.exists() for path in (stale, cut, alone, of_base)] == [False, False, True, True]
    assert f"/{stale.relative_to(tree)}: compiled from a source that has changed" in done
