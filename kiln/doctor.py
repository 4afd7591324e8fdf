"""What this machine has of what Kiln needs: each thing with its use, its state and its remedy.

Owns the probes. Where a thing can be tried, it is tried: a version or a setting promises nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from kiln import debootstrap, hardware
from kiln.check import MISSING, OK, WARNING, Check
from kiln.context import Context, user_id
from kiln.errors import EnvironmentMissing, KilnError
from kiln.files import free_bytes
from kiln.registry.credentials import load as load_credentials
from kiln.run import host_environment, run, which
from kiln.runtime.sandbox import as_root
from kiln.ui import size_text

PROBE_SECONDS = 30.0
NETWORK_FILESYSTEMS = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "overlay")
USER_NAMESPACE_SETTINGS = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"),
)


def tool(context: Context, name: str, package: str, purpose: str, optional: bool = False) -> Check:
    path = which(name, host_environment(context.environ))
    if path:
        return Check(name, OK, path, purpose)
    return Check(
        name, WARNING if optional else MISSING, "not installed", purpose, f"apt-get install {package}"
    )


def user_namespaces(context: Context) -> Check:
    """Whether a process can be root in a namespace of its own: tried with the real options."""
    purpose = "being root in a container without being root"
    env = host_environment(context.environ)
    result = as_root(
        ["chown", "1:1", "/tmp"], what="try a user namespace", writable=[], env=env, timeout=PROBE_SECONDS
    )
    if result.returncode != 0:
        said = (result.tail(1) or [result.outcome()])[0]
        return Check("user namespaces", MISSING, said, purpose, _namespace_remedy())
    return Check("user namespaces", OK, "work", purpose)


def _namespace_remedy() -> str:
    for path, bad, remedy in USER_NAMESPACE_SETTINGS:
        if Path(path).exists() and Path(path).read_text().strip() == bad:
            return remedy
    return "see docs/runtimes.md, 'User namespaces'"


def squashfs_tools(context: Context) -> Check:
    """mksquashfs with zstd and -exit-on-error, which a build relies on."""
    purpose = "writing and unpacking images"
    env = host_environment(context.environ)
    if not which("mksquashfs", env) or not which("unsquashfs", env):
        return Check("squashfs-tools", MISSING, "not installed", purpose, "apt-get install squashfs-tools")
    # Help's exit code differs between versions, its text is what counts.
    help_text = run(
        ["mksquashfs", "-help"],
        what="ask mksquashfs",
        env=env,
        timeout=PROBE_SECONDS,
        check=False,
        separate=False,
    )
    version = run(
        ["mksquashfs", "-version"], what="ask mksquashfs", env=env, timeout=PROBE_SECONDS, check=False
    ).output
    lacking = [word for word in ("zstd", "-exit-on-error") if word not in help_text.output]
    if lacking:
        return Check(
            "squashfs-tools",
            MISSING,
            f"without {' and '.join(lacking)}",
            purpose,
            "install squashfs-tools 4.5 or later",
        )
    return Check("squashfs-tools", OK, (version.splitlines() or [""])[0], purpose)


def uv(context: Context) -> Check:
    purpose = "uv layers, in images without uv"
    if context.uv.is_file():
        return Check("uv (static)", OK, str(context.uv), purpose)
    return Check("uv (static)", MISSING, f"no {context.uv}", purpose, "rm -rf .venv && ./bootstrap doctor")


def ubuntu_keyring(_: Context) -> Check:
    path, purpose = debootstrap.KEYRINGS["ubuntu"], "debootstrap: bases of Ubuntu's suites"
    if path.exists():
        return Check(path.name, OK, str(path), purpose)
    return Check(path.name, WARNING, "not installed", purpose, f"copy {path} from an Ubuntu machine")


def folder(name: str, path: Path, purpose: str, writable: bool = True) -> Check:
    existing = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    detail = f"{path}, {size_text(free_bytes(path))} free, {filesystem(existing)}"
    if writable and not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            name,
            MISSING,
            f"{existing} can't be written",
            purpose,
            f"ask the owner of {existing}, or choose another --site",
        )
    return Check(name, OK, detail, purpose)


def filesystem(path: Path) -> str:
    """The type of the file system that holds `path`, from /proc/self/mounts."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), point)
        if (str(path.resolve()) + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, found
    return kind


def ca_bundle(context: Context) -> Check:
    path, purpose = context.site.ca_bundle, "trusting the site's certificates inside layers"
    if path is None:
        return Check("CA bundle", OK, "none set", purpose)
    if os.access(path, os.R_OK):
        return Check("CA bundle", OK, str(path), purpose)
    return Check(
        "CA bundle",
        MISSING,
        f"{path} can't be read",
        purpose,
        "set SSL_CERT_FILE, or ca_bundle in the site profile",
    )


def gpus(_: Context) -> Check:
    purpose = "smoke hooks that need a GPU"
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if not devices:
        return Check(
            "GPUs",
            WARNING,
            "no /dev/nvidia*",
            purpose,
            "such hooks are skipped here, and the image becomes a candidate",
        )
    return Check("GPUs", OK, f"{len(devices)}, driver {hardware.driver() or 'unknown'}", purpose)


def credentials(context: Context) -> Check:
    purpose = "logging in to registries; public images need none"
    path = context.credentials_path
    if not path.exists():
        return Check("credentials", OK, f"no {path}", purpose)
    try:
        load_credentials(path, context.environ)
    except KilnError as error:
        return Check("credentials", MISSING, error.message, purpose, error.hint)
    return Check("credentials", OK, str(path), purpose)


def enroot(context: Context) -> Iterator[Check]:
    """What enroot needs, as its documentation and its users' threads have it."""
    env = host_environment(context.environ)
    path = which("enroot", env)
    if path is None:
        yield Check(
            "enroot",
            WARNING,
            "not installed",
            "building with enroot itself",
            "the embedded runtime is used; see docs/runtimes.md",
        )
        return
    probe = {**env, "ENROOT_RUNTIME_PATH": "/tmp"}  # asked for its version, it writes nothing there
    version = run(
        ["enroot", "version"],
        what="ask enroot for its version",
        env=probe,
        timeout=PROBE_SECONDS,
        check=False,
    )
    yield Check(
        "enroot",
        OK if version.returncode == 0 else MISSING,
        f"{path} {version.output.strip()}",
        "building with enroot itself",
    )
    for name in ("enroot-mksquashovlfs", "enroot-aufs2ovlfs"):
        yield _capable(name, env)
    for name in ("jq", "curl", "zstd", "gawk"):
        yield tool(context, name, name, "enroot import")
    yield _parallel(env)
    yield tool(
        context, "squashfuse", "squashfuse", "enroot start of a .sqsh without unpacking it", optional=True
    )


def _capable(name: str, env: dict[str, str]) -> Check:
    purpose = "enroot import by an ordinary user"
    path = which(name, env)
    if path is None:
        return Check(name, MISSING, "not installed", purpose, "install enroot's package")
    if os.getuid() == 0:
        return Check(name, OK, "root needs no file capabilities", purpose)
    remedy = f"sudo setcap cap_sys_admin{',cap_mknod' if 'aufs' in name else ''}+pe {path}"
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        return Check(
            name, MISSING, "without file capabilities", purpose, remedy + " (or install enroot+caps)"
        )
    return Check(name, OK, path, purpose)


def _parallel(env: dict[str, str]) -> Check:
    purpose = "enroot import; moreutils' program of that name won't do"
    if not which("parallel", env):
        return Check("GNU parallel", MISSING, "not installed", purpose, "apt-get install parallel")
    said = run(
        ["parallel", "--version"],
        what="ask parallel",
        env={**env, "HOME": "/nonexistent"},
        timeout=PROBE_SECONDS,
        check=False,
    )
    if "GNU" not in said.output:
        return Check(
            "GNU parallel", MISSING, "another program of that name", purpose, "apt-get install parallel"
        )
    return Check("GNU parallel", OK, said.output.splitlines()[0], purpose)


def temporary(context: Context) -> Check:
    kind = filesystem(
        next(path for path in (context.site.work, *context.site.work.parents) if os.path.exists(path))
    )
    purpose = "builds; enroot import writes overlay whiteouts there"
    if kind in NETWORK_FILESYSTEMS:
        return Check(
            "work folder",
            WARNING,
            f"{context.site.work} is on {kind}",
            purpose,
            "set 'scratch' in the site profile to a local disk",
        )
    return Check("work folder", OK, f"{context.site.work} on {kind}", purpose)


def layer_store(context: Context) -> Check:
    """Whether layers can be kept here: an overlay is mounted and changed."""
    purpose, place = "reusing layers of earlier builds", context.site.trees
    refused = context.layer_store_refusal
    if refused:
        remedy = "see docs/layers.md, 'Where overlays are refused'; builds work without, and run every layer"
        return Check("layer store", WARNING, refused, purpose, remedy)
    try:
        context.layer_store.local.check()
    except KilnError as error:
        return Check("layer store", MISSING, error.message, purpose, error.hint)
    return Check("layer store", OK, f"overlays work in {place}", purpose)


def shared_tier(context: Context) -> Iterator[Check]:
    """The site's shared tier, where it has one."""
    purpose, shared = "layers made on other nodes", context.layer_store.shared
    if shared is None:
        return
    unknown = [name for name in context.site.layers.trusted if user_id(name) is None]
    if unknown:
        remedy = "look at 'trusted' in the site profile"
        yield Check("trusted users", WARNING, f"nobody here is called {', '.join(unknown)}", purpose, remedy)
    try:
        shared.check()
    except KilnError as error:
        yield Check("shared tier", MISSING, error.message, purpose, error.hint)
        return
    use = "read and written" if shared.writable else "read only: what is built here isn't put there"
    yield Check("shared tier", OK, f"{shared.root}, {use}", purpose)


def examine(context: Context) -> list[Check]:
    """Every check, in the order in which a person would mend things."""
    python = ".".join(map(str, sys.version_info[:3]))
    simple: tuple[Callable[[Context], Check], ...] = (
        user_namespaces,
        squashfs_tools,
        uv,
        ca_bundle,
        credentials,
        temporary,
        gpus,
    )
    site = context.site
    return [
        Check("Python", OK, f"{python} {shutil.which('python3') or ''}".strip(), "Kiln itself"),
        tool(context, "bwrap", "bubblewrap", "the embedded runtime, and unpacking bases"),
        tool(context, "setpriv", "util-linux", "ending children when Kiln is killed", optional=True),
        tool(context, "mmdebstrap", "mmdebstrap", "debootstrap: bases", optional=True),
        ubuntu_keyring(context),
        *(check(context) for check in simple),
        folder("images", site.images, "published images", writable=False),
        folder("cache", site.cache, "downloads, logs, work"),
        layer_store(context),
        *shared_tier(context),
        *enroot(context),
    ]


def conclude(found: list[Check]) -> None:
    """Raise `EnvironmentMissing` where something that is needed is missing."""
    missing = [item.name for item in found if item.state == MISSING]
    if missing:
        raise EnvironmentMissing(f"missing: {', '.join(missing)}", "type what the arrows above say")
