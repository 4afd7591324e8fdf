"""The checkout that a build works in: its git commit, and whether anything in it differs from that.

Owns how git is asked. A checkout that git refuses to read (another user's, see safe.directory) is told, not
forced: its configuration could run anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kiln.run import Result, host_environment, run, which

GIT_SECONDS = 60.0


@dataclass(frozen=True)
class State:
    """`commit` is '' and `clean` None where there is no git; `problem` says why git doesn't tell."""

    commit: str = ""
    clean: bool | None = None
    problem: str = ""


def state(root: Path, environ: Mapping[str, str]) -> State:
    """The commit that `root` is at. Changed files and new ones, but for ignored ones, make it unclean."""
    env = environment(environ)
    if which("git", env) is None:
        return State()
    head = git(root, env, "rev-parse", "--verify", "HEAD")
    if head.returncode != 0:
        # A folder without git, or a repository without a commit, is nothing to warn of.
        known = any(words in head.output for words in ("not a git repository", "Needed a single revision"))
        return State() if known else State(problem=_reason(head))
    changed = git(root, env, "status", "--porcelain", "--untracked-files=normal")
    commit = head.tail(1)[0].strip()
    if changed.returncode != 0:
        return State(commit, None, _reason(changed))
    return State(commit, not changed.output.strip())


def _reason(result: Result) -> str:
    """git's first line that begins with fatal or error: what follows is advice."""
    lines = [line for line in result.tail(20) if line.startswith(("fatal: ", "error: "))]
    return (lines or result.tail(1) or [result.outcome()])[0]


def at(root: Path, commit: str, place: Path, environ: Mapping[str, str]) -> Path | None:
    """Put the repository of `root` as it was at `commit` into the new folder `place`.

    Returns where in it `root` is, None where there is no such commit; then `place` may be there, half made.
    """
    env = environment(environ)
    asked = git(root, env, "rev-parse", "--show-toplevel", "--show-prefix")
    if asked.returncode != 0:
        return None
    top, _, prefix = asked.output.partition("\n")
    made = git(root, env, "clone", "--quiet", "--shared", "--no-checkout", top, str(place))
    # What follows --detach is nothing but a commit: no branch of that name, no file.
    if made.returncode != 0 or git(place, env, "checkout", "--quiet", "--detach", commit).returncode != 0:
        return None
    return place / prefix


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What git gets: nobody's GIT_DIR, no question on a terminal, no lock on the index."""
    return host_environment(environ, {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"})


def git(root: Path, env: Mapping[str, str], *words: str) -> Result:
    return run(
        ["git", *words], what=f"ask git in {root}", env=env, timeout=GIT_SECONDS, check=False, cwd=root
    )


def find_root(environ: Mapping[str, str]) -> Path:
    """The checkout: KILN_ROOT, else the nearest folder upwards with manifests, else Kiln's own."""
    if named := environ.get("KILN_ROOT"):
        return Path(named).resolve()
    here = Path(os.getcwd())
    for folder in (here, *here.parents):
        if (folder / "manifests").is_dir() and (folder / "sites").is_dir():
            return folder
    return Path(__file__).resolve().parent.parent
