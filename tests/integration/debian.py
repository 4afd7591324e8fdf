"""The Debian image that many tests look at: built once, behind a proxy that wants a password."""

from __future__ import annotations

import json
import os
import ssl
from functools import cached_property
from pathlib import Path
from typing import Any

from kiln.record import Record
from tests.integration import project as projects
from tests.integration import trees
from tests.integration.project import Done, Project
from tests.integration.proxy import Proxy

USER, PASSWORD = "curator", "open%21Sesame-7"
SECRETS = (PASSWORD, "open!Sesame-7")
CA_MARK = "# the certificates of a test's site"
NAME = "deb"
# A layer shows what it sees of the build; its log is looked at.
LOOK = """\
env | sort > "$TMPDIR/seen"; sed 's/^/SEEN /' "$TMPDIR/seen"
echo "CA $(head -n 1 "$SSL_CERT_FILE")"
cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | sed 's/^/CMDLINE /'; echo
"""
CHANGE = """\
useradd --create-home --shell /bin/bash alice
groupadd makers && gpasswd -a alice makers
cp /bin/cat /usr/local/bin/raw-cat && setcap cap_net_raw+ep /usr/local/bin/raw-cat
cp /bin/cat /usr/local/bin/suid-cat && chmod 4755 /usr/local/bin/suid-cat
"""
COMPILES = """\
for python in /usr/bin/python3 /opt/venv/bin/python; do
    module=humanize; [ "$python" = /usr/bin/python3 ] || module=cowsay
    "$python" -v -c "import json, $module" 2> /tmp/said || exit 1
    if grep "code object from '/.*[.]py'" /tmp/said; then exit 1; fi
    grep -q "code object from '/.*$module.*[.]pyc'" /tmp/said || { echo "nothing of $module"; exit 1; }
done
"""
LAYERS: list[dict[str, Any]] = [
    {"copy": {"constraint.txt": "/etc/pip-constraint.txt"}},
    {"apt": ["python3-pip", "libcap2-bin", "rolldice"]},
    {"pip": ["humanize"]},
    {"uv": {"venv": "/opt/venv", "packages": ["cowsay==6.1"]}},
    {"copy": [{"from": "greet", "to": "/usr/local/bin/greet"}]},
    {"run": LOOK},
    {"run": CHANGE},
]


def build(folder: Path) -> None:
    """Build it in `folder`, and write down what was seen on the way."""
    project = projects.make(folder / "project", folder)
    project.file("constraint.txt", b"humanize==4.12.0\ninflection==0.5.0\n")
    greet = project.file("greet", b'#!/bin/sh\necho "$GREETING, $*, from $PWD"\n')
    (project.root / "manifests" / greet).chmod(0o700)
    project.hook("compiles-nothing", COMPILES)
    project.manifest(
        NAME,
        LAYERS,
        base="debootstrap:bookworm",
        description="A Debian for tests",
        env={"GREETING": "Good day", "PIP_CONSTRAINT": "/etc/pip-constraint.txt"},
        workdir="/opt/work",
        entrypoint=["/usr/local/bin/greet"],
        command=["two words"],
        allow_setuid=["/usr/local/bin/suid-cat"],
        smoke=[
            {"commands": ["rolldice 1d6", "greet"]},
            {"python-imports": ["humanize"]},
            "compiles-nothing",
        ],
    )
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().openssl_cafile
    (folder / "ca.crt").write_bytes(CA_MARK.encode() + b"\n" + Path(bundle).read_bytes())
    proxy = Proxy(USER, PASSWORD)
    with proxy.running():
        env = {"http_proxy": proxy.url, "https_proxy": proxy.url, "no_proxy": "nothing.example"}
        done = project.run("build", NAME, env={**env, "SSL_CERT_FILE": str(folder / "ca.crt")})
    seen = {
        "proxy": f"127.0.0.1:{proxy.port}",
        "refused": proxy.refused,
        "requests": proxy.requests,
        "command_lines": sorted(proxy.command_lines),
    }
    (folder / "seen.json").write_text(json.dumps({**vars(done), **seen}))


class Debian:
    """That build: how it went, what its proxy saw, and the image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = Project(folder / "project", folder, projects.environment(folder / "project"))
        self.seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
        self.done = Done(self.seen["code"], self.seen["out"], self.seen["err"])
        self.done.expect(0)

    @property
    def image(self) -> Path:
        return self.project.store.image(NAME, "bookworm-r1")

    @property
    def record(self) -> Record:
        return self.project.record(NAME, "bookworm-r1")

    @cached_property
    def tree(self) -> Path:
        """What is in the exported file."""
        tree = self.folder / f"tree-{os.getpid()}"
        return tree if tree.exists() else trees.unpack(self.image, tree)

    def text(self, path: str) -> str:
        return (self.tree / path.lstrip("/")).read_text()

    def beside(self, root: Path) -> Project:
        """A project of its own with this image in its store."""
        made = projects.make(root, self.image, network=True)
        (made.images / NAME).mkdir(parents=True)
        for path in (self.project.images / NAME).iterdir():
            if path.is_symlink():
                (made.images / NAME / path.name).symlink_to(os.readlink(path))
            elif path.name.startswith(NAME):
                os.link(path, made.images / NAME / path.name)
        return made
