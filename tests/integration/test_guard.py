"""The guard in real builds: pip, uv and scripts that would change a base's own torch, and what is listed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kiln.record import PackageChange, Record
from tests.integration import trees
from tests.integration.debian import Debian
from tests.integration.index import Index, wheel
from tests.integration.layered import Layered
from tests.integration.namespaces import on_overlay
from tests.integration.project import Done, Project
from tests.integration.test_debian import holding

NV = "2.7.0a0+nv25.4"
SYSTEM = "/usr/local/lib/python3.11/dist-packages"
WHEELS = dict(
    [
        wheel("torch", "2.6.0"),
        wheel("torch", "2.8.0"),
        wheel("needs-old", requires=["torch==2.6.0"]),
        wheel("needs-any", requires=["torch>=2"]),
        wheel("outer", requires=["needs-old"]),
    ]
)
TAKE_TORCH = "test \"$(python3 -c 'import torch; print(torch.VALUE)')\" = "
# What stays of the guard's own, and of the index in it.
TRACES = (b"/run/kiln", b"constraints.txt", b"excludes.txt")


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with Index(WHEELS) as running:
        yield running


@pytest.fixture(scope="module")
def nvidia(debian: Debian, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the image `nv`: a Debian with NVIDIA's torch and a constraint file."""
    project = debian.beside(tmp_path_factory.mktemp("guard") / "project")
    name, data = wheel("torch", NV)
    project.file(name, data)
    project.file("constraint.txt", f"torch=={NV}\nhumanize==4.12.0\nnowhere==1\n".encode())
    project.manifest(
        "nv",
        [
            {"copy": {name: f"/opt/{name}", "constraint.txt": "/etc/pip/constraint.txt"}},
            {"run": f"python3 -m pip install --break-system-packages --no-index /opt/{name}; rm /opt/{name}"},
        ],
        env={"PIP_CONSTRAINT": "/etc/pip/constraint.txt"},
    )
    project.build("nv")
    return project


class Builds:
    """Images on `nv`, from the index."""

    def __init__(self, project: Project, index: Index) -> None:
        self.project, self.index = project, index

    def manifest(self, name: str, *layers: dict[str, Any], **more: Any) -> None:
        for layer in layers:
            for kind in ("pip", "uv"):
                layer.get(kind, {})["index_url"] = self.index.url
        self.project.manifest(name, layers, base="image:nv", **more)

    def run(self, name: str, *args: str, env: Mapping[str, str] | None = None) -> Done:
        return self.project.run("build", name, *args, env={"no_proxy": "127.0.0.1", **(env or {})})

    def record(self, name: str) -> Record:
        """Of the newest version, built now."""
        self.run(name).expect(0)
        return self.project.record(name, self.project.store.versions(name)[-1])

    def refused(self, name: str, *texts: str) -> None:
        """Whether the guard stops the build, says these, publishes nothing, and keeps no such layer."""
        self.run(name).expect(13, *texts, f"manifests/{name}.yaml: guard: {{allow: [torch]}}")
        assert not self.project.store.versions(name)
        [plan] = self.project.run("plan", name, "--json").expect(0).events("result")
        assert plan["layers"][-1]["reused"] is False


@pytest.fixture
def builds(nvidia: Project, index: Index) -> Builds:
    return Builds(nvidia, index)


def line_of(project: Project, name: str, text: str) -> str:
    path = project.root / f"manifests/{name}.yaml"
    [number] = [
        number for number, line in enumerate(path.read_text().splitlines(), 1) if line.startswith(text)
    ]
    return f"at manifests/{name}.yaml:{number} "


# --- pip ---------------------------------------------------------------------------------------


def test_pip_cant_take_another_torch(builds: Builds) -> None:
    builds.manifest("p1", {"run": "true"}, {"pip": {"packages": ["outer"]}})
    builds.refused(
        "p1",
        f"layer 2 (pip outer) of p1 can't be made with what its base protects: torch {NV}",
        "needs-old 1.0 depends on torch==2.6.0",
        line_of(builds.project, "p1", "- pip:"),
    )


def test_pip_takes_what_goes_with_the_bases_torch(builds: Builds, tmp_path: Path) -> None:
    check = {"run": f"{TAKE_TORCH}{NV}; python3 -m pip check"}
    builds.manifest("p2", {"pip": {"packages": ["needs-any"]}}, check)
    record = builds.record("p2")
    assert [layer.changes for layer in record.layers] == [
        (PackageChange("python", "needs-any", SYSTEM, "", "1.0"),),
        (),
    ]
    tree = trees.unpack(builds.project.store.image("p2", record.version), tmp_path / "tree")
    assert [each for each in holding(tree, *TRACES) if not each.startswith("usr/lib/python3")] == []
    assert (tree / "etc/environment").read_text().count("PIP_CONSTRAINT=/etc/pip/constraint.txt\n") == 1


def test_what_is_allowed_changes_and_is_listed_also_by_a_later_build(builds: Builds) -> None:
    layers = ({"pip": {"packages": ["needs-old"]}}, {"run": f"{TAKE_TORCH}2.6.0"})
    builds.manifest("p3", *layers, guard={"allow": ["torch"]})
    first = builds.record("p3")
    expected = (
        PackageChange("python", "needs-old", SYSTEM, "", "1.0"),
        PackageChange("python", "torch", SYSTEM, NV, "2.6.0", allowed=True),
    )
    assert first.layers[0].changes == expected
    builds.manifest("p3", *layers, guard={"allow": ["torch"]}, description="another")
    second = builds.record("p3")
    assert [layer.reused for layer in second.layers] == [True, True]
    assert second.layers[0].changes == expected
    # Without leave for it the layer isn't taken from the store.
    builds.manifest("p3", *layers, description="another")
    builds.run("p3").expect(13, "changed: guard allow")


# --- uv ----------------------------------------------------------------------------------------


def test_uv_cant_take_another_torch_into_the_system(builds: Builds) -> None:
    builds.manifest("u1", {"uv": {"packages": ["needs-old"]}})
    builds.refused("u1", f"can't be made with what its base protects: torch {NV}", "torch==2.6.0")
    builds.manifest("u1", {"uv": {"packages": ["needs-any"]}}, {"run": f"{TAKE_TORCH}{NV}"})
    [change] = builds.record("u1").layers[0].changes
    assert (change.name, change.after) == ("needs-any", "1.0")


def test_uv_is_free_in_an_environment_of_its_own(builds: Builds) -> None:
    there = f"PATH=/opt/v/bin:$PATH; {TAKE_TORCH}2.6.0"
    builds.manifest("u2", {"uv": {"venv": "/opt/v", "packages": ["needs-old"]}}, {"run": there})
    place = "/opt/v/lib/python3.11/site-packages"
    assert builds.record("u2").layers[0].changes == (
        PackageChange("python", "needs-old", place, "", "1.0"),
        PackageChange("python", "torch", place, "", "2.6.0"),
    )


def test_an_environment_that_sees_the_system_sees_its_torch(builds: Builds) -> None:
    def uv(*packages: str) -> dict[str, Any]:
        return {"uv": {"venv": "/opt/v", "system_site_packages": True, "packages": list(packages)}}

    builds.manifest("u3", uv("outer"))
    builds.refused(
        "u3",
        f"layer 1 (uv outer) of u3 doesn't go with what its base protects: torch {NV}",
        "which /opt/v sees too; needs-old 1.0 requires torch==2.6.0, outer 1.0 requires needs-old",
    )
    builds.manifest("u3", uv("torch==2.6.0"))
    builds.refused("u3", f"can't be made with what its base protects: torch {NV}")
    check = f"PATH=/opt/v/bin:$PATH; python3 -c 'import needs_any'; {TAKE_TORCH}"
    builds.manifest("u3", uv("needs-any"), {"run": f"{check}{NV}"})
    [change] = builds.record("u3").layers[0].changes
    assert (change.name, change.place) == ("needs-any", "/opt/v/lib/python3.11/site-packages")
    builds.manifest(
        "u3", uv("outer"), {"run": f"{check.replace('any', 'old')}2.6.0"}, guard={"allow": ["torch"]}
    )
    changes = builds.record("u3").layers[0].changes
    assert [(each.name, each.after) for each in changes] == [
        ("needs-old", "1.0"),
        ("outer", "1.0"),
        ("torch", "2.6.0"),
    ]


def test_both_runtimes_hand_it_to_pip_and_uv(builds: Builds, runtime: tuple[str, dict[str, str]]) -> None:
    name, env = runtime
    layers = ({"pip": {"packages": ["needs-any"]}}, {"uv": {"packages": ["needs-old"]}})
    builds.manifest(f"b-{name}", *layers, env={"RUNTIME": name})
    done = builds.run(f"b-{name}", "--runtime", name, env=env)
    done.expect(
        13, f"layer 2 (uv needs-old) of b-{name} can't be made with what its base protects: torch {NV}"
    )


# --- whatever else a layer does ----------------------------------------------------------------


def test_a_script_that_installs_another_torch(builds: Builds) -> None:
    install = "PIP_CONSTRAINT= python3 -m pip install --break-system-packages -q --index-url"
    builds.manifest("r1", {"run": f"{install} {builds.index.url} needs-old"})
    builds.refused(
        "r1",
        f"layer 1 (run {install[:20]}",
        f"changes what its base protects: torch {NV} -> 2.6.0",
        f"torch: {NV} in the base, 2.6.0 after the layer in {SYSTEM}; needs-old 1.0 requires torch==2.6.0",
        line_of(builds.project, "r1", "- run:"),
    )


def test_a_package_of_apt_that_the_manifest_protects(builds: Builds) -> None:
    layers = ({"run": "dpkg --purge rolldice"},)
    builds.manifest("a1", *layers, guard={"protect": ["roll*"]})
    done = builds.run("a1").expect(13, 'guard: {protect: ["roll*"], allow: [rolldice]}')
    assert re.search(r"changes what its base protects: rolldice 1\.\S+ -> gone", done.err)
    builds.manifest("a1", *layers)
    [change] = builds.record("a1").layers[0].changes
    assert (change.kind, change.name, change.after) == ("apt", "rolldice", "")
    assert change.before.startswith("1.")


# --- bases with less ---------------------------------------------------------------------------

LIB = "/usr/local/lib/python3.12/dist-packages"


def metadata(name: str, version: str) -> str:
    """A script that leaves what an installed package has at the least."""
    place = f"{LIB}/{name}-{version}.dist-info"
    return f"mkdir -p {place}; echo 'Name: {name}\nVersion: {version}' > {place}/METADATA"


def test_a_base_without_dpkg_or_python(layered: Layered) -> None:
    layered.manifest("x", ["true", metadata("torch", "2.6.0")])
    layered.say("x")
    [first, second] = layered.project.record("x", "small-r1").layers
    assert first.changes == ()
    assert second.changes == (PackageChange("python", "torch", LIB, "", "2.6.0"),)


@pytest.mark.parametrize("kept", [True, False], ids=["stacked", "flat"])
def test_both_runtimes_and_both_ways_of_keeping_layers(
    layered: Layered, runtime: tuple[str, dict[str, str]], kept: bool
) -> None:
    name, env = runtime
    layered.manifest("nv", [metadata("torch", NV)])
    base = layered.build("nv", "--runtime", name, env=env)
    layered.ran()
    scripts = ["true", f"rm -r {LIB}/torch-*; {metadata('torch', '2.6.0')}", "true"]
    layered.manifest("x", scripts, base=f"sqsh:{base}")
    within = [] if kept else on_overlay(layered.project.cache)
    done = layered.project.run("build", "x", "--runtime", name, env=env, within=within)
    done.expect(13, "layer 2 (run rm -r", f"torch {NV} -> 2.6.0", "the layer's script did it")
    assert layered.ran() == ["1", "2"]
    assert layered.project.workspaces() == []
    assert layered.project.store.versions("x") == []


def test_a_breach_can_be_looked_into(layered: Layered) -> None:
    layered.manifest("nv", [metadata("torch", NV)])
    base = layered.build("nv")
    layered.manifest("x", [f"rm -r {LIB}/torch-*"], base=f"sqsh:{base}")
    layered.project.run("build", "x", "--keep").expect(13, f"torch {NV} -> gone")
    [left] = layered.project.workspaces()
    said = layered.project.run("shell", "x", stdin=f"ls {LIB}; exit 3\n")
    assert (said.code, "torch" in said.out) == (3, False)
    assert left.startswith("x-")
