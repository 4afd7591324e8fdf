"""The embedded runtime: enroot's operations by bubblewrap and squashfs-tools, for root or anybody.

A container is a folder below `containers`; all in it belongs to the caller and appears as 0:0.
Owns how a container's tree is mounted and what a process in it sees. Limits: docs/runtimes.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kiln import files, squashfs
from kiln.errors import RuntimeFailure
from kiln.manifest import Mount
from kiln.run import Result, TimeLimit, attach, host_environment, run
from kiln.runtime import environment, gpu, mark, traces
from kiln.runtime.contract import Command, Output
from kiln.runtime.mark import Listener
from kiln.runtime.namespace import HOST, Space
from kiln.runtime.sandbox import AS_ROOT, ISOLATED, Call, as_root, bind, sandboxed
from kiln.workspace import MARK

HOST_FILES = ("/etc/hosts", "/etc/resolv.conf")
FOLDERS = ("/dev", "/proc", "/sys", "/tmp", "/run", "/etc")
ORDINARY_UID = 1000
TOOL_SECONDS = 3600.0


class Embedded:
    """Containers in `containers`, with their /tmp in `scratch`."""

    name = "embedded"

    def __init__(
        self,
        containers: Path,
        scratch: Path,
        environ: Mapping[str, str],
        options: tuple[str, ...],
        build: str = "",
        space: Space = HOST,
    ) -> None:
        self._space = space
        self._containers, self._scratch = containers, scratch
        self._environ, self._squash = environ, options
        # By this mark the next run finds what `kill -9` may have left of this one.
        self._env = host_environment(environ, {MARK: build} if build else None)

    def version(self) -> str:
        result = run(["bwrap", "--version"], what="ask bubblewrap for its version", env=self._env, timeout=30)
        return result.output.strip()

    def rootfs(self, container: str) -> Path:
        return self._space.view(self._place(container))

    def _place(self, container: str) -> Path:
        """Where the runtime's own programs find the tree."""
        return self._containers / container

    def create(self, image: Path, container: str) -> None:
        squashfs.check(image)
        tree = self._new(container)
        argv = ["unsquashfs", "-no-progress", "-force", "-dest", str(self._place(container)), str(image)]
        try:
            self._tool(argv, f"unpack {image.name}", self._containers)
        except BaseException:
            files.remove_tree(tree)
            raise

    def start(self, container: str, command: Command, output: Output) -> Result:
        listener = Listener(output)
        try:
            with self._call(container, command, listener.word) as call:
                result = run(
                    self._space.enter(call.argv),
                    what=command.what,
                    env=self._env,
                    timeout=command.timeout,
                    check=False,
                    on_line=listener,
                    redact=output.redact,
                    pass_fds=call.descriptors,
                )
        except TimeLimit as error:
            raise TimeLimit(listener.without(error.result)) from None
        if not (listener.heard or command.entrypoint):
            said = (result.tail(1) or [result.outcome()])[0]
            raise RuntimeFailure(f"cannot {command.what}: {said}", "run: invoke doctor", result.tail(15))
        return listener.without(result)

    def attach(self, container: str, command: Command) -> int:
        with self._call(container, command, "") as call:
            return attach(
                self._space.enter(call.argv), what=command.what, env=self._env, pass_fds=call.descriptors
            )

    def export(self, container: str, target: Path, epoch: int) -> None:
        tree = self.rootfs(container)
        if target.exists():
            raise RuntimeFailure(f"cannot export to {target}: it exists already")
        argv = [
            "mksquashfs",
            str(self._place(container)),
            str(target),
            *squashfs.arguments(self._squash),
            *_left_out(tree),
        ]
        self._tool(argv, f"write {target.name}", target.parent, epoch)

    def remove(self, container: str) -> None:
        files.remove_tree(self.rootfs(container))

    def list(self) -> list[str]:
        return sorted(path.name for path in self._containers.iterdir()) if self._containers.is_dir() else []

    def _new(self, container: str) -> Path:
        tree = self.rootfs(container)
        if tree.exists():
            raise RuntimeFailure(f"container {container} exists already: {tree}")
        tree.mkdir(parents=True)
        return tree

    def _tool(self, argv: Sequence[str], what: str, writable: Path, epoch: int | None = None) -> None:
        env = self._env if epoch is None else {**self._env, "SOURCE_DATE_EPOCH": str(epoch)}
        result = as_root(
            argv, what=what, writable=[writable], env=env, timeout=TOOL_SECONDS, space=self._space
        )
        if result.returncode != 0:
            raise RuntimeFailure(f"{what}: {result.outcome()}", "run: invoke doctor", result.tail(15))

    @contextlib.contextmanager
    def _call(self, container: str, command: Command, word: str) -> Iterator[Call]:
        """bwrap for `command`; without a `word` to say at its start it gets the caller's terminal."""
        tree = self.rootfs(container)
        if not tree.is_dir():
            raise RuntimeFailure(f"no container {container} in {self._containers}")
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._scratch.chmod(0o1777)
        passed = gpu.find(self._environ) if command.gpu else gpu.NOTHING
        env = passed.visible(environment.inside(tree, command, self._environ))
        options = [*ISOLATED, *self._identity(command)] + (["--new-session"] if word else [])
        shell = ("-l", "/etc/rc") if command.entrypoint else ("-c", mark.script(word).decode(), "sh")
        argv = ("/bin/sh", *shell, *command.argv)
        targets = [mount.target for mount in command.mounts]
        with traces.mount_points(tree, targets), _mount_points(tree) as placed:
            options += [
                "--bind",
                str(self._place(container)),
                "/",
                "--dev",
                placed["/dev"],
                "--proc",
                placed["/proc"],
            ]
            options += ["--ro-bind", "/sys", placed["/sys"], "--bind", str(self._scratch), placed["/tmp"]]
            options += ["--tmpfs", placed["/run"]]
            for name in HOST_FILES:
                options += ["--ro-bind-try", name, placed[name]]
            options += [*self._mounts(tree, command), *passed.options]
            options += ["--chdir", "/"] + ([] if command.root else ["--remount-ro", "/"])
            with sandboxed(options, argv, env, fake_root=command.root) as call:
                yield call

    def _identity(self, command: Command) -> tuple[str, ...]:
        if command.root:
            return AS_ROOT
        uid, gid = (os.getuid(), os.getgid()) if os.getuid() else (ORDINARY_UID, ORDINARY_UID)
        return ("--uid", str(uid), "--gid", str(gid))

    def _mounts(self, tree: Path, command: Command) -> Sequence[str]:
        options = []
        for mount in command.mounts:
            inside = str(files.resolve_inside(tree, mount.target))
            options += bind(Mount(source=mount.source, target=inside, read_only=mount.read_only))
        return options


@contextlib.contextmanager
def _mount_points(tree: Path) -> Iterator[dict[str, str]]:
    """Make what must exist to be mounted on, and take it away after; yields where each lies in the tree.

    The tree is a foreign one: bwrap would follow links in it, so nothing but resolved places are
    handed to it.
    """
    with contextlib.ExitStack() as made:
        placed: dict[str, str] = {}
        for name in FOLDERS:
            inside = files.resolve_inside(tree, name)
            placed[name] = str(inside)
            here = tree.joinpath(*inside.parts[1:])
            if not here.is_dir():
                here.mkdir(parents=True)
                made.callback(_rmdir_empty, here)
        for name in HOST_FILES:
            inside = files.resolve_inside(tree, name)
            placed[name] = str(inside)
            here = tree.joinpath(*inside.parts[1:])
            # Below /run it is made on the tmpfs by bwrap itself.
            if not inside.is_relative_to(placed["/run"]) and not here.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                here.touch()
                made.callback(_remove_empty, here)
        yield placed


def _rmdir_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def _remove_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.stat(follow_symlinks=False).st_size == 0:
            path.unlink()


def _left_out(tree: Path) -> list[str]:
    """What enroot leaves out too: what is in /dev, and its own marks; as mksquashfs's -e wants it, last."""
    names = [f"dev/{entry.name}" for entry in os.scandir(tree / "dev")] if (tree / "dev").is_dir() else []
    names += [name for name in (".lock", ".enroot") if (tree / name).exists()]
    return ["-e", *names] if names else []
