# ruff: noqa: T201
"""The stand-in's start: bubblewrap, and what enroot's stock hooks do to a container."""

from __future__ import annotations

import os
import platform
import pwd
import re
import shutil
import signal
import struct
import sys
from pathlib import Path
from typing import NoReturn

from tests.standin.common import FAKED, SYSTEM_FILES, VARIABLE, container, fail, real, said, setting, usage
from tests.standin.containers import is_image


def do_start(options: dict[str, list[str]], arguments: list[str]) -> None:
    if not arguments:
        usage("start")
    name, *command = arguments
    if is_image(Path(name)):
        print("[WARN] fuse: failed to open /dev/fuse: Permission denied", file=sys.stderr)
        fail(f"Failed to mount: {real(name)}")
    tree = container(name)
    mounts, variables = ("\n".join(options.get(kind, [])).split("\n") for kind in ("mount", "env"))
    for mount in filter(None, mounts):
        if re.search(r"\s", mount):
            fail(f"Invalid argument: {mount}")
    for variable in filter(None, variables):
        if not VARIABLE.match(variable):
            fail(f"Invalid argument: {variable}")
    script = real(options["rc"][-1]) if "rc" in options else None
    if script and not script.is_file():
        fail(f"No such file or directory: {script}")
    root = "root" in options or bool(setting("REMAP_ROOT"))
    writable = "rw" in options or bool(setting("ROOTFS_WRITABLE"))
    (tree / ".lock").touch()
    env = container_variables(tree, list(filter(None, variables)))
    run_hooks(tree, env, root=root)
    binds = system_mounts(tree)
    for line in [*tree_fstab(tree), *filter(None, mounts)]:
        binds += mount_options(tree, re.split(r"[: ]+", line))
    become(tree, root, writable, binds, env, script, command, pid="pid" in options)


def container_variables(tree: Path, asked: list[str]) -> dict[str, str]:
    """/etc/environment with the host's variables filled in, the terminal, and the options."""
    path, lines = tree / "etc/environment", []
    if path.is_file():

        def value(match: re.Match[str]) -> str:
            return os.environ.get(match[1], "")

        lines = [re.sub(r"\$\{([A-Za-z_]\w*)\}", value, line) for line in path.read_text().splitlines()]
    lines.append(f"TERM={os.environ.get('TERM', '')}")
    for item in asked:
        lines += (item if "=" in item else f"{item}={os.environ.get(item, '')}").split("\n")
    env = {}
    for line in map(str.lstrip, lines):
        if re.match(r"[A-Za-z_]\w*=", line) and not line.startswith("ENROOT_"):
            key, _, text = line.partition("=")
            env[key] = re.sub(r"^[\"'](.*)[\"']\s*$", r"\1", text)
    return env


def run_hooks(tree: Path, env: dict[str, str], *, root: bool) -> None:
    """What the stock hooks do to a tree. They follow its links to wherever those lead."""
    if root and (tree / "etc/debian_version").is_file():
        (tree / "etc/apt/apt.conf.d").mkdir(parents=True, exist_ok=True)
        (tree / "etc/apt/apt.conf.d/enroot").write_text('APT::Sandbox::User "root";\n')
    zone = Path("/etc/localtime")
    (tree / "etc").mkdir(exist_ok=True)
    if zone.is_symlink():
        copy = tree / "etc/localtime"
        copy.unlink(missing_ok=True)
        copy.symlink_to(os.readlink(zone))
        target = tree / str(zone.resolve()).lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(zone, target)
    write_users(tree)
    visible = os.environ.get("NVIDIA_VISIBLE_DEVICES") or env.get("NVIDIA_VISIBLE_DEVICES") or "void"
    if visible != "void":
        hook = "/etc/enroot/hooks.d/98-nvidia.sh exited with return code 1"
        print(
            "[ERROR] Command not found: nvidia-container-cli, see https://github.com/NVIDIA/libnvidia-container",
            file=sys.stderr,
        )
        fail(hook)


def write_users(tree: Path) -> None:
    me = pwd.getpwuid(os.getuid())
    shell = me.pw_shell if os.access(f"{tree}{me.pw_shell}", os.X_OK) else "/bin/sh"
    users = [f"root:x:0:0:root:/root:{shell}", "nobody:x:65534:65534:nobody:/:/sbin/nologin"]
    groups = ["root:x:0:", "nogroup:x:65534:"]
    if me.pw_uid:
        users.append(f"{me.pw_name}:x:{me.pw_uid}:{me.pw_gid}:{me.pw_gecos}:{me.pw_dir}:{shell}")
        groups.append(f"{me.pw_name}:x:{me.pw_gid}:")
    for name, entries in (("passwd", users), ("group", groups)):
        path = tree / "etc" / name
        old = path.read_text().splitlines() if path.is_file() else []
        taken = {"_apt", *(entry.split(":")[0] for entry in entries)}
        entries += [line for line in old if line.split(":")[0] not in taken]
        path.unlink(missing_ok=True)
        path.write_text("".join(f"{entry}\n" for entry in entries))
        path.chmod(0o600)
    home = tree / me.pw_dir.lstrip("/")
    if not home.exists():
        old_mask = os.umask(0o077)
        home.mkdir(parents=True)
        os.umask(old_mask)
        if (tree / "etc/skel").is_dir():
            shutil.copytree(tree / "etc/skel", home, dirs_exist_ok=True)


def inside(tree: Path, path: str) -> Path:
    """`path` in the tree, its links followed as the container will; leaving it is an error."""
    done: list[str] = []
    pending = list(reversed(Path("/", path).parts[1:]))
    for _ in range(200):
        if not pending:
            return tree.joinpath(*done)
        part = pending.pop()
        if part == "..":
            if not done:
                said(f"enroot-mount: failed to resolve path: {tree}{path}: Cross-device link")
            done.pop()
            continue
        here = tree.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        target = Path(os.readlink(here))
        done = [] if target.is_absolute() else done
        pending.extend(reversed([p for p in target.parts if p != "/"]))
    said(f"enroot-mount: failed to resolve path: {tree}{path}: Too many levels of symbolic links")


def mount_point(tree: Path, path: str, *, is_file: bool) -> str:
    """Where `path` is to be mounted; what is made for it has no mode bits and stays."""
    here = inside(tree, path)
    if not os.path.lexists(here):
        try:
            here.parent.mkdir(parents=True, exist_ok=True)
            here.touch() if is_file else here.mkdir()
        except OSError:
            said(f"enroot-mount: failed to resolve path: {tree}{path}: Not a directory")
        here.chmod(0)
    return f"/{here.relative_to(tree)}"


def system_mounts(tree: Path) -> list[str]:
    made = {
        name: mount_point(tree, name, is_file=False)
        for name in ("/proc", "/sys", "/dev", "/tmp", "/var/run", "/var/lock")
    }
    options = [
        "--bind",
        "/proc",
        made["/proc"],
        "--ro-bind",
        "/sys",
        made["/sys"],
        "--dev-bind",
        "/dev",
        made["/dev"],
    ]
    for name in ("/tmp", "/var/run", "/var/lock"):
        options += ["--tmpfs", made[name]]
    for name in SYSTEM_FILES:
        point = mount_point(tree, f"/etc/{name}", is_file=True)
        if Path("/etc", name).exists():
            options += ["--ro-bind", os.path.realpath(f"/etc/{name}"), point]
    return options


def tree_fstab(tree: Path) -> list[str]:
    path = tree / "etc/fstab"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [line.replace("${ENROOT_ROOTFS}", str(tree)) for line in lines if line and line[0] != "#"]


def mount_options(tree: Path, fields: list[str]) -> list[str]:
    source, target = fields[0], fields[1] if len(fields) > 1 else fields[0]
    flags = fields[3].split(",") if len(fields) > 3 else ["x-create=auto"]
    if len(fields) == 3 and "=" not in fields[2]:
        reason = "No such device" if inside(tree, target).exists() else "No such file or directory"
        said(f"enroot-mount: failed to mount: {source} at {tree}{target}: {reason}")
    created = [flag for flag in flags if flag.startswith("x-create=")]
    if "tmpfs" not in fields[2:3] and not os.path.exists(source):
        if created and "ENROOT_ROOTFS" not in source and Path(source).is_relative_to(tree):
            mount_point(tree, target, is_file=False)
        else:
            said(f"enroot-mount: failed to mount: {source} at {tree}{target}: No such file or directory")
    if not created and not inside(tree, target).exists():
        said(f"enroot-mount: failed to resolve path: {tree}{target}: No such file or directory")
    is_file = created[-1:] == ["x-create=file"] or (
        created[-1:] != ["x-create=dir"] and Path(source).is_file()
    )
    return ["--ro-bind" if "ro" in flags else "--bind", source, mount_point(tree, target, is_file=is_file)]


def become(
    tree: Path, root: bool, writable: bool, binds: list[str], env: dict[str, str], script: Path | None,
    command: list[str], *, pid: bool,
) -> NoReturn:  # fmt: skip
    """Turn into bubblewrap, which runs the shell of the container with its command script."""
    shell, login = "/bin/sh", bool(setting("LOGIN_SHELL") or "ENROOT_LOGIN_SHELL" not in os.environ)
    if not os.path.exists(f"{tree}/bin/sh"):
        said("enroot-switchroot: failed to execute: /bin/sh: No such file or directory")
    here, env = logged_in(tree, env, root=root) if login else ("/", env)
    ids = ("0", "0") if root else (str(os.getuid()), str(os.getgid()))
    argv = [
        "bwrap",
        "--unshare-user",
        "--uid",
        ids[0],
        "--gid",
        ids[1],
        *(["--cap-add", "ALL"] if root else []),
    ]
    argv += [
        *(["--unshare-pid"] if pid else []),
        "--bind" if writable else "--ro-bind",
        str(tree),
        "/",
        *binds,
    ]
    argv += ["--chdir", here, "--clearenv", *[part for item in env.items() for part in ("--setenv", *item)]]
    if root and platform.machine() in FAKED:
        os.dup2(memory(seccomp()), 9)
        os.set_inheritable(9, True)
        argv += ["--seccomp", "9"]
    call = [shell, *(["-l"] if login else [])]
    if script or (tree / "etc/rc").is_file():
        os.dup2(memory((script or tree / "etc/rc").read_bytes()), 3)
        os.set_inheritable(3, True)
        call += ["/proc/self/fd/3", *command]
    elif command:
        call += ["-c", 'exec "$@"', "sh", *command]
    os.umask(0o022)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp("bwrap", [*argv, "--", *call])  # noqa: S606


def logged_in(tree: Path, env: dict[str, str], *, root: bool) -> tuple[str, dict[str, str]]:
    """The folder where a login shell starts, and the environment that it makes."""
    me = pwd.getpwuid(os.getuid())
    home, user = ("/root", "root") if root else (me.pw_dir, me.pw_name)
    env = {"HOME": home, "USER": user, "LOGNAME": me.pw_name, "SHELL": "/bin/sh", **env}
    if inside(tree, home).is_dir():
        return home, env
    said = f"enroot-switchroot: failed to change directory: {home}: No such file or directory"
    print(said, file=sys.stderr)
    return "/", env


def memory(data: bytes) -> int:
    descriptor = os.memfd_create("enroot")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def seccomp() -> bytes:
    """A filter that answers the calls that change owners and users with success."""
    numbers = FAKED[platform.machine()]
    code = [struct.pack("=HBBI", 0x20, 0, 0, 0)]
    code += [struct.pack("=HBBI", 0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    code += [struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000), struct.pack("=HBBI", 0x06, 0, 0, 0x00050000)]
    return b"".join(code)
