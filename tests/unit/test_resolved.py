"""What apt, pip and uv say they would install, and what sources are built with."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from kiln import buildneeds, lockfile, resolved
from kiln.errors import LockError
from kiln.locked import BUILD, SOURCE, TOOL, WHEEL, Locked
from kiln.lockedfiles import public

A, B, C = ("0" * 63 + each for each in "abc")
PYPI = "https://files.example/p"
MIRRORS = {"debian": "http://me:secret@mirror.example/debian"}


def plain(url: str) -> str:
    return public(url, MIRRORS)


X = Locked("x", "1.0", SOURCE, 10, A, f"{PYPI}/x-1.0.tar.gz")


# --- apt ---------------------------------------------------------------------------------------


def test_what_apt_would_download_is_read() -> None:
    text = (
        f"'http://deb.example/pool/libmagic1_5.44_amd64.deb' libmagic1_1%3a5.44-3_amd64.deb 104 SHA256:{B}\n"
        f"'http://me:secret@mirror.example/debian/pool/a%2bb_1.deb' a+b_1.0~rc1+b2_all.deb 9 SHA256:{A}\n"
        f"'file:/var/cuda/cuda_12.1-1_amd64.deb' cuda_12.1-1_amd64.deb 5 SHA256:{C}\n"
    )
    found = resolved.apt(text, plain)
    assert [each.text for each in found] == [
        f"a+b 1.0~rc1+b2 all 9 sha256:{A} http://deb.debian.org/debian/pool/a%2bb_1.deb",
        f"cuda 12.1-1 amd64 5 sha256:{C} file:/var/cuda/cuda_12.1-1_amd64.deb",
        f"libmagic1 1:5.44-3 amd64 104 sha256:{B} http://deb.example/pool/libmagic1_5.44_amd64.deb",
    ]
    for each in found:
        assert lockfile.parse_line(each.text) == each
    assert resolved.apt("", plain) == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            f"'cdrom:/x/a_1_all.deb' a_1_all.deb 1 SHA256:{A}",
            "a comes from cdrom:/x/a_1_all.deb, which Kiln can't",
        ),
        (
            "'http://u:secret@x/a_1_all.deb' a_1_all.deb 1 MD5Sum:0",
            "what can't be locked: 'http://x/a_1_all.deb'",
        ),
        ("'http://x/a_1_all.deb' a_1_all.deb 1 ", "what can't be locked"),
    ],
)
def test_what_has_no_sum_or_no_address_is_refused(line: str, words: str) -> None:
    with pytest.raises(LockError) as caught:
        resolved.apt(line + "\n", plain)
    assert words in caught.value.message
    assert "secret" not in caught.value.message


# --- pip and uv --------------------------------------------------------------------------------


def report(*items: tuple[str, str, str, dict[str, str] | None]) -> bytes:
    install = [
        {
            "metadata": {"name": name, "version": version},
            "download_info": {"url": url, **({} if hashes is None else {"archive_info": {"hashes": hashes}})},
        }
        for name, version, url, hashes in items
    ]
    return json.dumps({"version": "1", "install": install}).encode()


def test_pips_report_is_read_without_logins() -> None:
    said = report(
        (
            "Zope.Interface",
            "5.0",
            "https://me:secret@index.example/zope.interface-5.0-cp311.whl",
            {"sha256": A},
        ),
        ("made", "1.0", f"{PYPI}/made-1.0.tar.gz", {"sha256": B, "md5": "0"}),
    )
    assert [each.text for each in resolved.pip(said, plain)] == [
        f"made 1.0 source 0 sha256:{B} {PYPI}/made-1.0.tar.gz",
        f"zope-interface 5.0 wheel 0 sha256:{A} https://index.example/zope.interface-5.0-cp311.whl",
    ]
    assert resolved.pip(said, plain, TOOL)[0].place == TOOL


@pytest.mark.parametrize(
    ("url", "hashes", "words"),
    [
        ("git+https://git.example/x", None, "x can't be locked: git+https://git.example/x is no archive"),
        ("file:///opt/x-1.0-py3-none-any.whl", {"sha256": A}, "x can't be locked"),
        (f"{PYPI}/x-1.0-py3-none-any.whl", {"md5": "0"}, "the index has no sha256 of x 1.0"),
        (f"{PYPI}/x-1.0.exe", {"sha256": A}, "x can't be locked"),
    ],
)
def test_what_pip_finds_elsewhere_is_refused(url: str, hashes: dict[str, str] | None, words: str) -> None:
    with pytest.raises(LockError, match=words.replace("+", r"\+")):
        resolved.pip(report(("x", "1.0", url, hashes)), plain)


def test_uvs_changes_are_what_it_installs() -> None:
    changes = [
        {"name": "NumPy", "version": "1.0", "action": "uninstalled"},
        {"name": "NumPy", "version": "2.0", "action": "installed"},
    ]
    assert resolved.uv(json.dumps({"changes": changes}).encode()) == {"numpy": "2.0"}


NUMPY = f"{PYPI}/numpy-2.0-cp311-cp311"
LOCKED_BY_UV = f"""\
lock-version = "1.0"
created-by = "uv"
[[packages]]
name = "numpy"
version = "2.0"
sdist = {{ url = "{PYPI}/numpy-2.0.tar.gz", size = 9, hashes = {{ sha256 = "{A}" }} }}
wheels = [
    {{ url = "{PYPI}/numpy-2.0-cp311-cp311-win_amd64.whl", size = 1, hashes = {{ sha256 = "{A}" }} }},
    {{ url = "{NUMPY}-manylinux_2_17_x86_64.whl", size = 2, hashes = {{ sha256 = "{B}" }} }},
    {{ url = "{NUMPY}-manylinux_2_28_x86_64.whl", size = 3, hashes = {{ sha256 = "{C}" }} }},
]
[[packages]]
name = "made"
version = "1.0"
sdist = {{ url = "{PYPI}/made-1.0.tar.gz", size = 9, hashes = {{ sha256 = "{A}" }} }}
"""


def about(*tags: str) -> bytes:
    environment = {"python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux"}
    return json.dumps({"tags": list(tags), "environment": environment}).encode()


def test_of_many_wheels_the_one_that_fits_best_is_taken() -> None:
    tags = ("cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_17_x86_64", "py3-none-any")
    found = resolved.pylock(LOCKED_BY_UV.encode(), about(*tags), plain)
    assert [(each.name, each.place, each.sha256, each.size) for each in found] == [
        ("made", SOURCE, A, 9),
        ("numpy", WHEEL, C, 3),
    ]
    [_, older] = resolved.pylock(LOCKED_BY_UV.encode(), about(*tags[1:]), plain)
    assert older.sha256 == B
    [_, none] = resolved.pylock(LOCKED_BY_UV.encode(), about("py3-none-any"), plain, BUILD)
    assert (none.place, none.url) == (BUILD, f"{PYPI}/numpy-2.0.tar.gz")


# --- what sources are built with ---------------------------------------------------------------


def archive(tmp_path: Path, texts: dict[str, str], kind: str) -> Path:
    path = tmp_path / "archive"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as opened:
            for name, text in texts.items():
                opened.writestr(name, text)
        return path
    with tarfile.open(path, "w:gz") as opened_tar:
        for name, text in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            opened_tar.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("texts", "needs"),
    [
        ({"x-1/pyproject.toml": "[build-system]\nrequires = ['hatchling>=1', \"b\"]"}, ("hatchling>=1", "b")),
        ({"x-1/pyproject.toml": "[tool.x]\na = 1"}, buildneeds.DEFAULT),
        (
            {"x-1/setup.py": "", "x-1/tests/pyproject.toml": "[build-system]\nrequires = ['evil']"},
            buildneeds.DEFAULT,
        ),
        ({"x-1/pyproject.toml": "[build-system]\nrequires = []"}, ()),
    ],
)
def test_what_a_source_is_built_with_is_read(
    tmp_path: Path, kind: str, texts: dict[str, str], needs: tuple[str, ...]
) -> None:
    assert buildneeds.of(archive(tmp_path, texts, kind), X) == needs


@pytest.mark.parametrize(
    "text", ["[build-system]\n", "[build-system]\nrequires = ['--index-url x']", "not toml ["]
)
def test_a_source_that_cant_be_read_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(LockError, match=r"the source of x 1\.0 can't be read"):
        buildneeds.of(archive(tmp_path, {"x-1/pyproject.toml": text}, "tar"), X)


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"<html>not found</html>")
    with pytest.raises(LockError, match="can't be read"):
        buildneeds.of(tmp_path / "x", X)
