"""Locks in real builds: resolved without a build, fetched, built without any network; and the bad days."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import trees
from tests.integration.debian import PASSWORD, SECRETS, USER, Debian
from tests.integration.namespaces import NO_NETWORK
from tests.integration.project import Done, Project
from tests.integration.proxy import Proxy
from tests.packageserver import Packages

LOGIN = "curator:index-s3same"
SHOW = """\
cat /usr/share/kiln-dice /usr/share/kiln-base /usr/share/kiln-more
python3 -c 'import ready, alone, made; print(ready.VERSION, alone.VERSION, made.VERSION)'
/opt/own/bin/python -c 'import ready, made; print("own", ready.VERSION, made.VERSION)'
"""
RECORD = "opt/own/lib/python3.11/site-packages/ready-1.0.dist-info/RECORD"
# What depends on when and in which order things are written.
CHANGING = ("var/log/", "var/cache/ldconfig/aux-cache")


@pytest.fixture
def packages(tmp_path: Path) -> Iterator[Packages]:
    with Packages() as running:
        fill(running, tmp_path / "debs")
        yield running


def fill(server: Packages, folder: Path) -> None:
    server.deb(folder, "kiln-base", "2.1")
    server.deb(folder, "kiln-dice", "1:1.0", "kiln-base (>= 2)")
    server.deb(folder, "kiln-more", "1", "kiln-base")
    server.wheel("needed", "1.4")
    server.wheel("needed", "1.5")
    server.wheel("ready", "1.0", ["needed>=1"])
    server.wheel("alone", "0.1", ["needed"])
    server.wheel("helper", "3.0")
    server.source("made", "1.0", ["helper"])


class Locked:
    """An image on the Debian one, with layers of every kind from a server of packages."""

    def __init__(self, project: Project, server: Packages) -> None:
        self.project, self.server = project, server
        self.manifest()

    def manifest(self, run: str = SHOW, pip: str = "ready", apt: str = "kiln-dice") -> None:
        index = {"index_url": self.server.simple}
        self.project.file("sources.list", self.server.sources)
        self.project.file("needs.txt", b"made\n")
        layers: list[dict[str, Any]] = [
            {"copy": {"sources.list": "/etc/apt/sources.list"}},
            {"apt": [apt]},
            {"apt": ["kiln-more"]},
            {"pip": {"packages": [pip], **index}},
            {"pip": {"packages": ["alone"], "requirements": ["needs.txt"], **index}},
            {"uv": {"venv": "/opt/own", "packages": ["ready", "made"], **index}},
            {"run": run},
        ]
        self.project.manifest("demo", layers, env={"PIP_CONSTRAINT": ""})

    @property
    def path(self) -> Path:
        return self.project.root / "manifests/demo.lock"

    @property
    def lines(self) -> list[str]:
        """The locked packages: NAME VERSION PLACE, in the order of the file."""
        found = re.findall(r"^ +- (\S+ \S+ \S+) \d+ sha256:", self.path.read_text(), re.MULTILINE)
        return [str(each) for each in found]

    def lock(self, *args: str, **more: Any) -> Done:
        return self.project.run("lock", "demo", *args, **more)

    def fetch(self) -> Done:
        return self.project.run("fetch", "demo")

    def forget(self) -> None:
        """As on another day: without what was fetched, and without layers."""
        for name in ("packages", "trees"):
            shutil.rmtree(self.project.cache / "v1" / name, ignore_errors=True)

    def line_of(self, text: str) -> int:
        lines = self.path.read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.fixture
def locked(debian: Debian, packages: Packages, tmp_path: Path) -> Locked:
    return Locked(debian.beside(tmp_path / "project"), packages)


def test_a_lock_names_every_package_and_builds_nothing(locked: Locked) -> None:
    locked.lock().expect(0, "+ kiln-base 2.1", "+ made 1.0", "commit it; then: invoke fetch demo")
    assert locked.lines == [
        "kiln-base 2.1 all",
        "kiln-dice 1:1.0 all",
        "kiln-more 1 all",
        "needed 1.5 wheel",
        "ready 1.0 wheel",
        "alone 0.1 wheel",
        "helper 3.0 build",
        "made 1.0 source",
        "helper 3.0 build",
        "made 1.0 source",
        "needed 1.5 wheel",
        "ready 1.0 wheel",
    ]
    assert locked.project.workspaces() == []
    assert not (locked.project.images / "demo").exists()
    layers = list((locked.project.cache / "v1/trees").glob("*/layers/*"))
    assert layers == [], "a lock leaves nothing in the layer store but its base"
    text, asked = locked.path.read_bytes(), len(locked.server.asked)
    locked.lock().expect(0, "changed   nothing")
    assert (locked.path.read_bytes(), len(locked.server.asked)) == (text, asked)
    [event] = locked.lock("--json").expect(0).events("result")
    assert (event["packages"], event["changes"]) == (8, [])


def test_a_locked_build_needs_no_network_and_makes_what_an_unlocked_one_does(
    locked: Locked, tmp_path: Path
) -> None:
    free = locked.project.build("demo", "--no-cache")
    locked.lock().expect(0)
    locked.forget()
    locked.fetch().expect(0, "8 packages", "are as locked")
    asked = len(locked.server.asked)
    record = locked.project.build("demo", "--locked", within=NO_NETWORK)
    assert len(locked.server.asked) == asked
    assert newest(locked.project, "07-run.log").splitlines() == [
        "kiln-dice 1:1.0", "kiln-base 2.1", "kiln-more 1", "1.0 0.1 1.0", "own 1.0 1.0",
    ]  # fmt: skip
    assert record.key != free.key
    one, two = (
        trees.state(trees.unpack(locked.project.store.image("demo", each.version), tmp_path / each.version))
        for each in (free, record)
    )
    different = {
        path for path in {*one, *two} if one.get(path) != two.get(path) and not path.startswith(CHANGING)
    }
    # pip marks what it was asked for; of a lock that is all. Nothing else tells how it came.
    told = (".kiln/manifest.lock", ".kiln/provenance.json", "/REQUESTED", "/RECORD", "own/.lock")
    assert {path for path in different if not path.endswith(told)} == set()
    assert not [path for path in two if path.endswith("uv_cache.json")]
    assert "uv_cache" not in (tmp_path / record.version / RECORD).read_text()


def newest(project: Project, name: str) -> str:
    paths = sorted(project.cache.glob(f"v1/logs/demo-*/{name}"), key=lambda path: path.stat().st_mtime)
    return paths[-1].read_text()


def test_locked_layers_are_reused_by_what_is_locked(locked: Locked) -> None:
    locked.lock().expect(0)
    locked.project.build("demo")
    # Another version that nobody asked for changes nothing.
    locked.server.wheel("needed", "1.6")
    locked.project.run("build", "demo").expect(0, "is up to date: it is made from exactly this")
    locked.lock("--update", "needed").expect(0, "needed 1.5 -> 1.6")
    [plan] = locked.project.run("plan", "demo", "--json").expect(0).events("result")
    assert [layer["reused"] for layer in plan["layers"]].count(True) >= 3
    assert any("locked" in layer["reason"] and "needed" in layer["reason"] for layer in plan["layers"])


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("needed", ["  needed 1.5 -> 1.6"]),
        ("pip", ["  needed 1.5 -> 1.6", "  ready 1.0 -> 1.1"]),
        ("apt", ["  kiln-base 2.1 -> 2.2"]),
        ("", []),
    ],
)
def test_an_update_takes_what_was_asked_for(
    locked: Locked, tmp_path: Path, what: str, changed: list[str]
) -> None:
    locked.lock().expect(0)
    locked.server.wheel("needed", "1.6")
    locked.server.wheel("ready", "1.1", ["needed"])
    locked.server.deb(tmp_path / "new", "kiln-base", "2.2")
    done = locked.lock(*(["--update", what] if what else []), "--json").expect(0)
    assert done.events("result")[0]["changes"] == changed
    locked.lock("--check").expect(0)


def test_a_lock_that_no_longer_matches_is_refused_and_mended_by_one_command(locked: Locked) -> None:
    locked.lock().expect(0)
    locked.project.run("build", "demo", "--locked", "--from", "9").expect(2)
    locked.manifest(apt="kiln-base")
    for command in (("plan", "demo"), ("build", "demo"), ("fetch", "demo")):
        locked.project.run(*command).expect(
            14,
            "demo.lock no longer matches demo.yaml: layer 2 (apt): packages +kiln-base -kiln-dice",
            "-> run: invoke lock demo",
        )
    locked.lock("--check").expect(14, "layer 2 (apt): packages +kiln-base -kiln-dice")
    locked.lock().expect(0, "- kiln-dice 1:1.0")
    locked.lock("--check").expect(0, "demo.lock holds")


def test_another_script_is_locked_again_without_asking_anybody(locked: Locked) -> None:
    locked.lock().expect(0)
    locked.manifest(run="true")
    locked.project.run("plan", "demo").expect(14, "layer 7 (run): script")
    locked.lock(within=NO_NETWORK).expect(0, "changed   nothing")
    locked.project.run("plan", "demo").expect(0, "demo.lock")


def test_a_build_that_demands_a_lock_fails_without_one(locked: Locked) -> None:
    locked.project.run("build", "demo", "--locked").expect(14, "demo has no lock", "invoke lock demo")
    locked.project.run("fetch", "demo").expect(14, "demo has no lock")
    locked.lock("--check").expect(14, "demo has no lock")


# --- bad days ----------------------------------------------------------------------------------


def test_a_lock_changed_by_hand_builds_nothing_and_is_told_with_its_place(locked: Locked) -> None:
    locked.lock().expect(0)
    text = locked.path.read_text()
    locked.path.write_text(text.replace("ready 1.0 wheel", "ready 1.1 wheel", 1))
    place = f"demo.lock:{locked.line_of('number: 4')}: layer 4 (pip) isn't as it was locked"
    for command in ("build", "plan", "fetch"):
        locked.project.run(command, "demo").expect(14, "demo.lock was changed by hand", place, "git checkout")
    assert not (locked.project.images / "demo").exists()
    locked.lock().expect(0, "demo.lock was changed by hand: it is made anew")
    assert locked.path.read_text() == text


def test_a_package_that_is_gone_is_told_by_check_and_fetch(locked: Locked) -> None:
    locked.lock().expect(0)
    locked.forget()
    for path in ("/files/needed-1.5-py3-none-any.whl", "/debian/kiln-base_2.1_all.deb"):
        locked.server.remove(path)
    url = locked.server.url
    deb, wheel = (locked.line_of(text) for text in ("kiln-base 2.1", "needed 1.5"))
    done = locked.lock("--check").expect(
        14,
        "demo.lock no longer holds, for 2 reasons",
        f"demo.lock:{deb}: layer 2 (apt): kiln-base 2.1: {url}/debian/",
        f"demo.lock:{wheel}: layer 4 (pip): needed 1.5: {url}/files/needed-1.5",
        "answers 404",
        "-> run: invoke lock demo --update kiln-base",
    )
    assert "ready" not in done.said
    locked.fetch().expect(14, "can't be fetched as it was locked", "answers 404", "--update")
    locked.project.run("build", "demo").expect(14, "can't be fetched as it was locked")
    assert not (locked.project.images / "demo").exists()
    locked.server.deb(locked.project.root, "kiln-base", "2.2")
    locked.lock("--update", "apt,needed").expect(0, "kiln-base 2.1 -> 2.2", "needed 1.5 -> 1.4")
    locked.fetch().expect(0)


def test_other_bytes_under_the_same_version_are_refused(locked: Locked) -> None:
    locked.lock().expect(0)
    locked.forget()
    locked.server.change("/files/ready-1.0-py3-none-any.whl")
    line = locked.line_of("ready 1.0")
    for command in (("fetch", "demo"), ("build", "demo")):
        locked.project.run(*command).expect(
            14,
            "ready 1.0 has other bytes than were locked",
            f"demo.lock:{line}: ready 1.0 wheel",
            "--update ready",
        )
    assert not (locked.project.images / "demo").exists()


def test_a_damaged_file_of_the_cache_is_not_installed(locked: Locked) -> None:
    locked.lock().expect(0)
    locked.fetch().expect(0)
    [path] = [
        path
        for path in (locked.project.cache / f"v1/packages/{os.getuid()}/files/sha256").iterdir()
        if path.name in locked.path.read_text().split("ready 1.0 wheel")[1].split("\n")[0]
    ]
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    locked.project.run("build", "demo").expect(
        14, "ready 1.0", "the one in the cache is damaged, and was removed"
    )
    locked.project.build("demo")


def test_logins_reach_neither_the_lock_nor_a_log(debian: Debian, tmp_path: Path) -> None:
    proxy = Proxy(USER, PASSWORD)
    with Packages(LOGIN) as server, proxy.running():
        fill(server, tmp_path / "debs")
        project = debian.beside(tmp_path / "project")
        sources = server.sources.replace(b"http://", f"http://{LOGIN}@".encode())
        project.file("sources.list", sources)
        project.site("login", indexes={"pip": f"http://{LOGIN}@{server.host}/simple"}, from_environment=True)
        layers: list[Any] = [
            {"copy": {"sources.list": "/etc/apt/sources.list"}},
            {"apt": ["kiln-dice"]},
            {"pip": ["ready"]},
            {"uv": {"venv": "/opt/own", "packages": ["ready"]}},
            # It has a login, which no image may keep.
            {"run": "rm /etc/apt/sources.list"},
        ]
        project.manifest("demo", layers, env={"PIP_CONSTRAINT": ""})
        env = {"http_proxy": proxy.url, "https_proxy": proxy.url, "KILN_SITE": "login", "no_proxy": ""}
        project.run("lock", "demo", env=env).expect(0)
        project.run("lock", "demo", "--check", env=env).expect(0)
        shutil.rmtree(project.cache / "v1/packages")
        project.run("fetch", "demo", env=env).expect(0)
        project.run("build", "demo", env=env).expect(0)
        assert proxy.requests, "nothing went through the proxy"
    words = (*SECRETS, LOGIN.partition(":")[2])
    lock = (project.root / "manifests/demo.lock").read_text()
    assert "wheel" in lock
    records = [path for path in (project.images / "demo").iterdir() if path.suffix == ".json"]
    for text in (lock, *(path.read_text() for path in records)):
        assert not [word for word in words if word in text]
    for path in (project.cache / "v1/logs").rglob("*.log"):
        assert not [word for word in words if word in path.read_text()], path


def test_layers_that_dont_go_together_are_told_when_they_are_locked(locked: Locked) -> None:
    layers: list[Any] = [
        {"pip": {"packages": ["needed==1.4"], "index_url": locked.server.simple}},
        {"pip": {"packages": ["needed==1.5"], "index_url": locked.server.simple}},
    ]
    locked.project.manifest("demo", layers, env={"PIP_CONSTRAINT": ""})
    locked.lock().expect(14, "layer 2 (pip needed==1.5) can't be locked", "put what it needs into one layer")
    assert not locked.path.exists()


def test_a_base_without_python_is_told_when_it_is_locked(project: Project) -> None:
    project.manifest("demo", [{"pip": ["ready"]}])
    project.run("lock", "demo").expect(
        14, "layer 1 (pip ready) can't be locked", "there is no Python before this"
    )
    project.manifest("demo", [{"apt": ["git"]}])
    project.run("lock", "demo").expect(14, "layer 1 (apt git) can't be locked", "the base has no apt-get")
