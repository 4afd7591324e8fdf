"""The search of changed files: what is found, what is passed over, and that nothing is in an argument."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiln import search, sitetraces
from kiln.errors import RuntimeFailure
from kiln.fields import Mount
from kiln.imagerules import Builder
from kiln.record import ERROR, WARNING
from kiln.run import host_environment
from kiln.runtime import namespace
from kiln.search import Changed
from kiln.site import Indexes, Proxies, Site

ENV = host_environment(os.environ)
NEEDLE = b"t0ken-+/.*[x]"


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_needles_are_found_as_they_are_in_text_and_bytes(tmp_path: Path) -> None:
    hits = [
        put(tmp_path, "a/text", b"x " + NEEDLE + b" y\n"),
        put(tmp_path, "b/bytes.so", bytes(5000) + NEEDLE + b"\xff\x00"),
        put(tmp_path, "b/--odd name", NEEDLE),
    ]
    put(tmp_path, "a/other", b"t0ken-+/.*x")
    (tmp_path / "link").symlink_to(hits[0])
    os.mkfifo(tmp_path / "pipe")
    changed = Changed([tmp_path / "a", tmp_path / "b", tmp_path / "none"])
    assert changed.holding([NEEDLE, b"nothing"], ENV, settings=False) == sorted(hits)
    assert changed.holding([], ENV, settings=False) == []


def test_files_are_found_in_a_namespace_whatever_their_modes(tmp_path: Path) -> None:
    closed = put(tmp_path, "folder/closed", NEEDLE)
    closed.chmod(0)
    closed.parent.chmod(0)
    with namespace.opened(ENV) as space:
        found = Changed([tmp_path], None, space).holding([NEEDLE], ENV, settings=False)
    closed.parent.chmod(0o700)
    assert found == [closed]


def test_settings_are_small_and_not_compiled(tmp_path: Path) -> None:
    small = put(tmp_path, "etc/pip.conf", NEEDLE)
    put(tmp_path, "lib/x.so.1", NEEDLE)
    put(tmp_path, "large", NEEDLE + bytes(3 << 20))
    assert Changed([tmp_path]).holding([NEEDLE], ENV, settings=True) == [small]


def test_what_was_there_before_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "tree/old", NEEDLE)
    mark = put(tmp_path, "mark", b"")
    new = put(tmp_path, "tree/new", b"")
    # The clock of the file system has ticks: wait for the next by its own stamps.
    while new.stat().st_ctime_ns <= mark.stat().st_mtime_ns:
        new.write_bytes(NEEDLE)
    assert Changed([tmp_path / "tree"], mark).holding([NEEDLE], ENV, settings=False) == [new]


def test_a_search_that_could_not_be_made_is_a_failure(tmp_path: Path) -> None:
    put(tmp_path, "tree/x", b"x")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/find").symlink_to("/usr/bin/find")
    with pytest.raises(RuntimeFailure, match="could be searched"):
        Changed([tmp_path / "tree"]).holding([NEEDLE], {"PATH": str(tmp_path / "bin")}, settings=False)


def test_which_needle_a_file_holds(tmp_path: Path) -> None:
    path = put(tmp_path, "x", b"..two..")
    assert search.which(path, {b"one": "1", b"two": "2"}) == "2"
    assert search.which(tmp_path / "none", {b"one": "1"}) == ""


SITE = Site(
    format=1,
    name="s",
    images=Path("/images"),
    cache=Path("/cache"),
    proxies=Proxies(http="http://me:pa55word%21@10.1.2.3:3128", https="http://127.0.0.1:3128"),
    indexes=Indexes(pip="https://pypi.site.example/simple/", extra=("https://pypi.org/simple",)),
)
BUILDER = Builder("/home/bob", "dgx-17")


def test_a_sites_bytes_are_looked_for_and_everybodys_are_not() -> None:
    found = sitetraces.traces(
        SITE, [Mount(Path("/data/projects/x"), "/x")], [Path("/home/bob/kiln")], BUILDER
    )
    severities = {needle.decode(): trace.severity for needle, trace in found.items()}
    assert severities == {
        **severities,
        "pa55word!": ERROR,
        "pa55word%21": ERROR,
        "10.1.2.3:3128": ERROR,
        "pypi.site.example/simple": ERROR,
        "/run/kiln/ca.crt": ERROR,
        "127.0.0.1:3128": WARNING,
        "/run/kiln/": WARNING,
        "/data/projects/x": WARNING,
        "/home/bob/": WARNING,
        "/home/bob/kiln/": WARNING,
    }
    assert not [needle for needle in severities if "pypi.org" in needle]
    bare = SITE.model_copy(update={"proxies": Proxies.model_construct(http="proxy.site:3128")})
    assert b"proxy.site:3128" in sitetraces.traces(bare, [], [], BUILDER)
    assert "dgx-17" not in severities  # too short to tell


def test_findings_are_of_the_files_that_are_on_top(tmp_path: Path) -> None:
    one, two, finished = (tmp_path / name for name in ("1", "2", "finished"))
    for folder in (one, two, finished):
        folder.mkdir()
    put(one, "etc/pip.conf", b"proxy = 10.1.2.3:3128")
    put(one, "etc/replaced", b"10.1.2.3:3128")
    put(two, "etc/replaced", b"clean")
    put(two, "root/x.cfg", b"cert = /run/kiln/ca.crt")
    put(finished, "opt/x", b"prefix /run/kiln/tmp")
    wanted = sitetraces.traces(SITE, [], [], BUILDER)
    found = sitetraces.find(Changed([one, two, finished]), wanted, ENV)
    assert [(each.severity, each.path, each.cause) for each in found] == [
        (ERROR, "/etc/pip.conf", "it holds the site's proxy"),
        (ERROR, "/root/x.cfg", "it holds the path of the site's certificates"),
        (WARNING, "/opt/x", "it holds a path of Kiln's own"),
    ]
