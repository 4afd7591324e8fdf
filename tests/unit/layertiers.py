"""Tiers, entries and trees for the tests of the layer store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kiln.layers.entry import Entry
from kiln.layers.key import Key
from kiln.layers.local import Local
from kiln.layers.store import Wanted
from kiln.run import host_environment
from kiln.ui import Step, Ui

ENV = host_environment(os.environ)
KEY = "1f" * 32


class Heard(Ui):
    """Keeps the notes of steps."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def step_note(self, step: Step, text: str) -> None:
        self.notes.append(text)

    @property
    def silent_step(self) -> Step:
        return Step(self, "a step")


def entry(identity: str = "one", kind: str = "layer", key: str = KEY, parent: str = "below") -> Entry:
    return Entry(kind, key, identity, parent, "a title", 1_700_000_000.0, 2.5, inputs={"script": "true"})


def wanted(key: str = KEY, kind: str = "layer", pinned: bool = True, forced: str = "") -> Wanted:
    return Wanted(kind, Key(key, {"script": "true"}), "a title", pinned, forced)


def local(folder: Path) -> Local:
    made = Local(folder / "trees/me")
    made.prepare()
    return made


def tree(path: Path, text: str = "hello\n") -> Path:
    """A small new tree: a file, a link to it, a folder."""
    (path / "etc").mkdir(parents=True)
    (path / "etc/motd").write_text(text)
    (path / "motd").symlink_to("etc/motd")
    return path


def put(tier: Local, folder: Path, identity: str = "one", text: str = "hello\n", key: str = KEY) -> Entry:
    """Have an entry in the local tier, made in `folder`."""
    return tier.put(entry(identity, key=key), tree(folder / f"made-{identity}", text), None)


def whiteout(path: Path) -> None:
    """What an overlay's upper directory has in the place of what was removed; anybody may make one."""
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))


def listing(path: Path) -> dict[str, tuple[int, str]]:
    """The names below a folder with their modes and contents."""
    return {
        str(each.relative_to(path)): (
            each.lstat().st_mode,
            os.readlink(each) if each.is_symlink() else each.read_text() if each.is_file() else "",
        )
        for each in path.rglob("*")
    }


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A folder of mode 000 for the block, so that it can be removed afterwards."""
    before = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(stat.S_IMODE(before))
