"""Images that must not be handed to others, and secrets of layers: what is told, what gets out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration import trees
from tests.integration.namespaces import on_overlay
from tests.integration.project import Project

TOKEN = "hf_aB3dEfG9kLmNpQ7x-0/1+2"
NETRC = "machine pypi.site.example\nlogin curator\npassword n3trc-pa55word\n"
PROXY = "http://me:pr0xy-pa55@10.9.8.7:3128"
DIRTY = (
    "mkdir -p /root/.cache/huggingface && echo hf_abc > /root/.cache/huggingface/token",
    "cp /bin/cat /bin/sucat && chmod 4755 /bin/sucat",
    "mkdir /srv && echo 'export TOKEN=abc' > /srv/.bash_history",
    "mkdir /root/.ssh && echo '-----BEGIN OPENSSH PRIVATE KEY-----' > /root/.ssh/id_ed25519",
    "mkdir /open && chmod 777 /open && echo x > /closed && chmod 0 /closed",
    'echo "proxy = $http_proxy" > /etc/wgetrc && echo "cert = $PIP_CERT" > /etc/pip.conf',
    "mkdir -p /opt/venv/bin && ln -s /nowhere/python3 /opt/venv/bin/python && : > /opt/venv/pyvenv.cfg",
    "mkdir -p /lib && : > /lib/libcuda.so.570.1 && echo host > /root/.ssh/known_hosts",
)
FOUND = {
    "/root/.cache/huggingface/token": (1, "a token of Hugging Face"),
    "/bin/sucat": (2, "setuid (4755), which the base doesn't have"),
    "/srv/.bash_history": (3, "what somebody typed"),
    "/root/.ssh/id_ed25519": (4, "a private ssh key"),
    "/open": (5, "anybody may write to it (0777)"),
    "/closed": (5, "nobody may read it (mode 0000)"),
    "/etc/wgetrc": (6, "a login in an address"),
    "/etc/pip.conf": (6, "it holds the path of the site's certificates"),
    "/opt/venv/bin/python": (7, "it leads to /nowhere/python3, which isn't in the image"),
    "/lib/libcuda.so.570.1": (8, "an empty stand-in for a file of a driver"),
    "/root/.ssh/known_hosts": (8, "it names people or hosts"),
}


def holding(folder: Path, *words: str) -> list[Path]:
    """The files below a folder in which one of `words` is; root of a namespace may read them all."""
    found = []
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            if (
                path.is_file()
                and not path.is_symlink()
                and any(word.encode() in path.read_bytes() for word in words)
            ):
                found.append(path)
    return found


def line_of(project: Project, number: int) -> int:
    lines = (project.root / "manifests/x.yaml").read_text().splitlines()
    return [at for at, line in enumerate(lines, 1) if line.startswith("- ")][number - 1]


def test_a_dirty_image_is_told_in_full_and_nothing_is_published(
    project: Project, runtime: tuple[str, dict[str, str]]
) -> None:
    name, env = runtime
    (project.root / "ca.crt").write_text("certificates\n")
    project.site("behind", proxies={"http": PROXY}, ca_bundle="./ca.crt")
    project.manifest("x", [{"run": script} for script in DIRTY])
    done = project.run("build", "x", "--site", "behind", "--runtime", name, env=env)
    done.expect(15, "error: the image of x holds", "nothing was published", "docs/clean.md")
    said = done.err.splitlines()
    for path, (number, cause) in FOUND.items():
        [at] = [at for at, line in enumerate(said) if f" {path}: {cause}" in line]
        assert f"left by layer {number} (run " in said[at + 1], path
        assert f"manifests/x.yaml:{line_of(project, number)}" in said[at + 1], path
        assert "->" in said[at + 2], path
    assert "pr0xy-pa55" not in done.said
    project.nothing_published()
    assert project.workspaces() == []


def test_where_layers_share_one_tree_the_same_is_found(project: Project) -> None:
    project.site("behind", proxies={"http": PROXY})
    project.manifest("x", [{"run": script} for script in (*DIRTY[:5], "echo $http_proxy > /etc/settings")])
    done = project.run("build", "x", "--site", "behind", within=on_overlay(project.cache))
    done.expect(
        15, "/root/.cache/huggingface/token", "/bin/sucat", "/etc/settings: it holds a password of the site's"
    )
    assert "/bin/sh" not in done.err
    project.nothing_published()


def test_what_a_manifest_allows_and_what_only_warns_is_published_and_on_record(project: Project) -> None:
    scripts = (
        DIRTY[1],
        "mkdir /root/.ssh && echo host > /root/.ssh/known_hosts",
        "echo typed > /root/.bash_history",
    )
    project.manifest("x", [{"run": script} for script in scripts], allow_setuid=["/bin/sucat"])
    record = project.build("x")
    [finding] = record.findings
    assert (finding.severity, finding.path) == ("warning", "/root/.ssh/known_hosts")
    assert finding.place.startswith("layer 2 (run mkdir /root/.ssh && echo host")
    assert finding.place.endswith(f"manifests/x.yaml:{line_of(project, 2)}")
    # The shell's own history is taken out, as anybody would wish.
    assert "/root/.bash_history" not in trees.listing(project.store.image("x", record.version))
    assert "/root/.bash_history: what was typed" in project.log("x-*/90-finish.log")


def test_a_users_own_files_stay(project: Project) -> None:
    project.manifest(
        "x", [{"run": "echo 'alice:x:1000:1000::/home/alice:/bin/bash' >> /etc/passwd; mkdir -p /home/alice"}]
    )
    image = project.store.image("x", project.build("x").version)
    assert "alice:x:1000:1000" in trees.content(image, "/etc/passwd")
    assert "/home/alice" in trees.listing(image)


# --- secrets ------------------------------------------------------------------------------------

PRINTS = """\
secret=$(cat /run/kiln/secrets/hf)
echo "plain $secret and $HF_TOKEN"
printf %s "$secret" | base64
printf 'user:%s' "$secret" | base64
while IFS= read -r -n 1 letter; do [ -z "$letter" ] || printf %02x "'$letter"; done <<< "$secret"; echo " hex"
cat "$NETRC"
ls -l /run/kiln/secrets
( echo x > /run/kiln/secrets/hf ) 2>/dev/null && exit 9
cp /run/kiln/secrets/hf /tmp/copy; cp /run/kiln/secrets/hf "$TMPDIR/copy"
"""
GONE = '[ ! -e /run/kiln/secrets ] && [ ! -e /tmp/copy ] && [ ! -e "$TMPDIR/copy" ] && [ -z "${HF_TOKEN-}" ]'
SECRETS: dict[str, Any] = {
    "hf": {"env": "HF_TOKEN", "variable": "HF_TOKEN"},
    "netrc": {"file": "~/.netrc", "variable": "NETRC"},
}
SHOWN = (
    TOKEN,
    "n3trc-pa55word",
    TOKEN.encode().hex(),
    "aGZfYUIzZEVmRzlrTG1OcFE3",
    "ZXI6aGZfYUIzZEVmRzlrTG1O",
)


@pytest.fixture
def secretive(project: Project) -> Project:
    (project.root / "home/.netrc").write_text(NETRC)
    tool = shutil.which("base64")
    assert tool
    project.file("base64", Path(tool).read_bytes())
    return project


def with_base64(*layers: object) -> list[object]:
    return [{"copy": {"from": "base64", "to": "/bin/base64", "mode": "0755"}}, *layers]


def test_a_secret_printed_in_many_forms_is_masked_and_nowhere_to_be_found(
    secretive: Project, runtime: tuple[str, dict[str, str]]
) -> None:
    name, env = runtime
    own = {**env, "HF_TOKEN": TOKEN}
    secretive.manifest("x", with_base64({"run": {"script": PRINTS, "secrets": SECRETS}}, {"run": GONE}))
    done = secretive.run("build", "x", "--json", "--runtime", name, env=own).expect(0)
    log = secretive.log("x-*/02-run.log")
    assert "plain *** and ***" in log and "*** hex" in log and "machine pypi.site.example" not in log
    for word in SHOWN:
        assert word not in done.said, word
    assert holding(secretive.root, *SHOWN[2:]) == []
    assert holding(secretive.root, *SHOWN[:2]) == [secretive.root / "home/.netrc"]
    # Another token installs the same.
    again = secretive.run("build", "x", "--runtime", name, env={**env, "HF_TOKEN": "another-t0ken"}).expect(0)
    assert "layer" not in again.err


@pytest.mark.parametrize("kept", [True, False], ids=["stacked", "flat"])
@pytest.mark.parametrize(
    "leak",
    [
        "cp /run/kiln/secrets/hf /root/plain",
        "base64 < /run/kiln/secrets/hf > /root/encoded; chmod 0 /root/encoded",
    ],
)
def test_a_layer_that_keeps_its_secret_is_refused(secretive: Project, leak: str, kept: bool) -> None:
    within = [] if kept else on_overlay(secretive.cache)
    secretive.manifest("x", with_base64({"run": {"script": leak, "secrets": {"hf": {"env": "HF_TOKEN"}}}}))
    place = leak.rpartition(" ")[2] if "chmod" in leak else "/root/plain"
    done = secretive.run("build", "x", env={"HF_TOKEN": TOKEN}, within=within)
    done.expect(
        15, "leaves a secret in the image", f"{place}: holds", f"manifests/x.yaml:{line_of(secretive, 2)}"
    )
    assert TOKEN not in done.said
    secretive.nothing_published()
    if kept:
        assert holding(secretive.root, TOKEN, "aGZfYUIzZEVmRzlrTG1OcFE3") == []
    # What is not kept is no leak.
    secretive.manifest(
        "x", with_base64({"run": {"script": f"{leak}; rm {place}", "secrets": {"hf": {"env": "HF_TOKEN"}}}})
    )
    secretive.run("build", "x", env={"HF_TOKEN": TOKEN}, within=within).expect(0)


def test_a_missing_secret_is_told_before_anything_is_made(secretive: Project) -> None:
    secretive.manifest(
        "x", [{"run": {"script": PRINTS, "secrets": {**SECRETS, "ssh": {"file": "~/.ssh/id"}}}}]
    )
    done = secretive.run("build", "x")
    done.expect(
        2,
        "secret hf: the variable HF_TOKEN is not set; type: export HF_TOKEN=",
        "secret ssh: the file ~/.ssh/id",
    )
    assert "base" not in done.err.partition("error:")[0]
    assert "netrc" not in done.err
    secretive.run("plan", "x").expect(0)


def test_a_secret_is_gone_when_its_layer_failed_and_the_build_is_kept(secretive: Project) -> None:
    secretive.manifest("x", [{"run": {"script": "exit 3", "secrets": SECRETS}}])
    secretive.run("build", "x", "--keep", env={"HF_TOKEN": TOKEN}).expect(6)
    assert holding(secretive.root, TOKEN) == []
    secretive.run("shell", "x", stdin="ls /run/kiln/secrets\n").expect(2)


def test_no_secret_is_on_a_command_line(secretive: Project) -> None:
    os.mkfifo(secretive.root / "gate")
    secretive.manifest(
        "x",
        [{"run": {"script": "echo ready; read -r _ < /mnt/gate", "secrets": SECRETS}}],
        mounts=[f"{secretive.root}/gate:/mnt/gate"],
    )
    running = secretive.start("build", "x", "--json", env={"HF_TOKEN": TOKEN})
    running.until('"line": "ready"')
    said = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    (secretive.root / "gate").write_text("go\n")
    running.end().expect(0)
    assert "unshare" in said or "bwrap" in said
    assert TOKEN not in said
