"""A project folder of a test's own, and Kiln run in it as a person runs it: as a program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kiln.record import Record
from kiln.record import read as read_record
from kiln.store import Store

CHECKOUT = Path(__file__).resolve().parents[2]
INVOKE = Path(sys.executable).parent / "invoke"
# The caller's own settings must not decide what a test sees.
FOREIGN = ("KILN_", "PYTHON", "ENROOT_", "XDG_", "PBS_", "SLURM_", "VIRTUAL_ENV", "PYTEST_")
LIMIT_SECONDS = 300


@dataclass(frozen=True)
class Done:
    """A run of the program that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything that a person saw, without the breaks of long lines."""
        return self.out + self.err

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [json.loads(line) for line in self.out.split("\n") if line]
        return [event for event in found if not kind or event["event"] == kind]

    def expect(self, code: int, *texts: str) -> Done:
        """Whether it ended with `code`, said each of `texts`, and showed nobody a traceback."""
        assert self.code == code, self.said
        assert "Traceback" not in self.said, self.said
        for text in texts:
            assert text in self.said, f"{text!r} is not in:\n{self.said}"
        return self


class Running:
    """A run under way. Lines of its progress are waited for; nothing is guessed from time."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, live: str) -> None:
        self.live, self._lines = live, list[str]()
        self._other = (cwd / f".{live}-{len(os.listdir(cwd))}").open("w+")
        followed = {"stdout": live == "stdout", "stderr": live == "stderr"}
        out, err = (subprocess.PIPE if followed[name] else self._other for name in ("stdout", "stderr"))
        self.process = subprocess.Popen(
            argv, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True
        )
        stream = self.process.stdout if live == "stdout" else self.process.stderr
        assert stream
        self._stream = stream

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, text: str) -> str:
        """Read until a line holds `text`; returns that line."""
        for line in self._stream:
            self._lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"it ended without {text!r}:\n{self.end().said}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> Done:
        self._lines += self._stream.readlines()
        code = self.process.wait(LIMIT_SECONDS)
        self._stream.close()
        self._other.seek(0)
        texts = ("".join(self._lines), self._other.read())
        self._other.close()
        return Done(code, *(texts if self.live == "stdout" else reversed(texts)))


@dataclass(frozen=True)
class Project:
    """A folder with manifests, smoke hooks and sites; images and cache lie in it too."""

    root: Path
    base: Path
    environ: Mapping[str, str]

    @property
    def invoke(self) -> Path:
        return INVOKE

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def work(self) -> Path:
        return self.cache / "v1/work"

    @property
    def store(self) -> Store:
        return Store(self.images)

    def manifest(self, name: str, layers: Sequence[object] = (), base: str = "", **more: Any) -> str:
        """Write a manifest; its base is the small one, where none is named. Returns the name."""
        data = {
            "format": 1,
            "name": name,
            "base": base or f"sqsh:{self.base}",
            "layers": list(layers),
            **more,
        }
        (self.root / f"manifests/{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False, width=10_000))
        return name

    def hook(self, name: str, script: str, timeout: int = 60) -> str:
        """Write a smoke hook in sh; returns its name."""
        path = self.root / f"hooks/{name}"
        path.write_text(f"#!/bin/sh\n# about: of a test\n# timeout: {timeout}\n{script}\n")
        path.chmod(0o755)
        return name

    def file(self, name: str, data: bytes) -> str:
        """Write a file beside the manifests; returns its name."""
        path = self.root / "manifests" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return name

    def site(self, name: str, **settings: Any) -> str:
        places = {"images": "./images", "cache": "./cache"}
        data = {"format": 1, "name": name, **places, "runtime": "embedded", **settings}
        (self.root / f"sites/{name}.yaml").write_text(yaml.safe_dump(data))
        return name

    def run(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        stdin: str | None = None,
    ) -> Done:
        """Run `invoke` with `args` to its end; `within` is what it is started by."""
        done = subprocess.run(
            [*within, str(INVOKE), *args],
            env={**self.environ, **(env or {})},
            cwd=self.root,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, env: Mapping[str, str] | None = None, within: Sequence[str] = ()) -> Running:
        """Start `invoke`; with `--json` its stdout is followed, else its stderr."""
        live = "stdout" if "--json" in args else "stderr"
        return Running([*within, str(INVOKE), *args], {**self.environ, **(env or {})}, self.root, live)

    def build(self, name: str, *args: str, **more: Any) -> Record:
        """Build an image, which must work; returns the record of the version that it got."""
        before = set(self.store.versions(name))
        self.run("build", name, *args, **more).expect(0)
        [version] = set(self.store.versions(name)) - before
        return self.record(name, version)

    def record(self, name: str, version: str) -> Record:
        return read_record(self.store.record(name, version))

    def log(self, pattern: str) -> str:
        """The text of the one log whose path matches `pattern`, below the folder of logs."""
        [path] = (self.cache / "v1/logs").glob(pattern)
        return path.read_text()

    def workspaces(self) -> list[str]:
        return sorted(path.name for path in self.work.iterdir()) if self.work.is_dir() else []

    def published(self) -> list[str]:
        """Every file of the store that is or may become an image, and whatever was left half done."""
        found = [path for path in self.images.rglob("*") if path.is_symlink() or path.is_file()]
        derived = (".lock", "catalog.json", "history.jsonl", "index.html")
        return sorted(path.name for path in found if path.name not in derived)

    def nothing_published(self) -> None:
        assert self.published() == []
        assert not (self.images / "catalog.json").exists()


def environment(root: Path, network: bool = True) -> dict[str, str]:
    """The caller's environment without what would decide for a test; proxies only for tests that need one."""
    own = {
        "HOME": str(root / "home"),
        "KILN_IMAGES": str(root / "images"),
        "KILN_CACHE": str(root / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    foreign = FOREIGN if network else (*FOREIGN, "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | own


def make(root: Path, base: Path, *, network: bool = False) -> Project:
    """A new project in the folder `root`, with the smoke hooks and sites of this checkout."""
    for name in ("manifests", "home"):
        (root / name).mkdir(parents=True)
    for name in ("hooks", "sites"):
        (root / name).mkdir()
        for path in (CHECKOUT / name).iterdir():
            if path.is_file():
                (root / name / path.name).write_bytes(path.read_bytes())
                (root / name / path.name).chmod(0o755 if name == "hooks" else 0o644)
    # What a test expects must not depend on what this machine has: who wants enroot says so.
    local = root / "sites/local.yaml"
    local.write_text(local.read_text().replace("runtime: auto", "runtime: embedded"))
    # The checkout's own has the benchmark too, which is no part of the package.
    (root / "tasks.py").write_text("from kiln.tasks import namespace as ns\n")
    return Project(root, base, environment(root, network))


def tree_state(root: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below `root` with mode, size and time of change: equal when nothing was touched."""
    return {
        str(path.relative_to(root)): (status.st_mode, status.st_size, status.st_ctime_ns)
        for path in root.rglob("*")
        for status in (path.lstat(),)
    }
