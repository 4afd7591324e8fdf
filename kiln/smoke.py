"""Smoke hooks: executables that run inside the finished image, and what became of them.

Owns the form of a hook (comment lines at its top, exit codes) and the order of a run. A hook runs as
an ordinary user with the image's own environment and the GPUs made visible, not through `/etc/rc`:
an image whose entrypoint is a server must still be testable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln import files
from kiln.errors import ManifestError, UsageError
from kiln.manifest import Mount, SmokeTest
from kiln.record import SmokeResult
from kiln.run import Result, TimeLimit
from kiln.runtime.contract import Command, Output, Runtime
from kiln.ui import Ui

INSIDE = "/run/kiln/hooks"
SKIPPED = 77
DEFAULT_SECONDS = 300
HEADER = re.compile(r"# (about|needs|timeout): *(.+)")
LONGEST_REASON = 300


@dataclass(frozen=True)
class Hook:
    """What the top of a hook says of it; `timeout` in seconds."""

    name: str
    about: str
    needs: tuple[str, ...] = ()
    timeout: int = DEFAULT_SECONDS


def hooks(folder: Path) -> dict[str, Hook]:
    """The hooks of a folder by name. Raises `ManifestError` for one without a proper top."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        path.name: read_hook(path)
        for path in paths
        if path.is_file() and not path.name.startswith((".", "_"))
    }


def read_hook(path: Path) -> Hook:
    """What a hook's comment lines say, up to the first line that is no comment."""
    said: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if match := HEADER.fullmatch(line.strip()):
            said[match[1]] = match[2]
    problem = ""
    if not path.stat().st_mode & 0o111:
        problem = f"is not executable; type: chmod +x {path}"
    elif "about" not in said:
        problem = "has no line '# about: ...' at its top; see docs/hooks.md"
    elif not said.get("timeout", "1").isdigit():
        problem = f"has '# timeout: {said['timeout']}', which is no number of seconds"
    elif said.get("needs", "gpu") != "gpu":
        problem = f"needs '{said['needs']}', which nobody can give; only 'gpu' is known"
    if problem:
        raise ManifestError(f"smoke hook {path} {problem}")
    needs = (said["needs"],) if "needs" in said else ()
    return Hook(path.name, said["about"], needs, int(said.get("timeout", DEFAULT_SECONDS)))


def known(folder: Path, tests: Sequence[SmokeTest]) -> dict[str, Hook]:
    """The hooks that `tests` name. Raises `UsageError` for one that isn't in `folder`."""
    there = hooks(folder)
    missing = sorted({test.hook for test in tests} - set(there))
    if missing:
        raise UsageError(f"no smoke hook '{missing[0]}' in {folder}", f"there are: {', '.join(there)}")
    return there


def run_all(
    runtime: Runtime, container: str, tests: Sequence[SmokeTest], folder: Path, logs: Path, ui: Ui
) -> tuple[SmokeResult, ...]:
    """Run every test in `container`, which was made from the exported file; none stops the others."""
    there = known(folder, tests)
    return tuple(_run(runtime, container, test, there[test.hook], folder, logs, ui) for test in tests)


def _run(
    runtime: Runtime, container: str, test: SmokeTest, hook: Hook, folder: Path, logs: Path, ui: Ui
) -> SmokeResult:
    command = Command(
        argv=(f"{INSIDE}/{hook.name}", *test.args),
        what=f"run smoke hook {hook.name}",
        mounts=(Mount(source=folder, target=INSIDE),),
        root=False,
        gpu=True,
        timeout=float(test.timeout or hook.timeout),
    )
    with (
        ui.step(f"smoke {' '.join((test.hook, *test.args))}") as step,
        files.Log(logs / f"smoke-{hook.name}.log") as log,
    ):
        try:
            result = runtime.start(container, command, Output(log, step.line))
            state, reason = judge(result)
        except TimeLimit as error:
            result, state, reason = error.result, "failed", error.result.outcome()
        step.outcome = state if state == "passed" else f"{state}: {reason}"
    return SmokeResult(test.hook, tuple(test.args), state, test.required, round(result.seconds, 2), reason)


def judge(result: Result) -> tuple[str, str]:
    """The state of a hook that ended, and its reason: the last line it wrote."""
    last = (result.tail(1) or [""])[0].strip()[:LONGEST_REASON]
    if result.returncode == 0:
        return "passed", last
    if result.returncode == SKIPPED:
        return "skipped", last or "no reason given"
    return "failed", last or result.outcome()
