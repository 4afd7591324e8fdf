"""Bad days of the layer store: killed, full, damaged, on odd disks, two at once. The next build is right."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from kiln import files
from tests.integration import trees
from tests.integration.namespaces import on_tmpfs
from tests.integration.processes import traces
from tests.integration.project import Project
from tests.integration.test_layer_store import counting, entries, ran, reasons, same_as_without

# Ends the process at the call of os.rename whose number stands in KILL_AT.
KILLER = """\
import os, signal
left, rename = int(os.environ.get("KILL_AT", "0")), os.rename
def killing(*args, **more):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(*args, **more)
os.rename = killing
"""


def killer(project: Project, at: int) -> dict[str, str]:
    folder = project.root / "killer"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(KILLER)
    return {"PYTHONPATH": str(folder), "KILL_AT": str(at)}


def test_a_kill_at_each_rename_leaves_what_the_next_build_makes_right(
    project: Project, tmp_path: Path
) -> None:
    """All that others can see comes by a rename: the states of the store are those before and after each."""
    said = counting(project, "a", "b")
    project.site("two", layers={"shared": str(project.root / "shared")})
    wanted = None
    for at in range(1, 40):
        for name in ("cache", "shared", "images"):
            files.remove_tree(project.root / name)
        done = project.run("build", "x", "--site", "two", env=killer(project, at))
        if done.code == 0:
            break
        assert done.code == -signal.SIGKILL, done.said
        ran(said)
        project.run("build", "x", "--site", "two").expect(0)
        [version] = project.store.versions("x")
        found = trees.whole(project.store.image("x", version), tmp_path / str(at))
        wanted = wanted or found
        assert found == wanted
        assert project.workspaces() == [] and traces(project.root) == []
    assert at > 8


def test_one_that_waits_makes_the_layer_when_the_other_is_killed(project: Project) -> None:
    said = counting(project, "a")
    gate = project.root / "said/gate"
    os.mkfifo(gate)
    path = project.root / "manifests/x.yaml"
    path.write_text(
        path.read_text().replace("run: ", "run: 'echo begun; read -r _ < /mnt/said/gate'\n- run: ")
    )
    first = project.start("build", "x", "--json")
    first.until('"line": "begun"')
    second = project.start("build", "x", "--json")
    second.until("another build makes this layer; waiting for")
    first.send(signal.SIGKILL)
    first.end()
    second.until('"line": "begun"')
    gate.write_text("go\n")
    second.end().expect(0)
    assert ran(said) == ["a"]


def test_two_that_need_the_same_layer_make_it_once(project: Project) -> None:
    said = counting(project, "a")
    text = (project.root / "manifests/x.yaml").read_text()
    gate = project.root / "said/gate"
    os.mkfifo(gate)
    slow = text.replace(
        "run: ", "run: 'echo begun; read -r _ < /mnt/said/gate; echo slow >> /mnt/said/all'\n- run: "
    )
    (project.root / "manifests/x.yaml").write_text(slow)
    (project.root / "manifests/y.yaml").write_text(
        slow.replace("name: x", "name: y").replace("/root/a", "/root/y")
    )
    first = project.start("build", "x", "--json")
    first.until('"line": "begun"')
    second = project.start("build", "y", "--json")
    second.until("another build makes this layer; waiting for")
    gate.write_text("go\n")
    first.end().expect(0)
    second.end().expect(0)
    assert sorted(ran(said)) == ["a", "a", "slow"]


@pytest.mark.parametrize("harm", ["missing", "changed", "added", "chmod"])
def test_a_damaged_layer_is_noticed_and_made_anew(project: Project, tmp_path: Path, harm: str) -> None:
    said = counting(project, "a", "b", "c")
    project.build("x")
    ran(said)
    layers = {title: path for title, path in entries(project.cache).items() if "echo" in title}
    [entry] = [path for title, path in layers.items() if (path / "tree/root/b").exists()]
    file = entry / "tree/root/b"
    status = file.stat()
    if harm == "missing":
        file.unlink()
    elif harm == "changed":
        file.write_text("x\n")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif harm == "added":
        (entry / "tree/root/new").touch()
    else:
        file.chmod(0o600)
    done = project.run("build", "x", "--from", "3").expect(0)
    done.expect(0, "are missing, or are not as they were made; it is dropped")
    assert ran(said) == ["b", "c"]
    same_as_without(project, tmp_path)


def test_a_disk_that_is_full_in_a_layer_leaves_the_layers_before(project: Project, tmp_path: Path) -> None:
    said = counting(project, "a", "b")
    path = project.root / "manifests/x.yaml"
    good = path.read_text()
    path.write_text(good.replace("echo b >>", "head -c 2000000000 /dev/zero > /root/big; echo b >>"))
    within = on_tmpfs("size=1700m", project.root / "small", tmp_path / "left")
    project.site("small", scratch=str(project.root / "small"))
    done = project.run("build", "x", "--site", "small", within=within)
    done.expect(8, "layer 2", "filled the disk")
    left = (tmp_path / "left").read_text()
    assert "/work/x-" not in left
    assert "/tree/root/a" in left and "/tree/root/big" not in left
    path.write_text(good)
    ran(said)
    project.build("x")
    assert ran(said) == ["a", "b"]


def test_the_cache_may_lie_on_tmpfs(project: Project, tmp_path: Path) -> None:
    said = counting(project, "a")
    within = on_tmpfs("size=900m", project.cache, tmp_path / "left")
    project.run("build", "x", within=within).expect(0)
    assert ran(said) == ["a"]
    assert "/layers/" in (tmp_path / "left").read_text()


def test_a_layer_grows_old_unless_it_names_exact_versions(project: Project) -> None:
    project.site("old", layers={"stale_after": "2d"})
    said = counting(project, "a")
    project.build("x", "--site", "old")
    ran(said)
    for path in project.cache.rglob("entry.json"):
        data = json.loads(path.read_text())
        path.write_text(json.dumps({**data, "made": data["made"] - 3 * 86_400}))
    assert reasons(project, "--site", "old")[1].startswith("made 3 d ago")
    # A clock that was ahead when a layer was made.
    for path in project.cache.rglob("entry.json"):
        data = json.loads(path.read_text())
        path.write_text(json.dumps({**data, "made": data["made"] + 99 * 86_400}))
    counting(project, "a", "b")
    project.build("x", "--site", "old")
    assert ran(said) == ["b"]


def test_sixty_layers(project: Project, tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(60)]
    said = counting(project, *names)
    project.build("x")
    assert ran(said) == names
    counting(project, *names[:-1], "last")
    project.build("x")
    assert ran(said) == ["last"]
    there = trees.whole(project.store.image("x", "small-r2"), tmp_path / "tree")
    assert {f"root/{name}" for name in (*names[:-1], "last")} <= set(there)


def test_whatever_layers_do_to_what_lies_below(project: Project, tmp_path: Path) -> None:
    """Whiteouts, opaque folders, links, a folder removed and made again, modes; the same with and without."""
    scripts = [
        "mkdir -p /d/sub /o; touch /d/sub/f /d/g /o/old /gone; ln /d/g /d/h; ln -s g /d/link; chmod 700 /d",
        "rm -r /d; mkdir /d; touch /d/new; rm /gone; rm -r /o; mkdir /o; touch /o/new; ln /o/new /o/again",
        "mkdir /d/sub; touch /d/sub/other; mv /o /p; rm /d/new; ln -s /etc/passwd /d/new; touch /gone",
        "rm -r /p /gone; mkdir -p /p/q; chmod 1777 /p/q; echo text > /p/q/f; ln /p/q/f /p/q/g",
    ]
    project.manifest("x", [{"run": script} for script in scripts])
    project.build("x")
    assert all(reason.startswith("made") for reason in reasons(project))
    # Every layer is another node's now: taken up from a .sqsh, whiteouts and all.
    shared = {"shared": str(project.root / "shared")}
    for name in ("one", "two"):
        project.site(name, scratch=str(project.root / name), layers=shared)
    project.build("x", "--site", "one", "--no-cache")
    scripts[-1] += "; true"
    project.manifest("x", [{"run": script} for script in scripts])
    done = project.run("build", "x", "--site", "two").expect(0)
    assert len(re.findall("unpacking it from the shared tier", done.err)) == 4
    found = [
        trees.whole(project.store.image("x", version), tmp_path / version)
        for version in project.store.versions("x")
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["p/q/f"][2] == found[0]["p/q/g"][2] and "d/sub/f" not in found[0]
