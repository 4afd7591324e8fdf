"""The benchmark's own arithmetic: medians, ratios, targets, tables, trees, layers of the base, the meter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks import bench, changes, compare, contestants, meter, network, results, stack, table
from benchmarks.compare import OTHER, Difference, Entry
from benchmarks.results import COLD, KILN, SAME, Line, Run, Usage
from kiln.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
LISTING = """\
drwxr-xr-x 0/0                     269 1980-01-02 00:00 squashfs-root
lrwxrwxrwx 0/0                       7 1980-01-02 00:00 squashfs-root/bin -> usr/bin
-rw-r--r-- 0/0                    3040 1980-01-02 00:00 squashfs-root/etc/adduser.conf
-rwsr-xr-x 0/0                   71912 2024-05-01 10:11 squashfs-root/usr/bin/with -> arrow
crw-rw-rw- 0/0                  1,   3 2024-05-01 10:11 squashfs-root/dev/null
drwxrwxrwt 0/0                      40 2024-05-01 10:11 squashfs-root/tmp
Parallel unsquashfs: Using 2 processors
"""


def usage(seconds: float, own: float = 0.0) -> Usage:
    return Usage(seconds, seconds, 1e9, 2e9, own, 8e8)


def run(contestant: str, case: str, seconds: float, own: float = 0.0) -> Run:
    return Run(contestant, case, usage(seconds, own))


RUNS = [
    run(KILN, COLD, 40, 1.1e8),
    run("enroot", COLD, 300),
    run(KILN, COLD, 50, 2.1e8),
    run("enroot", COLD, 200),
    run(KILN, COLD, 45, 1.2e8),
    run("enroot", COLD, 400),
    run(KILN, SAME, 0.9),
    run("buildah", SAME, 9),
]


def test_medians_are_of_each_figure() -> None:
    found = results.medians([usage(3, own=1), usage(1, own=5), usage(2, own=3)])
    assert (found.seconds, found.peak_own, found.image) == (2, 3, 8e8)


def test_ratios_are_of_medians_within_a_case() -> None:
    by_name = {(line.case, line.contestant): line for line in results.lines(RUNS)}
    enroot = by_name[COLD, "enroot"]
    assert (enroot.runs, enroot.ratio, enroot.target, enroot.met) == (3, 0.15, 0.15, True)
    assert by_name[COLD, KILN].ratio is None
    assert by_name[SAME, "buildah"].met is None


def test_without_kiln_there_is_no_ratio() -> None:
    [line] = results.lines([run("enroot", COLD, 5)])
    assert line.ratio is None and line.met is None


def test_checks_beside_the_ratios() -> None:
    start, memory = results.checks(results.lines(RUNS), start_seconds=0.2)
    assert start.value == pytest.approx(0.7) and start.met
    assert memory.value == 120 and memory.met
    assert results.checks(results.lines([run("enroot", COLD, 5)]), 0.2) == []


def test_the_table_says_what_was_missed() -> None:
    lines = [
        Line(COLD, KILN, 3, usage(45, 1.2e8)),
        Line(COLD, "enroot", 3, usage(100), ratio=0.45, target=0.15),
    ]
    text = table.cases(lines, {KILN: "Kiln", "enroot": "enroot, defaults"})
    assert text[1] == "cold"
    assert text[2].split() == ["Kiln", "45.00", "45.0", "120", "2,000", "1,000", "800", "3"]
    assert "0.450  <= 0.15  MISSED" in text[3]
    # Figures stand below each other.
    assert len({line.rindex("800") for line in text[2:]}) == 1


def test_growth_table() -> None:
    text = table.growth({(KILN, 1): usage(40), (KILN, 4): usage(150)}, {KILN: "Kiln"})
    assert text[2].split()[:4] == ["Kiln", "x", "4", "150.0"]


def test_a_listing_is_read() -> None:
    found = compare.parse(LISTING.splitlines())
    assert found[""] == Entry("drwxr-xr-x", 0, "")
    assert found["bin"] == Entry("lrwxrwxrwx", 0, "usr/bin")
    assert found["usr/bin/with -> arrow"] == Entry("-rwsr-xr-x", 71912, "")
    assert found["dev/null"].mode == "crw-rw-rw-"
    assert len(found) == 6


def test_trees_are_compared() -> None:
    first = compare.parse(LISTING.splitlines())
    second = {
        **first,
        "bin": Entry("lrwxrwxrwx", 0, "elsewhere"),
        "var/log/dpkg.log": Entry("-rw-r--r--", 1, ""),
    }
    del second["tmp"]
    groups = compare.by_reason(compare.differences(first, second))
    assert {reason: [each.path for each in group] for reason, group in groups.items()}[OTHER] == [
        "bin",
        "tmp",
    ]
    assert list(groups)[-1] == OTHER
    text = table.trees("enroot", groups)
    assert text[0] == "enroot: 3 paths differ from Kiln's (Kiln's | the other's)"
    assert "/bin: lrwxrwxrwx 0 -> usr/bin | lrwxrwxrwx 0 -> elsewhere" in text[-2]
    assert table.trees("enroot", compare.by_reason(compare.differences(first, first))) == [
        "enroot: the same tree as Kiln's"
    ]


@pytest.mark.parametrize(
    ("path", "inherent"),
    [
        ("etc/passwd", True),
        ("etc/passwd.d/other", False),
        ("usr/lib/python3/dist-packages/x/__pycache__/y.cpython-311.pyc", True),
        ("usr/bin/git", False),
        ("var/cache/ldconfig/aux-cache", True),
        ("homeless", False),
    ],
)
def test_what_is_inherent(path: str, inherent: bool) -> None:
    assert (Difference(path, None, Entry("-rw-r--r--", 1, "")).reason != OTHER) == inherent


def test_a_layer_holds_what_a_step_changed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("a/gone", "a/stays", "whole/one", "whole/two", "dev/null", "b"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    before = changes.snapshot(tree)
    assert "dev" in before and "dev/null" not in before
    (tree / "a/gone").unlink()
    for name in ("whole/one", "whole/two"):
        (tree / name).unlink()
    (tree / "whole").rmdir()
    os.link(tree / "b", tree / "c")
    (tree / "new name").symlink_to("b")
    target = tmp_path / "layer.tar.gz"
    changes.pack(tree, before, changes.snapshot(tree), target, os.environ)
    with tarfile.open(target) as layer:
        kinds = {entry.name: entry.type for entry in layer}
    assert sorted(kinds) == [".wh.whole", "a", "a/.wh.gone", "b", "c", "new name"]
    assert kinds["c"] == tarfile.LNKTYPE and kinds["new name"] == tarfile.SYMTYPE
    assert not list(tree.rglob(".wh.*"))


def test_changed_work_differs_in_one_layer() -> None:
    work = stack.Work("host/base:latest")
    first, last = work.first_changed(), work.last_changed()
    assert first.pip == work.pip and first.apt != work.apt
    assert last.apt == work.apt and last.pip != work.pip


def test_everybody_gets_the_same_packages_and_compression(tmp_path: Path) -> None:
    work = stack.Work("127.0.0.1:5000/bench/base:latest")
    inside = network.Network({"PIP_INDEX_URL": "https://index.invalid/simple"}, None)
    for each in contestants.all_of(tmp_path, ROOT, inside, {"HOME": "/root"}, ["embedded"]):
        each.forget()
        call = each.prepare(work)
        said = " ".join([*call.argv, *map(str, call.env.items())])
        written = [path for path in each.folder.rglob("*") if path.is_file()]
        said += "".join(path.read_text() for path in written)
        for package in (*work.apt, *work.pip):
            assert package in said, each.name
        if each.name in ("enroot-tuned", "buildah"):
            assert "-comp zstd -Xcompression-level 3" in said
        if each.name != KILN:
            assert "https://index.invalid/simple" in said
        if each.name == "enroot":
            assert "ENROOT_SQUASH_OPTIONS" not in said


def test_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no case 'warm'"):
        bench.Options(tmp_path, cases=("warm",)).check()
    with pytest.raises(UsageError, match="--runs"):
        bench.Options(tmp_path, runs=0).check()


@pytest.mark.parametrize("command", ["exit 3", "kill -9 $$"])
def test_the_meter_passes_failures_on(tmp_path: Path, command: str) -> None:
    assert metered(tmp_path, "sh", "-c", command)["code"] in (3, -9)


def test_the_meter_counts_the_whole_family(tmp_path: Path) -> None:
    """Memory of a child, bytes of a grandchild whose parent is gone, and nothing left running."""
    memory = f"import time; data = bytearray({100 << 20}); time.sleep(0.5)"
    orphan = f"(setsid sh -c 'sleep 0.1; head -c {5 << 20} /dev/urandom > {tmp_path}/file' &)"
    script = f"{orphan}; {sys.executable} -c '{memory}'; sleep 987654 & :"
    found = metered(tmp_path, "sh", "-c", script)
    assert found["code"] == 0 and 0.5 <= found["seconds"] < 60
    assert found["peak_tree"] >= found["peak_own"] > 100 << 20
    assert (tmp_path / "file").stat().st_size == 5 << 20
    # On a tmpfs there is nothing to be written to.
    assert found["written"] >= 5 << 20 or tmpfs(tmp_path)


def tmpfs(path: Path) -> bool:
    folder = max(
        (line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()),
        key=lambda mount: len(mount[0]) if path.is_relative_to(mount[0]) else -1,
    )
    return folder[1] in ("tmpfs", "overlay")


def metered(folder: Path, *argv: str) -> dict[str, float]:
    report = folder / "report.json"
    subprocess.run([sys.executable, meter.__file__, str(report), *argv], check=False, timeout=60)
    found: dict[str, float] = json.loads(report.read_text())
    return found
