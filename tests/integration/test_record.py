"""What an image says of itself, what lies beside it, and whether it is still that: small real builds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from kiln.record import Record
from tests.integration import project as projects
from tests.integration import trees
from tests.integration.project import Project

ODD = 'o\'dd "n\u00e4me" $(x) \u4e16/..;'
IDENTITY = {
    "GIT_AUTHOR_NAME": "a test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
    "GIT_COMMITTER_NAME": "a test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
}
needs_ssh = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="NO ssh-keygen HERE: nothing is signed")


def packages(project: Project, bash: str = "5.2", more: str = "") -> dict[str, dict[str, str]]:
    """A layer that installs packages, as far as their metadata tells."""
    status = (
        f"Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: {bash}\n\n"
        f"Package: {ODD}\nStatus: install ok installed\nArchitecture: all\nVersion: 1:2~3+{ODD}\n{more}"
    )
    project.file("files/status", status.encode())
    project.file(
        "files/METADATA", f"Metadata-Version: 2.1\nName: {ODD}\nVersion: 1.0+nv\nLicense: MIT\n".encode()
    )
    return {
        "copy": {
            "files/status": "/var/lib/dpkg/status",
            "files/METADATA": "/usr/lib/python3/dist-packages/odd-1.0.dist-info/METADATA",
        }
    }


def commit(project: Project) -> str:
    """Commit what is in the project, by nobody special at a fixed time; returns the commit."""
    (project.root / ".gitignore").write_text("images/\ncache/\nhome/\n__pycache__/\n")
    env = {**project.environ, **IDENTITY}

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=project.root, env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    git("add", ".")
    git("commit", "--quiet", "-m", "a test")
    return git("rev-parse", "HEAD")


def inside(project: Project, record: Record, name: str) -> str:
    return trees.content(project.store.image(record.name, record.version), f"/.kiln/{name}")


def beside(project: Project, record: Record, suffix: str) -> Any:
    return json.loads(project.store.beside(record.name, record.version, suffix).read_text())


# --- in the image ------------------------------------------------------------------------------


def test_two_builds_in_two_folders_give_the_same_bytes(
    project: Project, tmp_path: Path, small_base: Path
) -> None:
    other = projects.make(tmp_path / "another/place", small_base)
    made = []
    for each in (project, other):
        each.manifest("x", [packages(each), {"run": "mkdir /made; echo 1 > /made/file"}])
        head = commit(each)
        record = each.build("x")
        assert (record.commit, record.clean) == (head, True)
        made.append(record)
    assert made[0].commit == made[1].commit
    assert made[0].digest == made[1].digest
    assert made[0].build != made[1].build


def test_what_is_in_the_image_and_what_is_beside_it(project: Project) -> None:
    name = project.manifest(
        "x", [packages(project)], env={"GREETING": "hello"}, smoke=[{"commands": ["ls /"]}]
    )
    project.run("lock", name).expect(0)
    head = commit(project)
    (project.root / "manifests/new").write_text("not committed")
    record = project.build(name, env={"PBS_JOBID": "7.server"})
    assert inside(project, record, "manifest.yaml") == (project.root / "manifests/x.yaml").read_text()
    assert inside(project, record, "manifest.lock") == (project.root / "manifests/x.lock").read_text()
    provenance = json.loads(inside(project, record, "provenance.json"))
    assert provenance["commit"] == head and provenance["base"]["digest"] == record.base_digest
    assert [layer["key"] for layer in provenance["layers"]] == [layer.key for layer in record.layers]
    found = json.loads(inside(project, record, "packages.json"))["packages"]
    assert [package["name"] for package in found] == [package.name for package in record.packages]
    # What belongs to this build is in the record alone.
    shared = "".join(inside(project, record, each) for each in ("provenance.json", "packages.json"))
    for word in (os.uname().nodename, "7.server", record.built[:13], str(project.root), record.build):
        assert word not in shared
    assert (record.host, record.job, record.clean) == (os.uname().nodename, "7.server", False)
    assert record.started <= record.built
    assert record.environment["GREETING"] == "hello" and record.environment["FROM_BASE"] == "yes"
    [result] = record.smoke
    assert result.hardware and result.hardware.kernel == os.uname().release
    listed = trees.listing(project.store.image("x", record.version))
    names = ("manifest.yaml", "manifest.lock", "provenance.json", "packages.json")
    assert {path: mode for path, mode in listed.items() if path.startswith("/.kiln")} == {
        "/.kiln": "drwxr-xr-x 0/0",
        **{f"/.kiln/{each}": "-rw-r--r-- 0/0" for each in names},
    }


def test_an_sbom_with_odd_package_names_is_right_by_the_schema(project: Project) -> None:
    project.manifest("x", [packages(project)])
    record = project.build("x")
    text = project.store.beside("x", record.version, "cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    names = [each["name"] for each in json.loads(text)["components"]]
    assert ODD in names and "bash" in names and len(names) == 4
    statement = beside(project, record, "provenance.json")
    assert statement["subject"][0]["digest"]["sha256"] == record.digest.removeprefix("sha256:")
    shown = project.run("show", "x").expect(
        0, "2 of apt, 1 of Python", "CycloneDX 1.6, 4 components", "SLSA v1"
    )
    assert "signature" in shown.out
    [data] = project.run("show", "x", "--json").expect(0).events()
    assert data["sbom"] == json.loads(text) and data["provenance"] == statement


def test_a_base_without_dpkg_and_python_has_no_packages(project: Project) -> None:
    project.manifest("x")
    record = project.build("x")
    assert record.packages == () and (record.commit, record.clean) == ("", None)
    assert json.loads(inside(project, record, "packages.json"))["packages"] == []
    project.run("show", "x").expect(0, "0 of apt, 0 of Python", "signature")
    project.run("verify", "x").expect(0, "x-small-r1.sqsh", "good")


def test_an_image_on_an_image_keeps_what_that_says(project: Project) -> None:
    project.manifest("x", [{"run": "true"}])
    below = project.build("x")
    project.manifest("y", [{"run": "touch /more"}], base="image:x")
    record = project.build("y")
    assert json.loads(inside(project, record, "provenance.json"))["base"]["digest"] == below.digest
    for each in ("provenance.json", "packages.json", "manifest.yaml"):
        assert inside(project, record, f"base/{each}") == inside(project, below, each)
    assert "/.kiln/base/base" not in trees.listing(project.store.image("y", record.version))


# --- diff --------------------------------------------------------------------------------------


def test_diff_of_two_versions(project: Project) -> None:
    project.manifest("x", [packages(project)], env={"A": "1"})
    project.build("x")
    more = "\nPackage: git\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.39\n"
    project.manifest("x", [packages(project, "5.3", more)], env={"A": "2", "B": "3"})
    project.build("x")
    done = project.run("diff", "x:small-r1", "x").expect(
        0, "x small-r1 -> x small-r2", "apt packages: 1 changed, 1 added"
    )
    assert "Python packages: no change" in done.out
    rows = [line.split() for line in done.out.splitlines()]
    assert ["bash", "changed", "5.2", "5.3"] in rows and ["git", "added", "-", "2.39"] in rows
    assert ["A", "changed", "1", "2"] in rows and ["B", "added", "-", "3"] in rows
    project.run("diff", "x:small-r1", "x:current", "--markdown").expect(0, "| bash | changed | 5.2 | 5.3 |")
    [data] = project.run("diff", "x:small-r1", "x", "--json").expect(0).events("result")
    assert [each["name"] for each in data["packages"]["apt"]["added"]] == ["git"]
    project.run("diff", "x", "x").expect(0, "are the same bytes")
    project.run("diff", "x", "x:small-r9").expect(11, "no version 'small-r9'")


# --- signatures and verify ---------------------------------------------------------------------


def make_key(folder: Path, name: str) -> Path:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of a test", "-f", str(folder / name)]
    subprocess.run(argv, check=True)
    return folder / name


def allow(folder: Path, key: Path) -> Path:
    path = folder / f"allowed-{key.name}"
    path.write_text(f'curator@site namespaces="kiln" {key.with_suffix(".pub").read_text()}')
    return path


@needs_ssh
def test_signature_good_by_a_wrong_key_and_bad(project: Project, tmp_path: Path) -> None:
    mine, other = make_key(tmp_path, "mine"), make_key(tmp_path, "other")
    project.manifest("x", [{"run": "true"}])
    signing = {"key": str(mine), "allowed_signers": str(allow(tmp_path, mine)), "required": True}
    project.site("signed", signing=signing)
    project.site("strangers", signing={**signing, "allowed_signers": str(allow(tmp_path, other))})
    project.build("x", "--site", "signed")
    assert sorted(path.name for path in (project.images / "x").glob("x-*")) == [
        f"x-small-r1.{end}" for end in ("cdx.json", "json", "json.sig", "provenance.json", "sha256", "sqsh")
    ]
    project.run("verify", "x", "--site", "signed").expect(0, "x-small-r1.json.sig", "by curator@site")
    project.run("show", "x").expect(0, "x-small-r1.json.sig; to check it: invoke verify x:small-r1")
    done = project.run("verify", "x", "--site", "strangers").expect(
        16, "x-small-r1.json.sig: it is signed by the key SHA256:"
    )
    assert "allowed-other doesn't have" in done.err
    record = project.store.record("x", "small-r1")
    record.chmod(0o644)
    record.write_text(record.read_text().replace('"maintainer": ""', '"maintainer": "me"'))
    project.run("verify", "x", "--site", "signed").expect(16, "the signature by curator@site is not good")


@needs_ssh
def test_a_site_that_wants_signatures_builds_nothing_without_its_key(
    project: Project, tmp_path: Path
) -> None:
    project.manifest("x", [{"run": "true"}])
    project.site("keyless", signing={"required": True})
    project.site("lost", signing={"key": str(tmp_path / "lost"), "required": True})
    project.site("lax", signing={"key": str(tmp_path / "lost")})
    project.run("build", "x", "--site", "keyless").expect(
        4, "publishes nothing unsigned", "sites/keyless.yaml"
    )
    done = project.run("build", "x", "--site", "lost").expect(4, f"cannot sign with {tmp_path}/lost")
    assert "layer 1/1" not in done.err, "it is told before the work"
    project.nothing_published()
    project.run("build", "x", "--site", "lax").expect(0, "will have no signature")
    project.run("verify", "x", "--site", "keyless").expect(16, "there is no signature")


def test_verify_after_a_flipped_byte(project: Project) -> None:
    project.manifest("x", [{"run": "true"}])
    project.build("x")
    project.run("verify", "x").expect(0, "good")
    path = project.store.image("x", "small-r1")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    done = project.run("verify", "x").expect(
        16, "x small-r1 is not what was published", "its bytes are sha256:"
    )
    assert "x-small-r1.cdx.json" in done.out, "what is good is said too"
    [result] = project.run("verify", "x", "--json").events("result")
    assert [item["state"] for item in result["findings"]] == ["bad", "good", "good", "good", "not checked"]


# --- the same again ----------------------------------------------------------------------------


def test_rebuild_gives_the_same_and_publishes_nothing(project: Project) -> None:
    project.manifest("x", [{"run": "mkdir /made; echo 1 > /made/file"}])
    record = project.build("x")
    before = project.published()
    done = project.run("verify", "x", "--rebuild").expect(0, "built again", f"the same, {record.digest}")
    assert "layer 1/1" in done.err and "smoke" not in done.err
    assert project.published() == before and project.workspaces() == []


def test_rebuild_names_what_a_layer_makes_by_chance(project: Project) -> None:
    project.manifest(
        "x", [{"run": "cat /proc/sys/kernel/random/uuid > /etc/chance; echo fixed > /etc/fixed"}]
    )
    project.build("x")
    done = project.run("verify", "x", "--rebuild").expect(
        16, "x small-r1 comes out otherwise", "/etc/chance: contents sha256:"
    )
    assert "/etc/fixed" not in done.err
    [result] = project.run("verify", "x", "--rebuild", "--json").events("result")
    assert [item["path"] for item in result["rebuild"]["differences"]] == ["/etc/chance"]


def test_rebuild_takes_the_checkout_of_then(project: Project) -> None:
    project.file("files/text", b"then\n")
    project.manifest("x", [{"copy": {"files/text": "/etc/text"}}])
    head = commit(project)
    record = project.build("x")
    assert record.commit == head
    project.file("files/text", b"now\n")
    project.manifest("x", [{"copy": {"files/text": "/etc/text"}}, {"run": "true"}])
    commit(project)
    project.run("verify", "x", "--rebuild").expect(0, f"the same, {record.digest}")
    assert (project.root / "manifests/files/text").read_bytes() == b"now\n"


def test_rebuild_takes_the_manifest_from_the_image_where_git_has_none(project: Project) -> None:
    project.manifest("x", [{"run": "echo then > /etc/text"}])
    record = project.build("x")
    project.manifest("x", [{"run": "echo now > /etc/text"}])
    project.run("verify", "x", "--rebuild").expect(0, f"the same, {record.digest}")


def test_rebuild_on_an_image_of_ours_and_on_one_that_moved(project: Project) -> None:
    project.manifest("x", [{"run": "true"}])
    project.build("x")
    project.manifest("y", [{"run": "touch /more"}], base="image:x")
    record = project.build("y")
    project.run("verify", "y", "--rebuild").expect(0, f"the same, {record.digest}")
    project.manifest("x", [{"run": "touch /other"}])
    project.build("x")
    project.run("verify", "y", "--rebuild").expect(16, "image:x is another base now", "invoke lock y")


# --- the driver gate ---------------------------------------------------------------------------


def test_an_image_that_the_sites_driver_cannot_run_is_not_built(project: Project) -> None:
    project.manifest(
        "cuda", [{"run": "true"}], env={"CUDA_VERSION": "13.0.0.044", "NVIDIA_REQUIRE_CUDA": "cuda>=9.0"}
    )
    project.site("old", driver="560.35.05")
    project.site("new", driver="580.65.06")
    project.build("cuda")
    project.manifest("x", [{"run": "true"}], base="image:cuda")
    project.run("plan", "x", "--site", "old").expect(0, "driver", "too old: driver 560.35.05 runs CUDA 12.6")
    done = project.run("build", "x", "--site", "old").expect(16, "x would not run", "it has CUDA 13.0")
    assert "base image:cuda" not in done.err
    assert project.store.versions("x") == []
    project.run("show", "cuda", "--site", "old").expect(0, "too old")
    project.run("build", "x", "--site", "new").expect(0, "Published x")
