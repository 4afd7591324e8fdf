# ruff: noqa: T201
"""The stand-in's import and digest: a small registry client, layers by tar, enroot's image format."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import Any

from tests.standin.common import (
    LISTS,
    MACHINES,
    MANIFESTS,
    REASONS,
    fail,
    info,
    new_file,
    open_up,
    real,
    remove_all,
    said,
    setting,
    tool,
    usage,
)

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
AS_ROOT = (
    "bwrap", "--bind", "/", "/", "--dev-bind", "/dev", "/dev", "--unshare-user", "--uid", "0", "--gid", "0",
    "--cap-add", "ALL",
)  # fmt: skip


class Registry:
    """Requests to one repository, as curl and enroot's shell make them."""

    def __init__(self, uri: str) -> None:
        match = re.fullmatch(
            r"docker://(?:(?P<user>[^@/#]+)@)?(?:(?P<host>[^#/@]+)#|(?P<name>[^/#@]*[.:][^/#@]*)/)?"
            r"(?P<image>[a-z0-9/._-]+?)(?::(?P<tag>[A-Za-z0-9._:-]+))?(?:@(?P<digest>sha256:[A-Za-z0-9]+))?",
            uri,
        )
        if not match:
            fail(f"Invalid image reference: {uri}")
        self.host = match["host"] or match["name"] or "registry-1.docker.io"
        self.image, self.tag = match["image"], match["digest"] or match["tag"] or "latest"
        self.credentials = Path(os.environ["ENROOT_CONFIG_PATH"]) / ".credentials"
        self.user, self.password = match["user"] or "", ""
        self._find_login()
        self.base = f"{'http' if setting('ALLOW_HTTP') else 'https'}://{self.host}/v2/{self.image}"
        self.header: dict[str, str] = {}
        self.uri = f"docker://{self.host}#{self.image}:{self.tag}"

    def _find_login(self) -> None:
        lines = self.credentials.read_text().splitlines() if self.credentials.is_file() else []
        for words in map(str.split, lines):
            if words[:2] == ["machine", self.host.split(":")[0]] and self.user in ("", words[3]):
                self.user, self.password = words[3], words[5]
                return

    def request(
        self,
        url: str,
        accept: str = "*/*",
        ignore: tuple[int, ...] = (),
        head: bool = False,
        basic: bool = False,
    ) -> tuple[int, bytes, Any]:
        headers = {"Accept": accept, **self.header}
        if basic and self.user:
            headers["Authorization"] = "Basic " + self._basic()
        asked = urllib.request.Request(url, headers=headers, method="HEAD" if head else "GET")  # noqa: S310
        try:
            with urllib.request.urlopen(asked, timeout=30) as reply:  # noqa: S310
                return reply.status, reply.read(), reply.headers
        except urllib.error.HTTPError as error:
            if error.code not in ignore:
                shown = url.partition("?")[0]
                fail(f"URL {shown} returned error code: {error.code} {REASONS.get(error.code, '')}".rstrip())
            return error.code, b"", error.headers
        except OSError as error:
            where = urllib.parse.urlsplit(url)
            if "SSL" in str(error):
                said("curl: (35) OpenSSL: SSL routines::wrong version number", 35)
            said(
                f"curl: (7) Failed to connect to {where.hostname} port {where.port or 443}: Couldn't connect",
                7,
            )

    def _basic(self) -> str:
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def authenticate(self) -> None:
        info("Querying registry for permission grant")
        url = f"{self.base}/manifests/{self.tag}"
        challenge = self.request(url, ignore=(401,), head=True)[2].get("WWW-Authenticate", "")
        if not challenge:
            info("Permission granted")
            return
        info(f"Authenticating with user: {self.user or '<anonymous>'}")
        if self.password:
            info(f"Using credentials from file: {self.credentials}")
        kind, _, rest = challenge.partition(" ")
        parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind == "Basic":
            code = self.request(url, ignore=tuple(range(400, 600)), basic=True)[0]
            if code >= 400 or not self.password:
                sys.exit(1)
            self.header = {"Authorization": f"Basic {self._basic()}"}
        else:
            query = urllib.parse.urlencode({k: v for k, v in parameters.items() if k != "realm"})
            reply = json.loads(self.request(f"{parameters['realm']}?{query}", basic=True)[1])
            token = reply.get("token") or reply.get("access_token")
            if not token:
                return
            self.header = {"Authorization": f"Bearer {token}"}
        info("Authentication succeeded")

    def chosen(self, arch: str) -> str:
        """The URL of the manifest for `arch`: by an index where there is one."""
        code, body, _ = self.request(f"{self.base}/manifests/{self.tag}", ", ".join(LISTS), ignore=(401, 404))
        entries = json.loads(body).get("manifests", []) if code < 400 else []
        digests = [e["digest"] for e in entries if e.get("platform", {}).get("architecture") == arch]
        return f"{self.base}/manifests/{digests[0] if digests else self.tag}"

    def manifest(self, arch: str) -> dict[str, Any]:
        info("Fetching image manifest list")
        url = self.chosen(arch)
        info("Fetching image manifest")
        found: dict[str, Any] = json.loads(self.request(url, ", ".join(MANIFESTS))[1])
        if "config" not in found:
            fail(f"Could not parse digest information from {url}")
        return found

    def download(self, digest: str) -> Path:
        """A blob, into the cache."""
        target = Path(os.environ["ENROOT_CACHE_PATH"]) / digest.removeprefix("sha256:")
        if target.exists():
            return target
        code, data, _ = self.request(f"{self.base}/blobs/{digest}", ignore=tuple(range(400, 600)))
        if code >= 400:
            said(f"curl: (22) The requested URL returned error: {code}")
        if data[:2] == b"\x1f\x8b":
            try:
                zlib.decompressobj(31).decompress(data)
            except zlib.error:
                said(
                    "pigz: skipping: <stdin>: corrupted -- invalid deflate data (invalid literal/lengths set)"
                )
        if hashlib.sha256(data).hexdigest() != target.name:
            said(f"Checksum mismatch: {target.name}")
        tar = subprocess.run(["gzip", "-dfc"], input=data, stdout=subprocess.PIPE, check=True).stdout
        if not data.startswith(ZSTD_MAGIC):
            data = subprocess.run(["zstd", "-1qc"], input=tar, stdout=subprocess.PIPE, check=True).stdout
        temporary = target.with_name(f"{target.name}.{os.getpid()}")
        temporary.write_bytes(data)
        temporary.chmod(0o640)
        temporary.rename(target)
        return target


def do_digest(options: dict[str, list[str]], arguments: list[str]) -> None:
    if len(arguments) != 1:
        usage("digest")
    if not arguments[0].startswith("docker://"):
        fail(f"Invalid argument: {arguments[0]}")
    registry = Registry(arguments[0])
    registry.authenticate()
    url = registry.chosen(architecture(options))
    print(registry.request(url, ", ".join(MANIFESTS), head=True)[2]["Docker-Content-Digest"])


def architecture(options: dict[str, list[str]]) -> str:
    machine = options.get("arch", [platform.machine()])[-1]
    if machine not in MACHINES:
        fail(f"Unsupported architecture: {machine}")
    return MACHINES[machine]


def do_import(options: dict[str, list[str]], arguments: list[str]) -> None:
    if len(arguments) != 1:
        usage("import")
    uri = arguments[0]
    if not uri.startswith("docker://"):
        fail(f"Invalid argument: {uri}")
    registry = Registry(uri)
    arch = architecture(options)
    name = f"{registry.image.replace('/', '+')}+{registry.tag}.sqsh"
    target = real(options.get("output", [name])[-1])
    new_file(target, force=False)
    work = Path(tempfile.mkdtemp(prefix="enroot.", dir=os.environ["ENROOT_TEMP_PATH"]))
    try:
        registry.authenticate()
        manifest = registry.manifest(arch)
        config = registry.download(manifest["config"]["digest"])
        cache = Path(os.environ["ENROOT_CACHE_PATH"])
        wanted = [layer["digest"] for layer in manifest["layers"]]
        missing = [d for d in dict.fromkeys(wanted) if not (cache / d.removeprefix("sha256:")).exists()]
        info(f"Downloading {len(missing)} missing layers..." if missing else "Found all layers in cache")
        layers = [str(registry.download(digest)) for digest in wanted]
        info("Extracting image layers...")
        tree = work / "rootfs"
        tree.mkdir()
        program = str(Path(__file__).with_name("enroot"))
        tool(*AS_ROOT, "--", sys.executable, program, "--unpack", str(tree), *layers)
        info("Converting whiteouts...")
        write_format(tree, json.loads(plain(config)), registry.uri, arch)
        info("Creating squashfs filesystem...")
        squash(tree, target, [])
    finally:
        remove_all(work)


def unpack(tree: Path, layers: list[str]) -> None:
    """Apply layers, lowest first. Runs as the root of a user namespace."""
    for layer in layers:
        with contextlib.ExitStack() as stack:
            stream: Any = stack.enter_context(tempfile.TemporaryFile(dir=tree.parent))
            stream.write(plain(Path(layer)))
            stream.seek(0)
            members = stack.enter_context(tarfile.open(fileobj=stream)).getmembers()
        check_links(members)
        for member in members:
            make_way(tree, member)
        left_out = ["--anchored", "--exclude=dev/*", "--exclude=./dev/*", "--no-anchored", "--exclude=.wh.*"]
        # Owners can't be kept where one user is mapped; in the image all is root's.
        tool(
            "tar", "-C", str(tree), *left_out, "--use-compress-program=zstd", "--no-same-owner", "-pxf", layer
        )
        open_up(tree)


def plain(entry: Path) -> bytes:
    """What an entry of the cache holds: zstd, whatever the registry had."""
    done = subprocess.run(["zstd", "-dcq", str(entry)], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def check_links(members: list[tarfile.TarInfo]) -> None:
    """The real one unpacks each layer by itself: a hard link to a file of a lower one finds nothing."""
    names = {os.path.normpath(member.name) for member in members}
    for member in members:
        if member.islnk() and os.path.normpath(member.linkname) not in names:
            why = f"Cannot hard link to ‘{member.linkname}’: No such file or directory"
            said(f"tar: {member.name}: {why}\ntar: Exiting with failure status due to previous errors")


def make_way(tree: Path, member: tarfile.TarInfo) -> None:
    """Take away what a member whites out, or replaces by something of another kind."""
    path = tree / os.path.normpath(member.name).lstrip("/")
    if path.name == ".wh..wh..opq":
        for child in path.parent.iterdir() if path.parent.is_dir() else []:
            remove_all(child)
    elif path.name.startswith(".wh."):
        remove_all(path.with_name(path.name.removeprefix(".wh.")))
    elif (
        path != tree and os.path.lexists(path) and member.isdir() != (path.is_dir() and not path.is_symlink())
    ):
        remove_all(path)


def write_format(tree: Path, config: dict[str, Any], uri: str, arch: str) -> None:
    """The files in /etc that make a tree an image."""
    if config.get("architecture") != arch:
        print(
            "[WARN] Image architecture doesn't match the requested one: "
            f"{config.get('architecture')} != {arch}",
            file=sys.stderr,
        )
    section = config.get("config") or {}
    etc = tree / "etc"
    etc.mkdir(exist_ok=True)
    workdir = section.get("WorkingDir") or "/"
    (tree / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
    entrypoint, command = section.get("Entrypoint") or [], section.get("Cmd") or []
    if not entrypoint and not command:
        command = ["/bin/sh"]
    first, second = (" ".join(quoted(word) for word in words) for words in (entrypoint, command))
    labels = [f"# {k} {' '.join(v.split(chr(10)))}" for k, v in (section.get("Labels") or {}).items()]
    lines = [
        f"# enroot-provenance: {uri}", *labels, "", f'mkdir -p "{workdir}" 2> /dev/null',
        f'cd "{workdir}" && unset OLDPWD || exit 1', "",
        "if [ -s /etc/rc.local ]; then", "    . /etc/rc.local", "fi", "",
        "if [ $# -gt 0 ]; then", f'    exec {first} "$@"', "else", f"    exec {first} {second}", "fi",
    ]  # fmt: skip
    (etc / "rc").write_text("\n".join(lines) + "\n")
    (etc / "environment").write_text("".join(f"{line}\n" for line in section.get("Env") or []))
    form = "${{ENROOT_ROOTFS}}{0} {0} none x-create=dir,bind,rw,nosuid,nodev\n"
    (etc / "fstab").write_text("".join(form.format(name) for name in section.get("Volumes") or {}))
    local = "# This file is sourced by /etc/rc when the container starts.\n"
    (etc / "rc.local").write_text(
        local + "# It can be used to manipulate the entrypoint or the command of the container.\n"
    )


def quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def squash(tree: Path, target: Path, left_out: list[str]) -> None:
    options = os.environ.get("ENROOT_SQUASH_OPTIONS", "-comp lzo -noD -exit-on-error").split()
    argv = ["mksquashfs", str(tree), str(target), "-all-root", "-no-progress", *options]
    tool(*argv, *(["-e", *left_out] if left_out else []))
