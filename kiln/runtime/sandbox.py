"""bubblewrap command lines: a container's tree as /, or the host's tools as fake root.

Owns every flag of bwrap, and nothing of what runs inside. Arguments go through a file descriptor
(`--args`), so that no environment value shows in a process list.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln.errors import EnvironmentMissing, SpaceError
from kiln.manifest import Mount
from kiln.run import Result, run, which
from kiln.runtime import orphans, seccomp
from kiln.runtime.contract import Output
from kiln.runtime.namespace import HOST, Space

ISOLATED = (
    "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
    "--hostname", "kiln",
    "--die-with-parent",
)  # fmt: skip
SCRATCH = "/dev/shm"  # on the tmpfs that --dev makes
AS_ROOT = ("--uid", "0", "--gid", "0", "--cap-add", "ALL")


@dataclass(frozen=True)
class Call:
    """A ready command line and the descriptors that it needs."""

    argv: tuple[str, ...]
    descriptors: tuple[int, ...]


@contextlib.contextmanager
def sandboxed(
    options: Sequence[str], argv: Sequence[str], env: Mapping[str, str], *, fake_root: bool
) -> Iterator[Call]:
    """bwrap with `options`, running `argv` with exactly the environment `env`.

    Raises `EnvironmentMissing` without bwrap, or on a machine whose system calls aren't known.
    """
    bwrap = which("bwrap", os.environ)
    if bwrap is None:
        raise EnvironmentMissing(
            "'bwrap' is not installed; the embedded runtime builds in it", "run: apt-get install bubblewrap"
        )
    # Host variables such as LD_PRELOAD of an image must reach neither bwrap nor a process list.
    variables = ["--clearenv"]
    for name, value in env.items():
        variables += ["--setenv", name, value]
    with contextlib.ExitStack() as stack:
        arguments = stack.enter_context(
            _memory_file("\0".join([*options, *variables, ""]).encode(errors="surrogateescape"))
        )
        call = [bwrap, "--args", str(arguments)]
        descriptors = [arguments]
        if fake_root:
            filter_file = stack.enter_context(_memory_file(_filter()))
            call += ["--seccomp", str(filter_file)]
            descriptors.append(filter_file)
        stack.enter_context(orphans.ended())
        yield Call((*call, "--", *argv), tuple(descriptors))


def _filter() -> bytes:
    machine = platform.machine()
    if machine not in seccomp.FAKED:
        raise EnvironmentMissing(
            f"the embedded runtime does not know this machine's system calls ({machine})",
            "build on x86_64 or aarch64, or install enroot",
        )
    return seccomp.program(machine)


@contextlib.contextmanager
def _memory_file(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("kiln")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def as_root(  # noqa: PLR0913 # a command has this many sides
    argv: Sequence[str],
    *,
    what: str,
    writable: Sequence[Path],
    env: Mapping[str, str],
    timeout: float,
    output: Output = Output(),  # noqa: B008 # frozen
    fake_root: bool = True,
    pass_fds: Sequence[int] = (),
    space: Space = HOST,
) -> Result:
    """Run a tool of the host as root of a namespace, with nothing but `writable` to write to.

    `timeout` is in seconds. With `fake_root`, what a namespace doesn't let its root do (owners, devices)
    seems to work, and isn't done; whiteouts can be made without only. The result has its exit code, also
    when that isn't 0. Raises `SpaceError` where the disk was full.
    """
    with sandboxed(_host_tools(writable), argv, env, fake_root=fake_root) as call:
        result = run(
            space.enter(call.argv),
            what=what,
            env=env,
            timeout=timeout,
            check=False,
            log=output.log,
            on_line=output.on_line,
            redact=output.redact,
            pass_fds=(*call.descriptors, *pass_fds),
        )
    if result.returncode != 0 and result.disk_full:
        raise SpaceError(
            f"{what}: the disk is full", f"see: df -h {' '.join(map(str, writable))}", result.tail(5)
        )
    return result


def _host_tools(writable: Sequence[Path]) -> list[str]:
    """Options for a tool of the host that must be root to store owners, modes and capabilities.

    The host's tree is there read-only, except `writable`. /tmp too, where a cache or a CA bundle may lie:
    for its own files such a tool has `SCRATCH`.
    """
    options = [*ISOLATED, *AS_ROOT, "--new-session"]
    options += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for path in writable:
        options += ["--bind", str(path), str(path)]
    return options


def bind(mount: Mount) -> list[str]:
    """Options for one mount; the target must exist or lie on a fresh tmpfs."""
    return ["--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.target]
