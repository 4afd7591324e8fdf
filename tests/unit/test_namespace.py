"""Namespaces in which overlays are mounted, and the words where that is refused."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiln import files
from kiln.errors import EnvironmentMissing, Interrupted, RuntimeFailure
from kiln.run import run
from kiln.runtime import namespace
from kiln.runtime.namespace import HOST, MOST_LOWER, Namespace
from tests.integration.namespaces import NO_NAMESPACES, without
from tests.unit.layertiers import ENV
from tests.unit.test_run import ROOT, gone


@pytest.fixture
def space(overlays: None) -> Iterator[Namespace]:
    with namespace.opened(ENV) as opened:
        yield opened


class Stack:
    """Folders to be mounted: three lower ones, of which the second has a whiteout and an opaque folder."""

    def __init__(self, place: Path, count: int = 3) -> None:
        self.lower, self.upper, self.work = place / "lower", place / "stack/upper", place / "stack/work"
        self.target = place / "target"
        for path in (self.lower, self.upper, self.work, self.target):
            path.mkdir(parents=True)
        for number in range(count):
            tree = place / f"tree {number}"
            (tree / "folder").mkdir(parents=True)
            (tree / "folder" / str(number)).touch()
            (tree / "top").write_text(f"{number}\n")
            (self.lower / str(number)).symlink_to(tree)

    def mount(self, space: Namespace) -> Path:
        """Mounted; where Kiln sees it."""
        space.mount(self.lower, self.upper, self.work, self.target)
        return space.view(self.target)


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


# --- mounting ----------------------------------------------------------------------------------


def test_the_highest_layer_is_on_top_and_changes_go_above_it(space: Namespace, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    seen = stack.mount(space)
    assert (seen / "top").read_text() == "2\n"
    assert names(seen / "folder") == ["0", "1", "2"]
    (seen / "top").write_text("mine\n")
    (seen / "folder/0").unlink()
    assert (stack.upper / "top").read_text() == "mine\n"
    whiteout = (stack.upper / "folder/0").lstat()
    assert (stat.S_ISCHR(whiteout.st_mode), whiteout.st_rdev) == (True, 0)
    # Nobody else sees the mount.
    assert names(stack.target) == []
    space.unmount(stack.target)
    assert names(seen) == []


def test_a_folder_removed_and_made_again_is_empty(space: Namespace, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    seen = stack.mount(space)
    argv = space.enter(["sh", "-c", "rm -r folder && mkdir folder && ls -A folder; id -u"], cwd=stack.target)
    assert run(argv, what="try", env=ENV, timeout=30).output == "0"
    assert names(seen / "folder") == []
    assert os.getxattr(stack.upper / "folder", "user.overlay.opaque") == b"y"
    # And it stays so as a layer below another.
    space.unmount(stack.target)
    files.remove_tree(stack.work)
    above = Stack(tmp_path / "above", count=0)
    for number in range(3):
        (above.lower / str(number)).symlink_to(tmp_path / f"tree {number}")
    (above.lower / "3").symlink_to(stack.upper)
    assert names(above.mount(space) / "folder") == []


@pytest.mark.parametrize(
    "name", ["a,b", "a:b", "a b", "a\\b", "a\\,b", "ü", "a'b\"c", "-o", "a=b,ro", "a\\:b:", "$x"]
)
def test_paths_with_letters_that_mean_something(space: Namespace, tmp_path: Path, name: str) -> None:
    stack = Stack(tmp_path / name)
    seen = stack.mount(space)
    (seen / "new").write_text("x")
    assert (stack.upper / "new").read_text() == "x"
    assert (seen / "top").read_text() == "2\n"
    space.unmount(stack.target)


def test_more_layers_than_a_page_of_options_would_take_by_their_paths(
    space: Namespace, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    stack = Stack(deep, count=MOST_LOWER)
    seen = stack.mount(space)
    assert len(names(seen / "folder")) == MOST_LOWER
    assert (seen / "top").read_text() == f"{MOST_LOWER - 1}\n"
    space.unmount(stack.target)


def test_what_the_kernel_refuses_is_told(space: Namespace, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.upper.rmdir()
    with pytest.raises(
        RuntimeFailure, match=r"cannot mount an overlay: mount: .*special device overlay does not exist"
    ) as caught:
        stack.mount(space)
    assert caught.value.hint == "run: invoke doctor"
    with pytest.raises(RuntimeFailure, match=r"cannot unmount an overlay: .*not mounted"):
        space.unmount(stack.target)


def test_what_is_in_use_is_not_unmounted(space: Namespace, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.mount(space)
    argv = [*space.enter(["sh", "-c", "echo ready && exec cat"], cwd=stack.target)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside:
        assert inside.stdout
        assert inside.stdout.readline() == b"ready\n"
        with pytest.raises(RuntimeFailure, match=r"cannot unmount an overlay: .*busy"):
            space.unmount(stack.target)
    space.unmount(stack.target)


# --- the namespace -----------------------------------------------------------------------------


def test_its_programs_are_root_there_and_see_the_same_files(space: Namespace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = "id -u; stat -c %u file; pwd"
    said = run(space.enter(["sh", "-c", script], cwd=tmp_path), what="try", env=ENV, timeout=30).output
    assert said.splitlines() == ["0", "0", str(tmp_path)]
    assert (tmp_path / "file").stat().st_uid == os.getuid()
    assert os.path.samefile(space.view(tmp_path / "file"), tmp_path / "file")


def test_it_is_gone_with_the_block(overlays: None) -> None:
    with namespace.opened(ENV) as space:
        pid = space.pid
    assert gone(pid)
    result = run(space.enter(["true"]), what="try", env=ENV, timeout=30, check=False)
    assert result.returncode != 0


def test_it_and_its_mounts_are_gone_with_a_killed_parent(overlays: None, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom kiln.runtime import namespace\n"
        "from kiln.run import host_environment\n"
        "with namespace.opened(host_environment(os.environ)) as space:\n"
        "    space.mount(*map(Path, sys.argv[1:]))\n"
        "    print(space.pid, flush=True); sys.stdin.read()"
    )
    folders = map(str, (stack.lower, stack.upper, stack.work, stack.target))
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *folders],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert gone(child)
    # The kernel lets nobody mount what is still mounted for changes elsewhere (or warns of it).
    files.remove_tree(stack.work)
    stack.work.mkdir()
    with namespace.opened(ENV) as space:
        assert (stack.mount(space) / "top").exists()


def test_the_host_is_as_it_is(tmp_path: Path) -> None:
    assert HOST.enter(["a", "b"], cwd=tmp_path) == ["a", "b"]
    assert HOST.view(tmp_path) == tmp_path


# --- refusals ----------------------------------------------------------------------------------


def test_where_overlays_work_nothing_is_refused_or_left(overlays: None, tmp_path: Path) -> None:
    assert namespace.refusal(tmp_path / "not/yet/made", ENV) == ""
    assert names(tmp_path) == []


def refused(within: list[str], folder: Path) -> str:
    """What is said on another machine."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom kiln.runtime import namespace\n"
        "from kiln.run import host_environment\n"
        "print(namespace.refusal(Path(sys.argv[1]), host_environment(os.environ)))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [*within, sys.executable, "-c", script, str(folder)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


MOUNTED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def test_an_overlay_can_not_be_the_place_for_another(overlays: None, tmp_path: Path) -> None:
    for name in ("base", "upper", "work", "place"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/base,upperdir={tmp_path}/upper,workdir={tmp_path}/work,userxattr"
    script = f'mount -t overlay overlay -o "{options}" {tmp_path}/place && exec "$@"'
    place = tmp_path / "place"
    said = refused([*MOUNTED, script, "sh"], place)
    assert said.startswith(f"an overlay on the file system of {place} is refused: cannot mount an overlay: ")
    assert names(tmp_path / "upper") == []


def test_a_tmpfs_of_an_older_kernel_may_be_refused_but_says_so(overlays: None, tmp_path: Path) -> None:
    """Marks in user.* on tmpfs came with Linux 6.6."""
    script = f'mount -t tmpfs none {tmp_path} && exec "$@"'
    said = refused([*MOUNTED, script, "sh"], tmp_path)
    assert said == "" or said.startswith("an overlay on the file system of ")


def test_a_place_that_is_read_only(overlays: None, tmp_path: Path) -> None:
    script = f'mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec "$@"'
    said = refused([*MOUNTED, script, "sh"], tmp_path / "trees")
    assert said == f"{tmp_path} can't be written (Read-only file system)"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_place_that_belongs_to_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    said = f"{tmp_path}/closed can't be written (Permission denied)"
    assert namespace.refusal(tmp_path / "closed/trees", ENV) == said
    (tmp_path / "closed").chmod(0)
    assert namespace.refusal(tmp_path / "closed/deep/trees", ENV) == said


def test_a_place_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = namespace.refusal(tmp_path / "file/trees", ENV)
    assert said == f"{tmp_path}/file can't be written (Not a directory)"


def test_a_machine_without_namespaces(overlays: None, tmp_path: Path) -> None:
    said = refused(list(NO_NAMESPACES), tmp_path)
    assert said.startswith("no namespace for mounts: unshare: ")
    assert names(tmp_path) == []


@pytest.mark.parametrize("tool", ["unshare", "nsenter", "mount"])
def test_a_machine_without_a_tool(overlays: None, tmp_path: Path, tool: str) -> None:
    said = refused(without(tool), tmp_path)
    assert tool in said
    assert names(tmp_path) == []


def test_being_interrupted_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted("stopped", 2)

    monkeypatch.setattr(namespace, "opened", interrupted)
    with pytest.raises(Interrupted):
        namespace.refusal(tmp_path, ENV)
    assert names(tmp_path) == []

    def missing(*_: object) -> None:
        raise EnvironmentMissing("'unshare' is not installed")

    monkeypatch.setattr(namespace, "opened", missing)
    assert namespace.refusal(tmp_path, ENV).endswith("is refused: 'unshare' is not installed")


def test_an_overlay_that_forgets_is_refused(
    overlays: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that mounts, and then loses what was removed."""

    def bind(space: Namespace, lower: Path, upper: Path, work: Path, target: Path) -> None:
        space._tool(("mount", "--bind", str(lower.parent / "base"), str(target)), "mount")
        (lower.parent / "base/folder").chmod(0)
        (lower.parent / "base").chmod(0o500)

    monkeypatch.setattr(Namespace, "mount", bind)
    monkeypatch.setattr(namespace, "run", lambda argv, **kw: run(["echo", "sub"], **kw))
    assert namespace.refusal(tmp_path, ENV).endswith("doesn't work: sub")
