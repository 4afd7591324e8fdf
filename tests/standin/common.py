# ruff: noqa: T201
"""What all commands of the stand-in share: options, settings, messages."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

VERSION = "4.1.2"
USAGES = {
    "import": "import [options] [--] URI",
    "create": "create [options] [--] IMAGE",
    "start": "start [options] [--] NAME|IMAGE [COMMAND] [ARG...]",
    "export": "export [options] [--] NAME",
    "remove": "remove [options] [--] NAME...",
    "list": "list [options]",
    "digest": "digest [options] [--] URI",
    "help": "COMMAND [ARG...]",
}
# option -> its long name; a name that ends in = takes a value.
OPTIONS = {
    "import": {"-a": "arch=", "-o": "output="},
    "create": {"-n": "name=", "-f": "force"},
    "start": {
        "-c": "conf=", "-m": "mount=", "-e": "env=", "--rc": "rc=", "-r": "root", "-w": "rw",
        "--net": "net", "--pid": "pid", "--ipc": "ipc", "--uts": "uts",
    },
    "export": {"-o": "output=", "-f": "force"},
    "remove": {"-f": "force"},
    "list": {"-f": "fancy"},
    "digest": {"-a": "arch="},
}  # fmt: skip
LISTS = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
REASONS = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 406: "Not Acceptable",
    500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
}  # fmt: skip
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
# chown fchown lchown fchownat setuid setgid setreuid setregid setgroups setresuid setresgid
FAKED = {
    "x86_64": (92, 93, 94, 260, 105, 106, 113, 114, 116, 117, 119),
    "aarch64": (54, 55, 143, 144, 145, 146, 147, 149, 159),
}
SYSTEM_FILES = ("hosts", "hostname", "resolv.conf", "machine-id")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(=|$)")


def info(text: str) -> None:
    print(f"[INFO] {text}", file=sys.stderr, flush=True)


def fail(text: str, code: int = 1) -> NoReturn:
    print(f"[ERROR] {text}", file=sys.stderr)
    sys.exit(code)


def said(text: str, code: int = 1) -> NoReturn:
    """End with a message that is another program's."""
    print(text, file=sys.stderr)
    sys.exit(code)


def usage(command: str) -> NoReturn:
    print(f"Usage: enroot {USAGES[command]}")
    sys.exit(1)


def setting(name: str) -> str:
    """A variable, "" where it is one of the words for no."""
    value = os.environ.get(f"ENROOT_{name}", "")
    return "" if re.fullmatch(r"no?|N[oO]?|[fF](alse)?|FALSE", value) else value


def folder(name: str, default: str) -> Path:
    return Path(os.environ.get(f"ENROOT_{name}_PATH") or default)


def configure() -> None:
    """Fill in the defaults, and make the folders as every command does."""
    home = os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    run = os.environ.get("XDG_RUNTIME_DIR") or "/run"
    defaults = {
        "CACHE": f"{home}/.cache/enroot", "DATA": f"{home}/.local/share/enroot", "RUNTIME": f"{run}/enroot",
        "CONFIG": f"{home}/.config/enroot", "TEMP": os.environ.get("TMPDIR") or "/tmp",
    }  # fmt: skip
    for name, default in defaults.items():
        path = folder(name, default)
        os.environ[f"ENROOT_{name}_PATH"] = str(path)
        if name in ("CACHE", "DATA", "RUNTIME"):
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                said(f"mkdir: cannot create directory \u2018{path}\u2019: {error.strerror}")


def parse(command: str, argv: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options by long name, and what follows them; anything unknown shows the usage."""
    short, found = OPTIONS[command], dict[str, list[str]]()
    long = {f"--{name}": name for name in short.values()}
    while argv and re.match(r"-.", argv[0]):
        word = argv.pop(0)
        if word == "--":
            break
        name = short.get(word) or long.get(word) or long.get(f"{word}=")
        if name and name.endswith("="):
            value = argv.pop(0) if argv else ""
        elif "=" in word and f"{word.partition('=')[0]}=" in long:
            name, value = f"{word.partition('=')[0]}="[2:], word.partition("=")[2]
        else:
            value = "y"
        if not name or not value:
            usage(command)
        found.setdefault(name.rstrip("="), []).append(value)
    return found, argv


def real(path: str) -> Path:
    """readlink -f: all but the last part must exist."""
    parent = os.path.realpath(os.path.dirname(path) or ".")
    if not os.path.isdir(parent):
        fail(f"No such file or directory: {path}")
    return Path(os.path.realpath(path))


def container(name: str, *, must: bool = True) -> Path:
    if not name:
        fail("Invalid argument")
    if "/" in name:
        fail(f"Invalid argument: {name}")
    path = real(f"{os.environ['ENROOT_DATA_PATH']}/{name}")
    if must and not path.is_dir():
        fail(f"No such file or directory: {path}")
    return path


def new_file(path: Path, *, force: bool) -> None:
    if path.exists():
        if not force:
            fail(f"File already exists: {path}")
        remove_all(path)


def remove_all(path: Path) -> None:
    subprocess.run(["chmod", "-R", "u+rwX", str(path)], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", str(path)], check=True)


def open_up(path: Path) -> None:
    subprocess.run(["chmod", "-f", "-R", "u+rX", str(path)], check=False)


def tool(*argv: str) -> None:
    """A program whose words go to stderr and whose failure is enroot's."""
    code = subprocess.run(argv, check=False, stdout=sys.stderr).returncode
    if code:
        sys.exit(code)
