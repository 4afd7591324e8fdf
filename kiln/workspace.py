"""The private folder of one build, and what dead builds left behind.

    <work>/<build id>/
      owner.json      who made it: host, boot, pid, start time of the process, job id
      containers/     the containers of this build (enroot's data path)
      scratch/        /tmp of the containers
      state/          marks and identity files of the layer that runs, which may write here
      scripts/        the texts of run layers
      enroot/         enroot's runtime, temporary and configuration folders
      export/         the finished file before it is published
      stack/          the overlay under way: lower/ (bound), upper/ (what changes), work/, entries.json

Owns making, finding, keeping and reaping. A folder is reaped only when its owner is provably dead:
same host, and another boot, no such process, or a process that started at another time. What the
dead one's children still do is found by the variable KILN_BUILD in their environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from kiln import files

MARK = "KILN_BUILD"
JOB_VARIABLES = ("PBS_JOBID", "SLURM_JOB_ID")
KEPT = "kept"


@dataclass(frozen=True)
class Owner:
    host: str
    boot: str
    pid: int
    started: str
    job: str = ""

    @classmethod
    def me(cls, environ: Mapping[str, str]) -> Owner:
        pid = os.getpid()
        job = next((environ[name] for name in JOB_VARIABLES if name in environ), "")
        return cls(os.uname().nodename, _boot(), pid, _start_time(pid), job)

    def dead(self) -> bool:
        """Whether the process is gone for certain; one on another host never is."""
        if self.host != os.uname().nodename:
            return False
        return self.boot != _boot() or self.started != _start_time(self.pid)


@dataclass(frozen=True)
class Workspace:
    """The folders of one build."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def containers(self) -> Path:
        return self.path / "containers"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def scripts(self) -> Path:
        return self.path / "scripts"

    @property
    def enroot(self) -> Path:
        return self.path / "enroot"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def stack(self) -> Path:
        return self.path / "stack"

    @property
    def lower(self) -> Path:
        return self.stack / "lower"

    @property
    def upper(self) -> Path:
        return self.stack / "upper"

    @property
    def overlay_work(self) -> Path:
        return self.stack / "work"

    def folders(self) -> tuple[Path, ...]:
        own = (self.containers, self.scratch, self.state, self.scripts, self.enroot, self.export)
        return (*own, self.stack)

    def keep(self, image: str, layer: int) -> None:
        """Mark it as kept for `image` after `layer` (counted from 1), so that nothing reaps it."""
        files.write_atomic(self.path / KEPT, json.dumps({"image": image, "layer": layer}).encode())

    def kept_for(self) -> tuple[str, int] | None:
        try:
            data = json.loads((self.path / KEPT).read_text())
            return str(data["image"]), int(data["layer"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


@contextlib.contextmanager
def opened(work: Path, name: str, environ: Mapping[str, str]) -> Iterator[Workspace]:
    """A new workspace below `work`, removed at the end unless it was kept."""
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    with files.translated(work):
        work.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(work / f"{name}-{now}-{os.getpid()}")
    with files.translated(workspace.path):
        workspace.path.mkdir(mode=0o700)
    try:
        files.write_atomic(workspace.path / "owner.json", json.dumps(asdict(Owner.me(environ))).encode())
        for folder in workspace.folders():
            with files.translated(folder):
                folder.mkdir()
        yield workspace
    finally:
        if workspace.kept_for() is None:
            remove(workspace)


def reap(work: Path) -> list[str]:
    """Remove the workspaces of the caller whose owners are dead; returns their ids."""
    return _removed(_dead(work))


def clean(work: Path, image: str = "") -> list[str]:
    """Remove what dead builds left, and the kept ones (of `image`, if named); returns their ids."""
    return _removed([*_dead(work), *_kept_for(work, image)])


def doomed(work: Path, image: str = "") -> list[str]:
    """The ids of what `clean` would remove."""
    return [workspace.id for workspace in (*_dead(work), *_kept_for(work, image))]


def _removed(workspaces: list[Workspace]) -> list[str]:
    for workspace in workspaces:
        remove(workspace)
    return [workspace.id for workspace in workspaces]


def _dead(work: Path) -> list[Workspace]:
    return [each for each in _mine(work) if each.kept_for() is None and _owner_is_dead(each)]


def _kept_for(work: Path, image: str) -> list[Workspace]:
    return [each for each in kept(work) if not image or (each.kept_for() or ("",))[0] == image]


def kept(work: Path) -> list[Workspace]:
    """The workspaces that `--keep` left, newest last."""
    return [workspace for workspace in _mine(work) if workspace.kept_for() is not None]


def _mine(work: Path) -> list[Workspace]:
    if not work.is_dir():
        return []
    paths = [path for path in work.iterdir() if path.is_dir() and path.stat().st_uid == os.getuid()]
    return [Workspace(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime)]


def _owner_is_dead(workspace: Workspace) -> bool:
    try:
        return Owner(**json.loads((workspace.path / "owner.json").read_text())).dead()
    except (OSError, ValueError, TypeError):
        # Made, and killed before the owner was written; a living one writes it within moments.
        age = datetime.now().timestamp() - workspace.path.stat().st_mtime
        return age > 3600


def remove(workspace: Workspace) -> None:
    """Remove a workspace, and end what still runs of its build."""
    end_processes(workspace.id)
    files.remove_tree(workspace.path)


def end_processes(build: str) -> None:
    """Kill every process of the caller that carries the build's mark, save our own."""
    mark = f"{MARK}={build}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat, in clock ticks since boot; '' when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
