"""The door to other programs: what a child gets, how it ends, what is left of it."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kiln.errors import EnvironmentMissing
from kiln.run import CommandFailed, Redactor, TimeLimit, held, host_environment, run

ROOT = Path(__file__).resolve().parents[2]
ENV = host_environment({"PATH": os.environ["PATH"], "HOME": "/nonexistent"})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Wait, for a bounded time, until a process has ended."""
    descriptor = os.pidfd_open(pid) if alive(pid) else None
    if descriptor is None:
        return True
    ended = select.select([descriptor], [], [], 10)[0]
    os.close(descriptor)
    return bool(ended)


def test_output_goes_to_log_and_result_and_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    log = io.StringIO()
    lines: list[str] = []
    result = run(
        ["sh", "-c", "echo one; echo two >&2; env; readlink /proc/self/fd/0"],
        what="try",
        env=ENV,
        timeout=20,
        log=log,
        on_line=lines.append,
    )
    assert result.returncode == 0
    assert "hunter2" not in result.output
    assert "/dev/null" in result.output
    assert sorted(lines) == sorted(log.getvalue().splitlines())
    assert {"one", "two"} <= set(lines)


def test_failure_names_the_purpose_and_ends_with_the_last_lines() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo because >&2; exit 7"], what="bake it", env=ENV, timeout=20, separate=True)
    assert caught.value.message == "bake it: exit code 7"
    assert caught.value.details == ("because",)


def test_a_missing_program_says_what_it_is_for() -> None:
    with pytest.raises(EnvironmentMissing, match="'no-such-tool' is not installed; it is needed to bake"):
        run(["no-such-tool"], what="bake", env=ENV, timeout=5)


def test_time_limit_ends_the_whole_family() -> None:
    lines: list[str] = []
    with pytest.raises(TimeLimit) as caught:
        run(
            ["sh", "-c", "(trap '' TERM; sleep 1000) & echo $!; wait"],
            what="hang",
            env=ENV,
            timeout=0.5,
            on_line=lines.append,
        )
    assert "time limit" in caught.value.message
    assert gone(int(lines[0]))


def test_a_daemon_that_holds_the_pipes_does_not_hold_us() -> None:
    lines: list[str] = []
    result = run(
        ["sh", "-c", "sleep 1000 & echo $!"], what="start", env=ENV, timeout=60, on_line=lines.append
    )
    assert result.returncode == 0
    assert result.seconds < 30
    assert gone(int(lines[0]))


def test_killed_by_a_signal_is_told() -> None:
    with pytest.raises(CommandFailed, match="killed by SIGKILL"):
        run(["sh", "-c", "kill -9 $$"], what="die", env=ENV, timeout=20)


def test_secrets_are_masked_on_their_way() -> None:
    log = io.StringIO()
    result = run(
        ["echo", "http://user:pa55@proxy"],
        what="say",
        env=ENV,
        timeout=20,
        log=log,
        redact=Redactor(("pa55",)),
    )
    assert "pa55" not in result.output + log.getvalue()
    assert "user:***@proxy" in result.output


def test_hostile_bytes_and_endless_lines_are_survived() -> None:
    script = "import sys; sys.stdout.buffer.write(b'\\xff\\x00bad\\r' + b'x' * 3000000 + b'\\nend\\n')"
    result = run([sys.executable, "-c", script], what="spit", env=ENV, timeout=30)
    assert result.tail(1) == ["end"]
    assert "bad" in result.output
    assert len(result.output) < 100_000


def test_data_on_stdout_is_kept_whole_when_separate() -> None:
    result = run(["seq", "5000"], what="count", env=ENV, timeout=20, separate=True)
    assert len(result.output.splitlines()) == 5000


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import os\nfrom kiln.run import run, host_environment\n"
        "run(['sh', '-c', 'echo $$ > pid.new; mv pid.new pid; exec sleep 1000'], what='x', "
        "env=host_environment(os.environ), timeout=900)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    pid_file = tmp_path / "pid"
    for _ in range(1000):
        if pid_file.exists():
            break
        with pytest.raises(subprocess.TimeoutExpired):
            parent.wait(0.02)
    child = int(pid_file.read_text())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(child)


# --- programs that are held --------------------------------------------------------------------


def hold(script: str, timeout: float = 20.0) -> contextlib.AbstractContextManager[int]:
    return held(["sh", "-c", script], what="hold it", env=ENV, timeout=timeout)


def test_what_is_held_stays_for_the_block_and_has_our_environment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    with hold("echo ready && exec cat") as pid:
        assert alive(pid)
        assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.getpgid(pid) == pid
    assert not Path(f"/proc/{pid}").exists()


def test_what_is_held_is_gone_after_a_failure_with_all_its_family() -> None:
    with pytest.raises(ZeroDivisionError), hold("(trap '' TERM; exec sleep 1000) & echo $!; exec cat") as pid:
        group = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _in(path, pid)]
        assert len(group) == 2
        raise ZeroDivisionError
    assert all(gone(each) for each in group)


def _in(process: Path, group: int) -> bool:
    with contextlib.suppress(OSError):
        return os.getpgid(int(process.name)) == group
    return False


@pytest.mark.parametrize(
    ("script", "outcome", "said"),
    [
        ("exit 7", "exit code 7", ()),
        ("echo 'not allowed' >&2; exit 1", "exit code 1", ("not allowed",)),
        ("printf 'no line end'; exit 1", "exit code 1", ("no line end",)),
        ("printf '\\377'; kill -9 $$", "killed by SIGKILL", ("\ufffd",)),
        ("true", "exit code 0", ()),
    ],
)
def test_what_ends_at_once_can_not_be_held(script: str, outcome: str, said: tuple[str, ...]) -> None:
    with pytest.raises(CommandFailed) as caught, hold(script):
        pytest.fail("it is gone")
    assert caught.value.message == f"hold it: {outcome}"
    assert caught.value.details == said


@pytest.mark.parametrize(
    "script", ["exec sleep 1000", "printf half; exec sleep 1000", "exec >&-; sleep 1000"]
)
def test_what_says_nothing_is_ended_when_its_time_is_up(script: str) -> None:
    with pytest.raises(TimeLimit) as caught, hold(script, timeout=0.2):
        pytest.fail("it has not begun")
    assert caught.value.message.startswith("hold it: stopped after its time limit")


def test_a_word_in_pieces_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "more")
    script = f"printf rea; cat {tmp_path}/more; exec cat"
    writer = subprocess.Popen(["sh", "-c", f"echo dy > {tmp_path}/more"])
    with hold(script) as pid:
        assert alive(pid)
    assert writer.wait() == 0


def test_a_program_that_is_missing_can_not_be_held() -> None:
    with (
        pytest.raises(EnvironmentMissing, match="'no-such-tool' is not installed; it is needed to hold it"),
        held(["no-such-tool"], what="hold it", env=ENV, timeout=5),
    ):
        pass


def test_what_is_held_may_be_killed_meanwhile() -> None:
    with hold("echo ready && exec cat") as pid:
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)


def test_what_is_held_ends_with_a_killed_parent() -> None:
    script = (
        "import os, sys\nfrom kiln.run import held, host_environment\n"
        "with held(['sh', '-c', 'echo ready && exec cat'], what='x', env=host_environment(os.environ), "
        "timeout=20) as pid:\n    print(pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    assert gone(child)
