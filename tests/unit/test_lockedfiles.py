"""Locked files: fetched, gone on with, checked; gone, changed and damaged ones told with the lock's line."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from kiln import lockedcommand, lockedfiles, packagecache, site
from kiln.errors import LockError
from kiln.layercommand import SCRIPTS
from kiln.locked import BUILD, SOURCE, TOOL, WHEEL, Lock, Locked, LockedBase, LockedLayer
from kiln.lockedfiles import LockedFiles
from kiln.manifest import AptLayer, PipLayer, RunLayer, UvLayer
from kiln.registry.transport import Network, Transport
from tests.packageserver import Packages

ROOT = Path(__file__).resolve().parents[2]
LOGIN = "me:s%21cret"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def server() -> Iterator[Packages]:
    with Packages() as running:
        yield running


def never(event: Event, seconds: float) -> bool:
    """Waits for nothing: a test that has to wait fails at its limit of tries at once."""
    return event.is_set()


def locked_at(server: Packages, path: str, line: int = 7, place: str = WHEEL) -> Locked:
    data = server.files[path]
    name, version = path.rpartition("/")[2].split("-")[:2]
    sha256 = hashlib.sha256(data).hexdigest()
    return Locked(name, version.removesuffix(".tar.gz"), place, len(data), sha256, server.url + path, line)


def opened(tmp_path: Path, *packages: Locked, **settings: str) -> LockedFiles:
    base = LockedBase("debootstrap:x", "x", DIGEST, DIGEST, 0)
    lock = Lock(tmp_path / "demo.lock", "demo", "amd64", {}, {}, base, (LockedLayer(1, "pip", {}, packages),))
    environ = {"KILN_CACHE": str(tmp_path / "cache"), "KILN_IMAGES": str(tmp_path), **settings}
    loaded = site.load("local", ROOT, environ)
    return lockedfiles.opened(lock, loaded, Transport(Network(), lambda text: None, never))


# --- fetching ----------------------------------------------------------------------------------


def test_what_was_fetched_is_asked_of_nobody_again(server: Packages, tmp_path: Path) -> None:
    packages = [locked_at(server, server.wheel(name, "1.0")) for name in ("one", "two")]
    found = opened(tmp_path, *packages)
    assert not found.there(packages)
    found.fetch(packages, None)
    assert found.there(packages)
    asked = len(server.asked)
    found.fetch(packages, None)
    assert len(server.asked) == asked
    assert found.path(packages[0]).read_bytes() == server.files["/files/one-1.0-py3-none-any.whl"]
    assert found.folder.parent == packagecache.own(found.site.packages)


def test_a_cut_download_is_gone_on_with(server: Packages, tmp_path: Path) -> None:
    path = server.wheel("big", "1.0")
    server.files[path] = os.urandom(300_000)
    package = locked_at(server, path)
    server.cut = 100_000
    opened(tmp_path, package).fetch([package], None)
    assert len(server.asked) > 3
    assert opened(tmp_path, package).path(package).read_bytes() == server.files[path]


def test_a_killed_fetch_is_gone_on_with(server: Packages, tmp_path: Path) -> None:
    path = server.wheel("big", "1.0")
    server.files[path] = os.urandom(300_000)
    package, sent = locked_at(server, path), []
    found = opened(tmp_path, package)
    found.path(package).parent.mkdir()
    found.path(package).with_suffix(".partial").write_bytes(server.files[path][:200_000])
    found.fetch([package], lambda done, total: sent.append(done))
    assert found.there([package])
    assert (server.asked, server.sent) == ([path], 100_000)


def test_a_package_that_is_gone_is_told_with_its_line(server: Packages, tmp_path: Path) -> None:
    package = locked_at(server, server.wheel("one", "1.0"))
    server.remove("/files/one-1.0-py3-none-any.whl")
    with pytest.raises(LockError, match=r"one 1\.0 can't be fetched .*one-1\.0.*\.whl answers 404") as caught:
        opened(tmp_path, package).fetch([package], None)
    assert caught.value.hint == "run: invoke lock demo --update one"
    [detail] = caught.value.details
    assert detail.endswith(f"demo.lock:7: {package.text}")


@pytest.mark.parametrize("longer", [-10, 0, 10])
def test_other_bytes_under_the_same_version_are_refused(
    server: Packages, tmp_path: Path, longer: int
) -> None:
    path = server.wheel("one", "1.0")
    package = locked_at(server, path)
    server.change(path)
    data = server.files[path]
    server.files[path] = data + b"x" * longer if longer >= 0 else data[:longer]
    with pytest.raises(LockError, match=r"one 1\.0") as caught:
        opened(tmp_path, package).fetch([package], None)
    assert "--update one" in caught.value.hint
    assert "demo.lock:7: one 1.0" in caught.value.details[0]
    assert not opened(tmp_path, package).there([package])


def test_one_failure_keeps_what_the_others_brought(server: Packages, tmp_path: Path) -> None:
    good, bad = (locked_at(server, server.wheel(name, "1.0")) for name in ("good", "bad"))
    found = opened(tmp_path, good, bad)
    found.fetch([good], None)
    server.remove("/files/bad-1.0-py3-none-any.whl")
    with pytest.raises(LockError):
        found.fetch([good, bad], None)
    assert found.there([good])


def test_a_cache_of_somebody_else_is_refused(server: Packages, tmp_path: Path) -> None:
    packagecache.own(tmp_path / "cache/v1/packages").mkdir(parents=True)
    packagecache.own(tmp_path / "cache/v1/packages").chmod(0o777)
    with pytest.raises(LockError, match=r"locked files can't be kept: .*: not yours alone"):
        opened(tmp_path)


# --- the indexes -------------------------------------------------------------------------------


def test_what_indexes_no_longer_have_is_found_without_a_download(server: Packages, tmp_path: Path) -> None:
    there, gone, longer = (locked_at(server, server.wheel(name, "1.0")) for name in ("a", "b", "c"))
    server.remove("/files/b-1.0-py3-none-any.whl")
    server.files["/files/c-1.0-py3-none-any.whl"] += b"more"
    missing = opened(tmp_path).missing([there, gone, longer])
    assert [(each.package, each.said) for each in missing] == [
        (gone, "answers 404"),
        (longer, f"has {longer.size + 4} bytes in place of {longer.size}"),
    ]


def test_sizes_are_asked_of_the_index(server: Packages, tmp_path: Path) -> None:
    package = locked_at(server, server.wheel("one", "1.0"))
    assert opened(tmp_path).size_of(package.url) == package.size
    with pytest.raises(LockError, match="answers 404"):
        opened(tmp_path).size_of(server.url + "/files/none.whl")


def test_the_sites_login_is_sent_to_its_index_alone(tmp_path: Path) -> None:
    with Packages("me:s!cret") as own, Packages() as other:
        mine, theirs = (locked_at(each, each.wheel("one", "1.0")) for each in (own, other))
        index = f"http://{LOGIN}@{own.host}/simple"
        found = opened(tmp_path, mine, PIP_INDEX_URL=index)
        found.fetch([mine], None)
        assert found.headers(theirs.url) == {}
        assert found.headers(mine.url)["Authorization"].startswith("Basic ")
        with pytest.raises(LockError, match="answers 401") as caught:
            opened(tmp_path / "b", mine).fetch([mine], None)
        assert "cret" not in caught.value.message
        assert caught.value.hint == f"put a login for {own.host} into the site's 'indexes' or 'mirrors'"


def test_addresses_in_a_lock_have_no_login_and_no_mirror_of_a_site() -> None:
    mirrors = {"debian": "http://me:secret@mirror.example/deb/", "ubuntu": "http://other.example/u"}
    for url in ("http://me:secret@mirror.example/deb/pool/x.deb", "http://mirror.example/deb/pool/x.deb"):
        assert lockedfiles.public(url, mirrors) == "http://deb.debian.org/debian/pool/x.deb"
    assert (
        lockedfiles.public("https://a:b@index.example/x.whl#sha256=0", mirrors)
        == "https://index.example/x.whl"
    )
    again = lockedfiles.reached("http://deb.debian.org/debian/pool/x.deb", mirrors)
    assert again == "http://me:secret@mirror.example/deb/pool/x.deb"
    security = lockedfiles.reached("http://deb.debian.org/debian-security/pool/x.deb", mirrors)
    assert security == "http://me:secret@mirror.example/deb-security/pool/x.deb"
    assert lockedfiles.reached("https://index.example/x", mirrors) == "https://index.example/x"


# --- for layers --------------------------------------------------------------------------------


def test_a_python_layer_gets_files_by_their_names_and_a_list_with_hashes(
    server: Packages, tmp_path: Path
) -> None:
    wheel, source, build = (
        locked_at(server, server.wheel("some_name", "1.0")),
        locked_at(server, server.source("made", "2.0"), place=SOURCE),
        locked_at(server, server.wheel("needed", "3.0"), place=BUILD),
    )
    tool = dataclasses.replace(locked_at(server, server.wheel("pip", "99")), place=TOOL)
    packages = [wheel, source, build, tool]
    found = opened(tmp_path, *packages)
    found.fetch(packages, None)
    lockedcommand.lay_out(found, "pip", packages, tmp_path / "place")
    assert sorted(path.name for path in (tmp_path / "place/files").iterdir()) == [
        "made-2.0.tar.gz",
        "needed-3.0-py3-none-any.whl",
        "pip-99-py3-none-any.whl",
        "some_name-1.0-py3-none-any.whl",
    ]
    assert (tmp_path / "place/requirements.txt").read_text() == (
        f"some_name==1.0 --hash=sha256:{wheel.sha256}\nmade==2.0 --hash=sha256:{source.sha256}\n"
    )
    assert (tmp_path / "place/tools.txt").read_text() == f"pip==99 --hash=sha256:{tool.sha256}\n"


def test_an_archive_of_any_name_gets_one_that_pip_finds(server: Packages) -> None:
    package = Locked("my-tool", "1.2", SOURCE, 1, "0" * 64, "https://git.example/x/archive/0a1b2c.tar.gz")
    assert lockedfiles.file_name(package, "pip") == "my_tool-1.2.tar.gz"
    zipped = dataclasses.replace(package, url="https://git.example/x/0a1b2c.zip")
    assert lockedfiles.file_name(zipped, "uv") == "my_tool-1.2.zip"
    assert lockedfiles.file_name(package, "apt") == "0" * 64 + ".deb"


@pytest.mark.parametrize("name", ["..%2Fevil.whl", "%2e%2e.whl", ".whl", "a b.whl"])
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    package = Locked("a", "1", WHEEL, 1, "0" * 64, f"https://index.example/{name}")
    with pytest.raises(LockError, match="names no file"):
        lockedfiles.file_name(package, "pip")


def test_an_apt_layer_gets_a_list_that_knows_what_lies_in_the_base(server: Packages, tmp_path: Path) -> None:
    path = server.deb(tmp_path / "debs", "tool", "1:2.0")
    data = server.files[path]
    there = Locked("tool", "1:2.0", "all", len(data), hashlib.sha256(data).hexdigest(), server.url + path)
    inside = Locked("cuda", "12", "amd64", 5, "1" * 64, "file:/var/repo/cuda_12.deb")
    found = opened(tmp_path, there, inside)
    found.fetch([there, inside], None)
    lockedcommand.lay_out(found, "apt", [inside, there], tmp_path / "place")
    assert (tmp_path / "place/list").read_text() == (
        f"cuda 12 amd64 {'1' * 64} /var/repo/cuda_12.deb\ntool 1:2.0 all {there.sha256} -\n"
    )
    assert [path.name for path in (tmp_path / "place/files").iterdir()] == [f"{there.sha256}.deb"]


def test_a_damaged_file_is_removed_and_told(server: Packages, tmp_path: Path) -> None:
    package = locked_at(server, server.wheel("one", "1.0"))
    found = opened(tmp_path, package)
    found.fetch([package], None)
    data = bytearray(found.path(package).read_bytes())
    data[3] ^= 1
    found.path(package).write_bytes(data)
    with pytest.raises(LockError, match="the one in the cache is damaged, and was removed"):
        lockedcommand.lay_out(found, "pip", [package], tmp_path / "place")
    assert not found.there([package])


def test_a_file_that_was_never_fetched_is_told_with_the_command(server: Packages, tmp_path: Path) -> None:
    package = locked_at(server, server.wheel("one", "1.0"))
    with pytest.raises(LockError, match=r"one 1\.0 has not been fetched") as caught:
        lockedcommand.lay_out(opened(tmp_path, package), "pip", [package], tmp_path / "place")
    assert caught.value.hint == "run: invoke fetch demo"


def test_commands_of_locked_layers_ask_no_index(tmp_path: Path) -> None:
    uv = Path("/static/uv")
    apt = lockedcommand.command(AptLayer(packages=("git", "vim=1"), recommends=True), tmp_path, uv)
    assert apt.argv[1:] == ("/run/kiln/scripts/apt-locked.sh", "false", "true", "git", "vim=1")
    pip = lockedcommand.command(PipLayer(packages=("a",), index_url="https://x.example/s"), tmp_path, uv)
    assert (pip.argv[1:], pip.env) == (("/run/kiln/scripts/pip-locked.sh",), {})
    made = lockedcommand.command(UvLayer(packages=("a",), venv="/opt/v"), tmp_path, uv)
    assert made.argv[1:] == ("/run/kiln/scripts/uv-locked.sh", "/opt/v", "false", "python3")
    for each in (apt, pip, made):
        assert each.mounts[0].target == "/run/kiln/locked"
        assert all(mount.read_only for mount in each.mounts)
    with pytest.raises(ValueError, match="no packages"):
        lockedcommand.command(RunLayer(script="true"), tmp_path, uv)
    for name in ("pip-locked", "uv-locked"):
        text = (SCRIPTS / f"{name}.sh").read_text()
        assert {"--no-deps", "--require-hashes"} <= set(text.split())
        assert "--no-index" in text or "PIP_NO_INDEX=1" in text


def test_old_files_are_removed_by_gc(server: Packages, tmp_path: Path) -> None:
    package = locked_at(server, server.wheel("one", "1.0"))
    found = opened(tmp_path, package)
    found.fetch([package], None)
    own = packagecache.own(found.site.packages)
    assert list(packagecache.unused(own, 10.0)) == []
    os.utime(found.path(package), (5.0, 5.0))
    assert list(packagecache.unused(own, 10.0)) == [found.path(package)]
