"""A Debian from the real mirrors and indexes, from manifest to published file: what is in that file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
from pathlib import Path

from tests.integration.debian import CA_MARK, NAME, SECRETS, Debian

CAP_NET_RAW = 13


def everything(tree: Path) -> list[Path]:
    return [Path(parent, name) for parent, folders, files in os.walk(tree) for name in (*folders, *files)]


def holding(tree: Path, *words: bytes) -> list[str]:
    """The files and links of a tree in whose content one of `words` is."""
    found = []
    for path in everything(tree):
        if path.is_symlink():
            data = os.readlink(path).encode()
        elif path.is_file():
            data = path.read_bytes()
        else:
            continue
        if any(word in data for word in words):
            found.append(str(path.relative_to(tree)))
    return found


def test_nothing_of_the_build_stays_in_the_image(debian: Debian) -> None:
    proxy = debian.seen["proxy"].encode()
    traces = (proxy, CA_MARK.encode(), b"/run/kiln", b"KILN_BUILD", str(debian.project.root).encode())
    assert holding(debian.tree, *traces) == []


def test_no_password_stays_in_the_image(debian: Debian) -> None:
    assert holding(debian.tree, *(secret.encode() for secret in SECRETS)) == []


def test_mount_points_and_folders_of_the_build_are_empty(debian: Debian) -> None:
    for name in ("run", "tmp", "proc", "sys", "dev"):
        left = sorted(path.name for path in (debian.tree / name).iterdir())
        # Debian's own; a package may bring more of the kind.
        assert [path for path in left if path not in ("lock", "adduser")] == [], name
    assert not (debian.tree / "etc/resolv.conf").exists()


def test_no_lists_archives_or_caches_are_left(debian: Debian) -> None:
    for name in ("var/lib/apt/lists", "var/cache/apt/archives", "var/cache/apt"):
        files = [path for path in (debian.tree / name).glob("*") if path.is_file() and path.name != "lock"]
        assert files == [], name
    caches = [
        path for path in everything(debian.tree) if path.parent.name == ".cache" or path.name == ".cache"
    ]
    assert caches == []
    assert not (debian.tree / "etc/apt/apt.conf.d/99mmdebstrap").exists()
    assert "deb.debian.org" in debian.text("/etc/apt/sources.list")


def test_the_builder_is_unknown_to_the_image(debian: Debian) -> None:
    names = [line.split(":")[0] for line in debian.text("/etc/passwd").splitlines()]
    assert names[0] == "root"
    assert "alice" in names
    assert not {"builder", "user"} & set(names)


def test_users_that_a_layer_adds_stay_with_their_groups_and_home(debian: Debian) -> None:
    assert re.search(r"^alice:x:\d+:\d+::/home/alice:/bin/bash$", debian.text("/etc/passwd"), re.MULTILINE)
    assert re.search(r"^makers:x:\d+:alice$", debian.text("/etc/group"), re.MULTILINE)
    assert (debian.tree / "home/alice/.bashrc").is_file()


def test_modes_of_the_user_files_are_as_debian_has_them(debian: Debian) -> None:
    modes = {
        name: stat.S_IMODE((debian.tree / "etc" / name).stat().st_mode)
        for name in ("passwd", "group", "shadow", "gshadow")
    }
    assert modes == {"passwd": 0o644, "group": 0o644, "shadow": 0o640, "gshadow": 0o640}


def test_file_capabilities_and_setuid_survive(debian: Debian) -> None:
    data = os.getxattr(debian.tree / "usr/local/bin/raw-cat", "security.capability")
    permitted = struct.unpack_from("<I", data, 4)[0]
    assert permitted == 1 << CAP_NET_RAW
    assert stat.S_IMODE((debian.tree / "usr/local/bin/suid-cat").stat().st_mode) == 0o4755
    assert stat.S_IMODE((debian.tree / "usr/bin/passwd").stat().st_mode) == 0o4755


def test_a_copied_file_keeps_its_run_bit_and_no_mode_of_the_builder(debian: Debian) -> None:
    assert stat.S_IMODE((debian.tree / "usr/local/bin/greet").stat().st_mode) == 0o755
    assert stat.S_IMODE((debian.tree / "etc/pip-constraint.txt").stat().st_mode) == 0o644


def test_the_venv_leads_nowhere_outside(debian: Debian) -> None:
    venv = debian.tree / "opt/venv"
    links = {os.readlink(path) for path in everything(venv) if path.is_symlink()}
    assert links <= {"python", "/usr/bin/python3", "lib"}
    assert "home = /usr/bin" in (venv / "pyvenv.cfg").read_text()
    assert (venv / "bin/cowsay").read_text().startswith("#!/opt/venv/bin/python")


def test_every_module_that_a_layer_brought_is_compiled(debian: Debian) -> None:
    for place in (
        "opt/venv/lib/python3.11/site-packages/cowsay",
        "usr/local/lib/python3.11/dist-packages/humanize",
    ):
        sources = list((debian.tree / place).glob("*.py"))
        assert sources
        missing = [
            path
            for path in sources
            if not (path.parent / f"__pycache__/{path.stem}.cpython-311.pyc").exists()
        ]
        assert missing == []


def test_pip_respects_the_constraint_file_of_the_image(debian: Debian) -> None:
    assert (debian.tree / "usr/local/lib/python3.11/dist-packages/humanize-4.12.0.dist-info").is_dir()


def test_environment_and_start_are_in_enroots_format(debian: Debian) -> None:
    lines = debian.text("/etc/environment").splitlines()
    assert "GREETING=Good day" in lines
    assert not [
        line for line in lines if re.match(r"(?i)(https?|no)_proxy|SSL_|PIP_CERT|TMPDIR|SOURCE_DATE", line)
    ]
    rc = debian.text("/etc/rc")
    assert 'cd "/opt/work" && unset OLDPWD || exit 1' in rc
    assert "exec '/usr/local/bin/greet' 'two words'" in rc
    assert (debian.tree / "opt/work").is_dir()
    assert (debian.tree / "etc/fstab").exists()


def test_record_checksum_channel_and_catalog_agree_with_the_file(debian: Debian) -> None:
    record, store = debian.record, debian.project.store
    digest = hashlib.sha256(debian.image.read_bytes()).hexdigest()
    assert (record.digest, record.size) == (f"sha256:{digest}", debian.image.stat().st_size)
    assert store.checksum(NAME, record.version).read_text() == f"{digest}  {debian.image.name}\n"
    assert stat.S_IMODE(debian.image.stat().st_mode) == 0o444
    assert os.readlink(store.channel(NAME, "current")) == debian.image.name
    catalog = json.loads(store.catalog.read_text())["images"][NAME]
    assert catalog["channels"] == {"current": "bookworm-r1"}
    assert catalog["versions"][0]["digest"] == record.digest
    assert [layer.kind for layer in record.layers] == ["copy", "apt", "pip", "uv", "copy", "run", "run"]
    assert [result.state for result in record.smoke] == ["passed", "passed", "passed"]
    assert record.base_digest.startswith("sha256:")


def test_nothing_but_logs_is_left_of_the_build(debian: Debian) -> None:
    assert debian.project.workspaces() == []
    assert sorted(path.name for path in (debian.project.cache / "v1").iterdir()) == [
        "logs",
        "packages",
        "trees",
        "work",
    ]
    assert sorted((debian.project.root / "home").rglob("*")) == []


def test_the_summary_tells_how_to_start_the_image(debian: Debian) -> None:
    debian.done.expect(0, "Published deb bookworm-r1", f"enroot create --name deb {debian.image}", "channel")
