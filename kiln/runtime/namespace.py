"""Where a runtime works: on the host as it is, or in a namespace of its own in which overlays are mounted.

An ordinary user may mount overlays in a user and mount namespace of his own. One such namespace is held
by a child for as long as a build runs; the runtime's programs are started in it, and Kiln itself, which
stays outside, sees its mounts through `/proc/PID/root`. When Kiln ends, however, so does the child, and
all mounts with it. Owns the command lines of unshare, nsenter and mount. Format of the mount options:
Documentation/filesystems/overlayfs.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kiln import files
from kiln.errors import EnvironmentMissing, RuntimeFailure
from kiln.run import CommandFailed, held, run

BEGIN_SECONDS = 30.0
# The kernel takes 500 lower directories (OVL_MAX_STACK), and a page of options.
MOST_LOWER = 400
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "--")


class Space(Protocol):
    """Where a runtime's programs run, and how Kiln sees what is mounted there."""

    def enter(self, argv: Sequence[str], cwd: Path | None = None) -> Sequence[str]:
        """The command line that runs `argv` there; in the folder `cwd`, if the way in changes folders."""
        ...

    def view(self, path: Path) -> Path:
        """Where Kiln's own process finds what is at `path` there."""
        ...


class Host:
    """The host as it is."""

    def enter(self, argv: Sequence[str], cwd: Path | None = None) -> Sequence[str]:
        return argv

    def view(self, path: Path) -> Path:
        return path


HOST = Host()


@dataclass(frozen=True)
class Namespace:
    """A user and mount namespace, held by the process `pid`; the caller is root in it.

    `env` is the environment of the tools that mount.
    """

    pid: int
    env: Mapping[str, str]

    def enter(self, argv: Sequence[str], cwd: Path | None = None) -> Sequence[str]:
        target = ("--target", str(self.pid), "--user", "--mount", "--preserve-credentials")
        # nsenter's own --wd gives the folder of the outer namespace, of which a shell can't tell the name.
        folder = ("env", f"--chdir={cwd}") if cwd else ()
        return ("nsenter", *target, "--", *folder, *argv)

    def view(self, path: Path) -> Path:
        return Path(f"/proc/{self.pid}/root{path}")

    def mount(self, lower: Path, upper: Path, work: Path, target: Path) -> None:
        """Mount an overlay at the folder `target`.

        `lower` is a folder of what is named 0 (the lowest), 1, 2 and on: the lower directories, or links to
        them; `work` an empty folder beside `upper`. Raises `RuntimeFailure` where the kernel refuses.
        """
        count = sum(1 for _ in lower.iterdir())
        # Short names, since all options together must fit into a page.
        lowers = ":".join(str(number) for number in reversed(range(count)))
        # Without userxattr the mount succeeds, and removing a lower directory gives EIO. If not volatile, its
        # unmount waits until all that anybody has written to the file system is on the disk: what a power cut
        # takes from a layer is noticed by the sizes of its files.
        places = f"lowerdir={lowers},upperdir={_escaped(upper)},workdir={_escaped(work)}"
        options = f"{places},userxattr,volatile"
        script = 'cd "$1" && exec mount -t overlay overlay -o "$2" "$3"'
        self._tool(("sh", "-c", script, "sh", str(lower), options, str(target)), "mount an overlay")

    def bind(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        """Have the folders that are first of each pair at the second, whatever becomes of their names."""
        script = 'while [ $# -gt 1 ]; do mount --bind "$1" "$2" || exit; shift 2; done'
        paths = [str(path) for pair in pairs for path in pair]
        self._tool(("sh", "-c", script, "sh", *paths), "bind the layers below")

    def unmount(self, target: Path) -> None:
        """Raises `RuntimeFailure` while something still runs in it."""
        self._tool(("umount", str(target)), "unmount an overlay")

    def _tool(self, argv: Sequence[str], what: str) -> None:
        # mount(2) in place of fsconfig(2), which takes 255 bytes of an option (util-linux 2.39 and later).
        env = {**self.env, "LIBMOUNT_FORCE_MOUNT2": "always"}
        result = run(self.enter(argv), what=what, env=env, timeout=BEGIN_SECONDS, check=False)
        if result.returncode != 0:
            # mount's last line only says that dmesg may know more.
            lines = [line.strip() for line in result.tail(5) if not line.lstrip().startswith("dmesg")]
            said = (lines or [result.outcome()])[-1]
            raise RuntimeFailure(f"cannot {what}: {said}", "run: invoke doctor", result.tail(5))


@contextlib.contextmanager
def opened(env: Mapping[str, str]) -> Iterator[Namespace]:
    """A new namespace, gone at the end of the block with all that is mounted in it."""
    # The word comes from within: all that is asked for has been done by then.
    argv = (*UNSHARE, "sh", "-c", "echo ready && exec cat")
    with held(argv, what="make a namespace for overlays", env=env, timeout=BEGIN_SECONDS) as pid:
        yield Namespace(pid, env)


def refusal(folder: Path, env: Mapping[str, str]) -> str:
    """Why layers can't be kept as overlays in `folder` (made or not); '' where they can.

    Tried: an overlay is mounted there, a lower directory removed and made again, a file changed.
    """
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    try:
        with tempfile.TemporaryDirectory(prefix=".kiln-overlay-", dir=existing) as place:
            return _try(Path(place), env)
    except OSError as error:
        return f"{existing} can't be written ({error.strerror})"


def _try(place: Path, env: Mapping[str, str]) -> str:
    base, upper, work, merged = (place / name for name in ("base", "upper", "work", "merged"))
    for path in (base / "folder/sub", upper, work, merged, place / "lower"):
        path.mkdir(parents=True)
    (base / "file").write_text("old")
    (place / "lower/0").symlink_to(base)
    try:
        with opened(env) as space:
            space.mount(place / "lower", upper, work, merged)
            # As root of the namespace, as layers do it: the caller's own rights don't tell.
            script = 'cd "$1" && rm -r folder && mkdir folder && echo new > file && ls -A folder'
            argv = space.enter(("sh", "-c", script, "sh", str(merged)))
            result = run(argv, what="try an overlay", env=env, timeout=BEGIN_SECONDS, check=False)
            seen = space.view(merged)
            if result.returncode or result.output or (seen / "file").read_text() != "new\n":
                said = (result.tail(1) or ["a removed folder came back"])[0]
                return f"an overlay on {_kind(place)} doesn't work: {said}"
            space.unmount(merged)
    except CommandFailed as error:
        said = (error.result.tail(1) or [error.result.outcome()])[0]
        return f"no namespace for mounts: {said}"
    except (EnvironmentMissing, RuntimeFailure, OSError) as error:
        return f"an overlay on {_kind(place)} is refused: {error}"
    finally:
        files.remove_tree(work)
    return ""


def _kind(path: Path) -> str:
    return f"the file system of {path.parent}"


def _escaped(path: Path) -> str:
    """A path as an option of an overlay: there a comma ends an option, and a colon a lower directory."""
    return "".join(f"\\{letter}" if letter in "\\,:" else letter for letter in str(path))
