"""The contestants: Kiln, enroot's own chain, and buildah with mksquashfs, behind one protocol.

Each makes the same image of the same work, as its users would, with squashfs packed by zstd at level 3 but
for enroot's defaults. Each works in a folder of its own, and keeps between builds what it keeps by itself:

    Kiln     its cache: downloaded layers of bases, and whatever else is in KILN_CACHE
    enroot   its cache of downloaded layers; every build imports, creates, runs, exports and removes
    buildah  its storage, with images and the layers of `bud --layers`; mksquashfs runs every time
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from benchmarks.network import INSIDE, Network
from benchmarks.stack import Work
from kiln import files, squashfs
from kiln.run import host_environment, which

ENROOT_TUNED = "-comp zstd -Xcompression-level 3"
IMAGE = "bench"
# What openssh-client and tmux bring.
SETUID = ("/usr/lib/openssh/ssh-keysign", "/usr/bin/ssh-agent", "/usr/lib/x86_64-linux-gnu/utempter/utempter")
# A caller's own settings must not decide what is measured.
FOREIGN = ("KILN_", "ENROOT_", "BUILDAH_", "CONTAINERS_", "STORAGE_", "REGISTRY_")


@dataclass(frozen=True)
class Call:
    """One program to be measured."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path


class Contestant(Protocol):
    """`name` is for options, `title` for tables."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def missing(self) -> str:
        """What this machine lacks for it, with the command that mends it; "" for nothing."""

    def forget(self) -> None:
        """Go back to a first day: no cache, no image."""

    def prepare(self, work: Work) -> Call:
        """The program that builds `work`; what an earlier build made for the user is out of its way."""

    def result(self) -> Path:
        """The finished .sqsh file."""


def _environment(environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN)}
    return {**kept, **host_environment(environ), **extra}


def _lacking(tools: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """`tools` by the package that brings each."""
    env = host_environment(environ)
    absent = {tool: package for tool, package in tools.items() if which(tool, env) is None}
    if not absent:
        return ""
    return f"no {', '.join(absent)} on PATH; {'; '.join(dict.fromkeys(absent.values()))}"


@dataclass(frozen=True)
class Kiln:
    """This checkout's Kiln, as a program, in a project of its own with one manifest."""

    folder: Path
    root: Path
    environ: Mapping[str, str]
    runtime: str = "embedded"

    @property
    def name(self) -> str:
        return "kiln" if self.runtime == "embedded" else "kiln-enroot"

    @property
    def title(self) -> str:
        return f"Kiln ({self.runtime})"

    def missing(self) -> str:
        if self.runtime == "enroot":
            return _lacking({"enroot": "install NVIDIA enroot"}, self.environ)
        tools = {"bwrap": "apt-get install bubblewrap", "mksquashfs": "apt-get install squashfs-tools"}
        return _lacking(tools, self.environ)

    def forget(self) -> None:
        files.remove_tree(self.folder)
        for name in ("manifests", "hooks", "sites"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(self.root / "sites/local.yaml", self.folder / "sites")

    def manifest(self, work: Work, name: str = IMAGE) -> Path:
        """Write the manifest of `work`."""
        data = {
            "format": 1,
            "name": name,
            "base": work.base,
            "layers": [{"apt": list(work.apt)}, {"pip": list(work.pip)}],
            "allow_setuid": list(SETUID),
        }
        path = self.folder / f"manifests/{name}.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    def prepare(self, work: Work) -> Call:
        self.manifest(work)
        return self.call("build", IMAGE, "--runtime", self.runtime)

    def call(self, *arguments: str) -> Call:
        places = {"KILN_CACHE": str(self.folder / "cache"), "KILN_IMAGES": str(self.folder / "images")}
        program = str(Path(sys.executable).parent / "kiln")
        return Call([program, *arguments], _environment(self.environ, places), self.folder)

    def result(self) -> Path:
        return (self.folder / f"images/{IMAGE}/current.sqsh").resolve()


@dataclass(frozen=True)
class Enroot:
    """enroot's own chain: import, create, start --root --rw, export, remove.

    `options` is ENROOT_SQUASH_OPTIONS; "" leaves enroot's defaults.
    """

    folder: Path
    network: Network
    environ: Mapping[str, str]
    options: str = ""

    @property
    def name(self) -> str:
        return "enroot-tuned" if self.options else "enroot"

    @property
    def title(self) -> str:
        return "enroot, zstd 3" if self.options else "enroot, defaults"

    def missing(self) -> str:
        return _lacking({"enroot": "install NVIDIA enroot, or put it on PATH"}, self.environ)

    def forget(self) -> None:
        files.remove_tree(self.folder)
        self.folder.mkdir()

    def prepare(self, work: Work) -> Call:
        self.network.write(self.folder / "inside")
        self.result().unlink(missing_ok=True)
        return Call(["sh", "-euc", self._script(work)], self._env(), self.folder)

    def result(self) -> Path:
        return self.folder / "image.sqsh"

    def _script(self, work: Work) -> str:
        registry, _, rest = work.base.partition("/")
        mount = f"{self.folder}/inside:{INSIDE}:none:x-create=dir,bind,ro"
        steps = f"sh {INSIDE}/apt.sh {_words(work.apt)} && sh {INSIDE}/pip.sh {_words(work.pip)}"
        lines = [
            f"enroot import --output base.sqsh 'docker://{registry}#{rest}'",
            f"enroot create --name {IMAGE} base.sqsh",
            "rm base.sqsh",
            f"enroot start --root --rw --mount {shlex.quote(mount)} {IMAGE} sh -ec {shlex.quote(steps)}",
            f"enroot export --output {self.result().name} {IMAGE}",
            f"enroot remove --force {IMAGE}",
        ]
        return "\n".join(lines)

    def _env(self) -> dict[str, str]:
        places = {}
        for name in ("CONFIG", "CACHE", "DATA", "RUNTIME", "TEMP"):
            path = self.folder / name.lower()
            path.mkdir(mode=0o700, exist_ok=True)
            places[f"ENROOT_{name}_PATH"] = str(path)
        settings = {
            **places,
            "ENROOT_ALLOW_HTTP": "yes",
            "NVIDIA_VISIBLE_DEVICES": "void",
            "MELLANOX_VISIBLE_DEVICES": "void",
            **({"ENROOT_SQUASH_OPTIONS": self.options} if self.options else {}),
        }
        return _environment(self.environ, settings)


@dataclass(frozen=True)
class Buildah:
    """`buildah bud --layers`, then mksquashfs of the mounted image."""

    folder: Path
    network: Network
    environ: Mapping[str, str]
    driver: str = "overlay"
    name: str = field(default="buildah", init=False)
    title: str = field(default="buildah, mksquashfs", init=False)

    def missing(self) -> str:
        tools = {"buildah": "apt-get install buildah", "mksquashfs": "apt-get install squashfs-tools"}
        return _lacking(tools, self.environ)

    def forget(self) -> None:
        files.remove_tree(self.folder)
        self.folder.mkdir()

    def prepare(self, work: Work) -> Call:
        self.network.write(self.folder / "inside")
        self.result().unlink(missing_ok=True)
        context = self.folder / "context"
        context.mkdir(exist_ok=True)
        lines = [
            f"FROM {work.base}",
            f"RUN sh {INSIDE}/apt.sh {_words(work.apt)}",
            f"RUN sh {INSIDE}/pip.sh {_words(work.pip)}",
        ]
        (context / "Containerfile").write_text("\n".join(lines) + "\n")
        # Its mounts are in a namespace that ends with the script.
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", self._script()]
        return Call(argv, _environment(self.environ, {"TMPDIR": str(self._temporary())}), self.folder)

    def result(self) -> Path:
        return self.folder / "image.sqsh"

    def _temporary(self) -> Path:
        path = self.folder / "tmp"
        path.mkdir(exist_ok=True)
        return path

    def _script(self) -> str:
        places = f"--root {self.folder}/graph --runroot {self.folder}/run --storage-driver {self.driver}"
        volume = shlex.quote(f"{self.folder}/inside:{INSIDE}:ro")
        options = "--layers --pull=always --isolation chroot --network host --tls-verify=false"
        pack = _words((*squashfs.arguments(()), "-processors", str(len(os.sched_getaffinity(0)))))
        lines = [
            f"buildah {places} bud {options} --volume {volume} --tag {IMAGE} context",
            f"container=$(buildah {places} from --pull=never {IMAGE})",
            f"tree=$(buildah {places} mount $container)",
            f'mksquashfs "$tree" {self.result().name} {pack}',
            f"buildah {places} umount $container",
            f"buildah {places} rm $container",
        ]
        return "\n".join(lines)


def _words(words: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, words))


def all_of(
    folder: Path, root: Path, network: Network, environ: Mapping[str, str], runtimes: Sequence[str]
) -> list[Contestant]:
    """Every contestant, each in its own part of `folder`; Kiln once for each runtime, and first."""
    kilns = [Kiln(folder / f"kiln-{runtime}", root, environ, runtime) for runtime in runtimes]
    return [
        *kilns,
        Enroot(folder / "enroot", network, environ),
        Enroot(folder / "enroot-tuned", network, environ, ENROOT_TUNED),
        Buildah(folder / "buildah", network, environ),
    ]
