"""Containers made and run by NVIDIA enroot, 3.4 and later.

A command gets its environment from a script of Kiln's own (`start --rc`), written for that one start
and readable by nobody else: no value shows in a process list, none of the image's variables reaches
enroot's own tools, and values may hold anything. The script first says the mark (`kiln.runtime.mark`),
without which a failure is enroot's, whatever the exit code. A start through the image's own entrypoint
takes no script; there a failure is enroot's when the exit code is 1 and a line is in enroot's own form.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from kiln import files, imageformat, squashfs
from kiln.errors import BaseError, EnvironmentMissing, ExportError, RuntimeFailure
from kiln.manifest import Mount
from kiln.registry.client import Resolved, endpoint
from kiln.run import Result, TimeLimit, attach, host_environment, run
from kiln.runtime import enrootcache, enrootcall, enrootwords, environment, mark, traces
from kiln.runtime.contract import Command, Fetch, Output, Progress
from kiln.runtime.enrootcall import Places, Surroundings
from kiln.runtime.mark import Listener
from kiln.runtime.namespace import HOST, Space

OLDEST = (3, 4)
FIRST_MKSQUASHFS_STRICT = (4, 5)
STRICT = "-exit-on-error"
ATTEMPTS = 4
QUICK_SECONDS, TOOL_SECONDS, PULL_SECONDS = 60.0, 2 * 3600.0, 12 * 3600.0


class Enroot:
    """Containers in `places.containers`, made and run by the `enroot` on the caller's PATH."""

    name = "enroot"

    def __init__(
        self,
        places: Places,
        environ: Mapping[str, str],
        *,
        site: Surroundings | None = None,
        options: tuple[str, ...] = (),
        build: str = "",
        space: Space = HOST,
    ) -> None:
        self._space = space
        self._places, self._environ, self._site = places, environ, site or Surroundings()
        self._options, self._build = options or squashfs.DEFAULT_OPTIONS, build

    def version(self) -> str:
        return _dotted(self._version)

    def rootfs(self, container: str) -> Path:
        return self._space.view(self._places.containers / container)

    def import_base(
        self, resolved: Resolved, container: str, fetch: Fetch, output: Output, progress: Progress
    ) -> None:
        """Make a container from an image in a registry, pinned by digest, with enroot's own unpacking.

        Its layers are brought by `fetch`; enroot asks for the manifest, and finds the rest in its cache.
        What is worth telling on the way goes to `output`. Raises `BaseError`.
        """
        if resolved.reference is None:
            raise ValueError(f"{resolved.uri} is not in a registry")
        enrootcache.fill(resolved, fetch, self._places.cache, progress)
        where = endpoint(resolved.reference, self._site.mirrors)
        host = urlsplit(where.base).netloc
        image = self._places.private / f"{container}.sqsh"
        try:
            self._pull(f"docker://{host}#{where.repository}:{resolved.pinned}", image, where.base, output.say)
            self.create(image, container)
        finally:
            image.unlink(missing_ok=True)
        imageformat.restate_origin(self.rootfs(container), resolved.uri)

    def create(self, image: Path, container: str) -> None:
        squashfs.check(image)
        tree = self.rootfs(enrootcall.checked_name(container))
        if os.path.lexists(tree):
            raise RuntimeFailure(f"container {container} exists already: {tree}")
        argv = enrootcall.create_line(image, container)
        try:
            result = self._run(argv, f"unpack {image.name}", TOOL_SECONDS)
        except BaseException:
            files.remove_tree(tree)
            raise
        if result.returncode != 0:
            # Half a tree would hold the name.
            files.remove_tree(tree)
            raise enrootwords.failure(f"enroot could not unpack {image}", result, RuntimeFailure)

    def start(self, container: str, command: Command, output: Output) -> Result:
        listener = Listener(output)
        try:
            with self._started(container, command, listener.word) as (argv, env):
                result = run(
                    self._space.enter(argv, self._places.private),
                    what=command.what,
                    env=env,
                    timeout=command.timeout,
                    check=False,
                    cwd=self._places.private,
                    on_line=listener,
                    redact=output.redact,
                )
        except TimeLimit as error:
            raise TimeLimit(listener.without(error.result)) from None
        result = listener.without(result)
        if not _began(command, listener, result):
            what = f"enroot could not start {container} to {command.what}"
            raise enrootwords.failure(what, result, RuntimeFailure)
        return result

    def attach(self, container: str, command: Command) -> int:
        with self._started(container, command, "") as (argv, env):
            # enroot takes a squashfs file of the container's name in the current folder for the container.
            here = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(self._places.private)]
            return attach(self._space.enter([*here, *argv]), what=command.what, env=env)

    def export(self, container: str, target: Path, epoch: int) -> None:
        tree = self._existing(container)
        if os.path.lexists(target):
            raise RuntimeFailure(f"cannot export to {target}: it exists already")
        if running := traces.processes(tree):
            raise RuntimeFailure(
                f"cannot export {container}: processes still run in it ({', '.join(map(str, running))})",
                "end them, for what they write meanwhile would be half there",
            )
        with traces.taken_away(tree, ()):
            pass
        argv = enrootcall.export_line(container, target)
        try:
            result = self._run(argv, f"write {target.name}", TOOL_SECONDS, {"SOURCE_DATE_EPOCH": str(epoch)})
            if result.returncode != 0:
                raise enrootwords.failure(f"enroot could not write {target}", result, ExportError)
            squashfs.check(target)
            # The caller's umask must not decide who can start the image.
            target.chmod(0o644)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def remove(self, container: str) -> None:
        tree = self.rootfs(enrootcall.checked_name(container))
        if not os.path.lexists(tree):
            return
        if running := traces.processes(tree):
            raise RuntimeFailure(
                f"cannot remove {container}: processes still run in it ({', '.join(map(str, running))})",
                f"end them: kill {' '.join(map(str, running))}",
            )
        result = self._run(enrootcall.remove_line(container), f"remove {container}", TOOL_SECONDS)
        if result.returncode != 0:
            raise enrootwords.failure(f"enroot could not remove {tree}", result, RuntimeFailure)

    def list(self) -> list[str]:
        result = self._run(["enroot", "list"], "list containers", QUICK_SECONDS)
        if result.returncode != 0:
            raise enrootwords.failure("enroot could not list its containers", result, RuntimeFailure)
        return sorted(result.output.splitlines())

    @cached_property
    def _version(self) -> tuple[int, ...]:
        result = self._run(["enroot", "version"], "ask enroot for its version", QUICK_SECONDS)
        found = enrootwords.version(result.output)
        if result.returncode != 0 or not found:
            raise enrootwords.failure("enroot does not say its version", result, EnvironmentMissing)
        if found < OLDEST:
            raise EnvironmentMissing(
                f"enroot {_dotted(found)} is too old; Kiln works with {_dotted(OLDEST)} and later",
                "ask for a newer one, or build with: --runtime embedded",
            )
        return found

    @cached_property
    def _strict(self) -> tuple[str, ...]:
        """What keeps an unreadable file from becoming an empty one, where mksquashfs has it."""
        env = host_environment(self._environ)
        asked = "ask mksquashfs"
        said = run(["mksquashfs", "-version"], what=asked, env=env, timeout=QUICK_SECONDS, check=False)
        if enrootwords.version(said.output.partition("version ")[2]) >= FIRST_MKSQUASHFS_STRICT:
            return (STRICT,)
        usage = run(["mksquashfs", "-help"], what=asked, env=env, timeout=QUICK_SECONDS, check=False)
        return (STRICT,) if STRICT in usage.output else ()

    def _pull(self, uri: str, image: Path, base: str, say: Callable[[str], None]) -> None:
        """`enroot import`, again where that helps: finished layers are in the cache and are skipped."""
        http = base.startswith("http:")
        anonymous = False
        for _ in range(ATTEMPTS):
            result = self._import(uri, image, say, http=http, anonymous=anonymous)
            if result.returncode == 0:
                enrootwords.check_architecture(uri, result)
                return
            image.unlink(missing_ok=True)
            user = enrootwords.refused_user(result.output)
            if user and not anonymous:
                say(f"{base} refuses the login of {user}; trying without a login")
                anonymous = True
            elif enrootwords.passing(result.output):
                say(f"the download of {uri} broke off; going on where it stopped")
            else:
                break
        raise enrootwords.pull_failure(uri, result, self._credentials)

    def _import(
        self, uri: str, image: Path, say: Callable[[str], None], *, http: bool, anonymous: bool
    ) -> Result:
        self._link_credentials(anonymous=anonymous)
        options = (*enrootcall.IMPORT_OPTIONS, *self._strict)
        extra = enrootcall.pull_settings(self._site, self._home, options, http=http)
        line = enrootcall.import_line(uri, image)
        return self._run(line, f"pull {uri}", PULL_SECONDS, extra, on_line=say)

    @property
    def _home(self) -> str:
        return self._environ.get("HOME") or traces.pwd_home()

    @property
    def _credentials(self) -> Path:
        config = self._environ.get("XDG_CONFIG_HOME") or f"{self._home}/.config"
        return Path(self._environ.get("ENROOT_CONFIG_PATH") or f"{config}/enroot") / ".credentials"

    def _link_credentials(self, *, anonymous: bool) -> None:
        """Of the caller's configuration only the logins: its mounts, hooks and variables stay out."""
        link = self._places.folder("config") / ".credentials"
        link.unlink(missing_ok=True)
        if anonymous or not self._credentials.exists():
            return
        status = self._credentials.stat()
        # enroot gives a password that begins with $ to a shell.
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise BaseError(
                f"{self._credentials} is open to others, or not your own",
                f"type: chmod 600 {self._credentials}",
            )
        link.symlink_to(self._credentials.resolve())

    def _run(
        self,
        argv: Sequence[str],
        what: str,
        timeout: float,
        extra: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        env = {**self._settings(), **(extra or {})}
        private = self._places.private
        line = self._space.enter(argv, private)
        return run(line, what=what, env=env, timeout=timeout, check=False, cwd=private, on_line=on_line)

    def _settings(self) -> dict[str, str]:
        self._places.check()
        return enrootcall.settings(self._places, self._environ, (*self._options, *self._strict), self._build)

    def _existing(self, container: str) -> Path:
        tree = self.rootfs(enrootcall.checked_name(container))
        if not tree.is_dir():
            raise RuntimeFailure(f"no container {container} in {self._places.containers}")
        return tree

    @contextlib.contextmanager
    def _started(
        self, container: str, command: Command, word: str
    ) -> Iterator[tuple[Sequence[str], dict[str, str]]]:
        """The command line and environment of a start; when the block ends, all that it left is gone."""
        tree = self._existing(container)
        traces.guard(tree)
        self._places.scratch.mkdir(parents=True, exist_ok=True)
        self._places.scratch.chmod(0o1777)
        mounts = (Mount(source=self._places.scratch, target="/tmp", read_only=False), *command.mounts)
        env = {**self._settings(), **enrootcall.gpu_settings(tree, command, self._environ)}
        with contextlib.ExitStack() as after:
            after.callback(shutil.rmtree, self._places.folder("links"))
            options = [enrootcall.mount_option(self._places, tree, mount) for mount in mounts]
            script, variables = None, []
            if command.entrypoint:
                variables = enrootcall.variable_options(command.env, env)
            else:
                # Profiles of the image would print, fail, and set variables of their own.
                env["ENROOT_LOGIN_SHELL"] = "no"
                script = self._script(tree, command, word)
                after.callback(script.unlink)
            after.enter_context(traces.taken_away(tree, [mount.target for mount in mounts]))
            after.callback(traces.end_processes, tree)
            yield enrootcall.start_line(container, command, script, variables, options), env

    def _script(self, tree: Path, command: Command, word: str) -> Path:
        """The script of one start: it says the mark, takes the variables over, and becomes the command."""
        seen = environment.inside(tree, command, self._environ)
        if command.gpu and "CUDA_VISIBLE_DEVICES" in self._environ:
            seen["CUDA_VISIBLE_DEVICES"] = self._environ["CUDA_VISIBLE_DEVICES"]
        path = self._places.folder("home") / f"rc-{secrets.token_hex(8)}"
        files.write_atomic(path, mark.script(word, environment.shell_text(seen)), mode=0o600)
        return path


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _began(command: Command, listener: Listener, result: Result) -> bool:
    if command.entrypoint:
        return result.returncode != 1 or not enrootwords.own(result.output)
    return listener.heard
