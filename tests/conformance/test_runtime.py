"""What both runtimes promise, on the embedded one, on enroot's stand-in, and on enroot where it is."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from kiln import squashfs
from kiln.errors import ExportError, KilnError, RuntimeFailure
from kiln.manifest import Mount
from kiln.run import TimeLimit
from kiln.runtime.contract import Command, Output
from tests.conformance.conftest import Bench, make_bench, real_enroot

EPOCH = 1_700_000_000
LAYER = Path(__file__).resolve().parents[2] / "kiln/scripts"
STEPS = """
mkdir -p /opt/app/sub && echo data > /opt/app/file && chmod 4755 /opt/app/file && chmod 0700 /opt/app/sub
ln -s ../app/file /opt/app/link && ln /opt/app/file /opt/app/hard && chown 33:33 /opt/app/file
echo www:x:33:33:www:/var/www:/bin/sh >> /etc/passwd && echo www:x:33: >> /etc/group
echo 'odd name' > '/opt/app/an odd  name' && rm /etc/skel/.profile && touch /tmp/not-kept /run/not-kept
"""


def tree_of(image: Path, tmp_path: Path) -> dict[str, tuple[str, str, str]]:
    """Every path of an image with kind, mode and owner, and link target or contents."""
    out = tmp_path / f"list-{image.name}"
    lines = subprocess.run(
        ["unsquashfs", "-lln", str(image)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    subprocess.run(
        ["unsquashfs", "-no-progress", "-quiet", "-d", str(out), str(image)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = {}
    for line in lines:
        if " squashfs-root" not in line:
            continue
        mode, owner = line.split()[:2]
        name = line.partition(" squashfs-root")[2].partition(" -> ")[0]
        path = out / name.lstrip("/")
        content = (
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes().decode("latin1")
            if path.is_file()
            else ""
        )
        found[name] = (mode, owner, content)
    return found


def layer(bench: Bench, script: str) -> int:
    """Run a script as a layer, with Kiln's own mounts."""
    state = bench.work / "state"
    identity = state / "identity/etc"
    if not identity.exists():
        identity.mkdir(parents=True)
        for name in ("passwd", "group", "shadow", "gshadow"):
            (identity / name).write_bytes((bench.tree / "etc" / name).read_bytes())
            (identity / name).chmod(0o644)
    mounts = (
        Mount(source=LAYER, target="/run/kiln/scripts"),
        Mount(source=state, target="/run/kiln/state", read_only=False),
    )
    argv = ("/bin/sh", "/run/kiln/scripts/layer.sh", "/bin/sh", "-euc", script)
    return bench.start(argv, mounts=mounts).returncode


@pytest.mark.parametrize("code", [0, 1, 7, 77])
def test_the_exit_code_is_the_commands(bench: Bench, code: int) -> None:
    assert bench.shell(f"exit {code}").returncode == code


def test_a_command_that_is_not_there(bench: Bench) -> None:
    result = bench.start(("no-such-command",))
    assert result.returncode == 127
    assert "no-such-command" in result.output


def test_a_command_that_is_killed(bench: Bench) -> None:
    assert bench.shell("kill -9 $$").returncode == 137


def test_arguments_arrive_as_they_are(bench: Bench) -> None:
    result = bench.start(
        ("/bin/sh", "-c", 'printf "%s|" "$@"', "x", "a b", "", "$HOME", "-e", "--", "*", "q'\"")
    )
    assert result.output == "a b||$HOME|-e|--|*|q'\"|"


def test_the_environment_is_the_same_everywhere(bench: Bench) -> None:
    given = {
        "PATH": "/given:/usr/bin:/bin",
        "HOME": "/given",
        "LD_PRELOAD": "",
        "LINES": "a\nb",
        "Q": '"q"',
        "EMPTY": "",
    }
    result = bench.start(("env", "-0"), env=given)
    seen = dict(item.split("=", 1) for item in result.output.split("\0") if "=" in item)
    wanted = {
        **given,
        "FOO": "bar baz", "QUOTED": "in quotes", "LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/nonexistent",
        "NVIDIA_VISIBLE_DEVICES": "all", "TERM": "dumb", "USER": "root",
        "LOGNAME": "root", "SHELL": "/bin/sh", "PWD": "/",
    }  # fmt: skip
    seen.pop("HOSTILE")  # enroot fills it in from the host's variables
    assert seen == wanted


@pytest.mark.parametrize("root", [True, False])
def test_where_a_command_starts(bench: Bench, root: bool) -> None:
    result = bench.shell('echo "$(pwd) $(umask) $HOME $USER"', root=root)
    assert result.output.replace("0022", "022").split() == [
        "/",
        "022",
        *(["/root", "root"] if root else ["/tmp", "user"]),
    ]


def test_root_is_root_and_others_write_nothing(bench: Bench) -> None:
    assert bench.shell("id -u; touch /made; chown 33:33 /made; stat -c %u:%g /made").output == "0\n0:0"
    result = bench.shell("touch /other", root=False)
    assert result.returncode != 0
    assert (bench.tree / "made").exists()
    assert not (bench.tree / "other").exists()


def test_tmp_is_the_scratch_folder_and_is_not_kept(bench: Bench) -> None:
    assert bench.shell("echo x > /tmp/kept; stat -c %a /tmp").output == "1777"
    assert (bench.work / "scratch/kept").read_text() == "x\n"
    assert not list((bench.tree / "tmp").iterdir())


def test_mounts(bench: Bench) -> None:
    source = bench.work / "a source: with blanks"
    source.mkdir()
    (source / "file").write_text("here\n")
    mounts = (
        Mount(source=source, target="/deep/ly/ro"),
        Mount(source=source, target="/deep/rw", read_only=False),
        Mount(source=source / "file", target="/run/kiln/one"),
    )
    result = bench.shell(
        "cat /deep/ly/ro/file /run/kiln/one; touch /deep/rw/new; touch /deep/ly/ro/no 2> /dev/null",
        mounts=mounts,
    )
    assert result.output.splitlines()[:2] == ["here", "here"]
    assert result.returncode != 0
    assert sorted(path.name for path in source.iterdir()) == ["file", "new"]


def test_a_mount_that_is_not_there_is_the_runtimes_failure(bench: Bench) -> None:
    with pytest.raises(RuntimeFailure, match="/no/such"):
        bench.shell("true", mounts=(Mount(source=Path("/no/such"), target="/mnt"),))


def test_a_start_leaves_nothing_of_its_own(bench: Bench) -> None:
    def tree() -> set[str]:
        return {str(path) for path in bench.tree.rglob("*")}

    before = tree()
    assert layer(bench, "true") == 0
    bench.shell(
        "true",
        mounts=(Mount(source=LAYER, target="/made/for/it"), Mount(source=LAYER / "rc", target="/made/file")),
    )
    assert layer(bench, "true") == 0
    assert tree() == before


def test_what_a_command_leaves_running_is_ended(bench: Bench) -> None:
    word = f"4{os.getpid()}.25"
    bench.shell(f"sleep {word} & setsid sleep {word} & sleep 0.3")
    assert not _running(word)


def test_a_time_limit(bench: Bench) -> None:
    word = f"3{os.getpid()}.25"
    with pytest.raises(TimeLimit) as caught:
        bench.shell(f"echo before; sleep {word}", timeout=1.5)
    assert caught.value.result.output == "before"
    assert not _running(word)


def _running(word: str) -> bool:
    return word.encode() in b"\n".join(
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists() and os.access(path, os.R_OK)
    )


def test_lines_come_as_they_are_written(bench: Bench, tmp_path: Path) -> None:
    lines: list[str] = []
    with (tmp_path / "log").open("w") as log:
        output = Output(log, lines.append, lambda text: text.replace("secret", "***"))
        command = Command(argv=("/bin/sh", "-c", "echo one; echo a secret >&2"), what="try")
        result = bench.runtime.start("base", command, output)
    assert sorted(lines) == ["a ***", "one"]
    assert (
        sorted((tmp_path / "log").read_text().splitlines())
        == sorted(lines)
        == sorted(result.output.splitlines())
    )


def test_no_value_shows_in_the_list_of_processes(bench: Bench) -> None:
    seen: list[bytes] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(path.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    word = f"hidden{os.getpid()}value"
    assert bench.shell('echo "$PROXY"; sleep 0.3', env={"PROXY": word}).output == word
    over.set()
    watcher.join()
    assert not [line for line in seen if word.encode() in line]


def test_links_of_a_tree_lead_nowhere_outside(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bench.tree / "etc").rename(bench.tree / "etc-moved")
    (bench.tree / "etc").symlink_to(outside)
    (bench.tree / "mnt/link").symlink_to(outside)
    for target in ("/opt/plain", "/mnt/link/below"):
        try:
            bench.shell("echo x > /etc/made", mounts=(Mount(source=LAYER, target=target),))
        except KilnError as error:
            assert isinstance(error, RuntimeFailure)  # either runtime may refuse
    assert not list(outside.iterdir())


def test_a_mount_below_a_link_stays_in_the_tree(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bench.tree / "mnt/link").symlink_to(outside)
    result = bench.shell(
        "cat /mnt/link/below/rc > /dev/null", mounts=(Mount(source=LAYER, target="/mnt/link/below"),)
    )
    assert result.returncode == 0
    assert not list(outside.iterdir())


def test_users_of_a_layer_stay_and_the_runtimes_own_edits_go(bench: Bench) -> None:
    for name in ("www", "second"):
        assert layer(bench, f"echo {name}:x:33:33::/:/bin/sh >> /etc/passwd") == 0
    text = (bench.tree / "etc/passwd").read_text()
    assert [line.split(":")[0] for line in text.splitlines()] == ["root", "_apt", "www", "second"]
    assert stat.S_IMODE((bench.tree / "etc/passwd").stat().st_mode) == 0o644
    assert not (bench.tree / "etc/apt/apt.conf.d/enroot").exists()


def test_create_list_remove(bench: Bench) -> None:
    image = bench.work / "export/x.sqsh"
    bench.runtime.export("base", image, EPOCH)
    bench.runtime.create(image, "second")
    assert bench.runtime.list() == ["base", "second"]
    with pytest.raises(RuntimeFailure, match="exists already"):
        bench.runtime.create(image, "second")
    bench.runtime.remove("second")
    bench.runtime.remove("second")
    assert bench.runtime.list() == ["base"]


@pytest.mark.parametrize("damage", ["cut", "empty", "junk", "inside"])
def test_a_damaged_image_leaves_nothing(bench: Bench, damage: str) -> None:
    image = bench.work / "export/x.sqsh"
    bench.runtime.export("base", image, EPOCH)
    data = image.read_bytes()
    middle = len(data) // 3
    changed = {
        "cut": data[: len(data) // 2], "empty": b"", "junk": b"x" * 5000,
        "inside": data[:middle] + os.urandom(200_000) + data[middle + 200_000 :],
    }  # fmt: skip
    broken = bench.work / "export/broken.sqsh"
    broken.write_bytes(changed[damage])
    with pytest.raises(KilnError):
        bench.runtime.create(broken, "broken")
    assert bench.runtime.list() == ["base"]


def test_export_refuses_an_existing_file_and_a_missing_container(bench: Bench) -> None:
    target = bench.work / "export/x.sqsh"
    target.write_text("somebody's")
    with pytest.raises((RuntimeFailure, ExportError)):
        bench.runtime.export("base", target, EPOCH)
    assert target.read_text() == "somebody's"
    with pytest.raises((RuntimeFailure, ExportError)):
        bench.runtime.export("nosuch", bench.work / "export/y.sqsh", EPOCH)
    assert not (bench.work / "export/y.sqsh").exists()


def test_export_is_the_same_twice(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.runtime.export("base", bench.work / f"export/{name}.sqsh", EPOCH)
    first, second = (bench.work / f"export/{name}.sqsh" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert squashfs.check(first) > 0
    assert stat.S_IMODE(first.stat().st_mode) == 0o644


def test_the_same_steps_give_the_same_tree(bench: Bench, small: Path, tmp_path: Path) -> None:
    """Against the embedded runtime, whose own run is the comparison with itself."""
    other_work = tmp_path / "other"
    other_work.mkdir()
    other = make_bench("embedded", other_work, small)
    trees = []
    for side in (bench, other):
        assert layer(side, STEPS) == 0
        image = side.work / f"export/{side.kind}.sqsh"
        side.runtime.export("base", image, EPOCH)
        trees.append(tree_of(image, side.work))
    assert {owner for _, owner, _ in trees[0].values()} == {"0/0"}
    assert trees[0]["/opt/app/file"][0] == "-rwsr-xr-x"
    assert "/tmp/not-kept" not in trees[0]
    assert trees[0] == trees[1]


def test_an_image_starts_through_its_own_entrypoint(bench: Bench) -> None:
    result = bench.start((), entrypoint=True, root=False)
    assert result.output.splitlines()[-1] == "entrypoint two words in /work dir with bar baz"
    result = bench.start(("a b",), entrypoint=True, root=False, env={"FOO": "given"})
    assert result.output.splitlines()[-1] == "entrypoint a b in /work dir with given"


def test_an_image_of_one_runtime_starts_under_enroot(bench: Bench, small: Path, tmp_path: Path) -> None:
    assert layer(bench, STEPS) == 0
    image = bench.work / "export/x.sqsh"
    bench.runtime.export("base", image, EPOCH)
    other_work = tmp_path / "other"
    other_work.mkdir()
    other = make_bench("enroot" if real_enroot() else "standin", other_work, small)
    other.runtime.create(image, "exported")
    output = Output()
    command = Command(argv=(), what="try", entrypoint=True, root=False)
    assert other.runtime.start("exported", command, output).output.endswith(
        "entrypoint two words in /work dir with bar baz"
    )
    command = Command(argv=("/bin/sh", "-c", "cat /opt/app/file; ls /opt/app/sub"), what="try", root=False)
    assert other.runtime.start("exported", command, output).output == "data"


def test_a_container_in_use_is_neither_exported_nor_removed(bench: Bench) -> None:
    if bench.kind == "embedded":
        pytest.skip("its processes end with the command that started them")
    os.mkfifo(bench.tree / "began")
    os.mkfifo(bench.tree / "go")
    runner = threading.Thread(target=bench.shell, args=("echo > /began; read line < /go",))
    runner.start()
    (bench.tree / "began").read_text()
    with pytest.raises(RuntimeFailure, match="still run"):
        bench.runtime.export("base", bench.work / "export/x.sqsh", EPOCH)
    with pytest.raises(RuntimeFailure, match="still run"):
        bench.runtime.remove("base")
    (bench.tree / "go").write_text("\n")
    runner.join()


def test_a_name_that_is_no_name(bench: Bench) -> None:
    if bench.kind == "embedded":
        pytest.skip("names come from Kiln alone")
    for name in ("a/b", "", "-f", ".."):
        with pytest.raises(RuntimeFailure):
            bench.runtime.remove(name)
