"""enroot's command lines and variables, for 3.4 and later: nothing else knows its flags.

Owns the words of every call, the settings that go with it, and the folders that those name. Runs
nothing, but makes the folders.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kiln import files
from kiln.errors import EnvironmentMissing, RuntimeFailure
from kiln.manifest import Mount
from kiln.run import host_environment
from kiln.runtime import environment, gpu
from kiln.runtime.contract import Command

CONNECT_SECONDS, TRANSFER_SECONDS, RETRIES = 30, 4 * 3600, 5
# The file lives for a minute: at level 1 it costs a tenth of enroot's own lzo.
IMPORT_OPTIONS = ("-comp", "zstd", "-Xcompression-level", "1")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
AWKWARD = re.compile(r"[\s:\\]")
MARK = "KILN_BUILD"
# What a site's configuration could switch on, to the harm of a build.
SWITCHED_OFF = (
    "ALLOW_HTTP",
    "ALLOW_SUPERUSER",
    "FORCE_OVERRIDE",
    "MOUNT_HOME",
    "REMAP_ROOT",
    "ROOTFS_WRITABLE",
)


@dataclass(frozen=True)
class Places:
    """The folders that enroot works in; all but `cache`, which builds share, belong to one build."""

    containers: Path
    private: Path
    scratch: Path
    cache: Path

    def folder(self, name: str) -> Path:
        """A folder of the build's own for config, runtime, tmp, home or links."""
        path = self.private / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def check(self) -> None:
        """Raise `EnvironmentMissing` for folders that enroot's own tools can't be told."""
        for path in (self.containers, self.private):
            if AWKWARD.search(str(path)):
                raise EnvironmentMissing(
                    f"enroot cannot work in {path}: its tools split names at blanks and colons",
                    "set 'scratch' in the site profile to another folder",
                )


@dataclass(frozen=True)
class Surroundings:
    """What a site says: `mirrors` are URLs by registry, `proxies` variables in lower and upper case."""

    proxies: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: Path | None = None
    mirrors: Mapping[str, str] = field(default_factory=dict)


def settings(
    places: Places, environ: Mapping[str, str], options: tuple[str, ...], build: str
) -> dict[str, str]:
    """enroot's own environment: every setting that matters said, since a site's file may say others."""
    variables = {
        **{f"ENROOT_{name}": "no" for name in SWITCHED_OFF},
        "ENROOT_CONFIG_PATH": str(places.folder("config")),
        "ENROOT_CACHE_PATH": str(places.cache),
        "ENROOT_DATA_PATH": str(places.containers),
        "ENROOT_RUNTIME_PATH": str(places.folder("runtime")),
        "ENROOT_TEMP_PATH": str(places.folder("tmp")),
        "ENROOT_LOGIN_SHELL": "yes",
        "ENROOT_MAX_PROCESSORS": str(len(os.sched_getaffinity(0))),
        "ENROOT_CONNECT_TIMEOUT": str(CONNECT_SECONDS),
        "ENROOT_TRANSFER_TIMEOUT": str(TRANSFER_SECONDS),
        "ENROOT_TRANSFER_RETRIES": str(RETRIES),
        "ENROOT_SQUASH_OPTIONS": " ".join(options),
        "NVIDIA_VISIBLE_DEVICES": "void",
        "MELLANOX_VISIBLE_DEVICES": "void",
        "HOME": str(places.folder("home")),
        **({MARK: build} if build else {}),
    }
    return host_environment(environ, variables)


def pull_settings(site: Surroundings, home: str, options: tuple[str, ...], *, http: bool) -> dict[str, str]:
    """What an import needs beside: the way to the registry.

    `home` is the caller's: a password in the credentials file may be a command that looks there.
    """
    variables = {"ENROOT_SQUASH_OPTIONS": " ".join(options), "HOME": home, **site.proxies}
    if http:
        variables["ENROOT_ALLOW_HTTP"] = "yes"
    if site.ca_bundle:
        variables |= dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(site.ca_bundle))
    return variables


def gpu_settings(tree: Path, command: Command, environ: Mapping[str, str]) -> dict[str, str]:
    """What has enroot's hooks show the GPUs: the image's own choice, else all; {} where there are none."""
    if not command.gpu or gpu.find(environ) == gpu.NOTHING:
        return {}
    wanted = environment.inside(tree, command, {}).get("NVIDIA_VISIBLE_DEVICES", "")
    return {
        "NVIDIA_VISIBLE_DEVICES": "all" if wanted in ("", "void", "none") else wanted,
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    }


def import_line(uri: str, image: Path) -> list[str]:
    return ["enroot", "import", "--output", str(image), "--", uri]


def create_line(image: Path, container: str) -> list[str]:
    return ["enroot", "create", "--name", container, "--", str(image.resolve())]


def export_line(container: str, target: Path) -> list[str]:
    return ["enroot", "export", "--output", str(target), "--", container]


def remove_line(container: str) -> list[str]:
    return ["enroot", "remove", "--force", "--", container]


def start_line(
    container: str, command: Command, script: Path | None, variables: list[str], mounts: list[str]
) -> list[str]:
    argv = ["enroot", "start", *(["--root", "--rw"] if command.root else [])]
    argv += ["--rc", str(script)] if script else []
    argv += [part for variable in variables for part in ("--env", variable)]
    argv += [part for mount in mounts for part in ("--mount", mount)]
    return [*argv, "--", container, *command.argv]


def mount_option(places: Places, tree: Path, mount: Mount) -> str:
    """One mount in enroot's form, which knows no blanks and colons: a link stands for such a source."""
    if not os.path.exists(mount.source):  # Path's own raises for one that can't be seen
        raise RuntimeFailure(f"cannot mount {mount.source}: it does not exist")
    target = str(files.resolve_inside(tree, mount.target))
    if AWKWARD.search(target):
        raise RuntimeFailure(f"enroot cannot mount at '{target}': blanks and colons split its lines")
    source = mount.source.absolute()
    if AWKWARD.search(str(source)):
        link = places.folder("links") / secrets.token_hex(8)
        link.symlink_to(source)
        source = link
    # As bubblewrap does it: what is mounted below a folder comes along.
    kind, bind = ("dir", "rbind") if source.is_dir() else ("file", "bind")
    return f"{source}:{target}:none:x-create={kind},{bind},{'ro' if mount.read_only else 'rw'}"


def variable_options(variables: Mapping[str, str], env: dict[str, str]) -> list[str]:
    """`--env` options for a start through the image's entrypoint; values go into enroot's own `env`.

    A name that enroot needs itself gets its value on the command line instead.
    """
    options = []
    for name, value in variables.items():
        if "\n" in value or value[:1] in ("'", '"') or not environment.NAME.fullmatch(name):
            raise RuntimeFailure(f"enroot cannot pass the variable {name} to an image's entrypoint as it is")
        if name in env or name.startswith(("LD_", "BASH", "ENROOT_")):
            options.append(f"{name}={value}")
        else:
            options.append(name)
            env[name] = value
    return options


def checked_name(container: str) -> str:
    if not NAME.fullmatch(container):
        raise RuntimeFailure(f"'{container}' is no name for a container: letters, digits and . _ - only")
    return container
