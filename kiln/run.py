"""The only door to other programs.

Every child gets an argument list, a closed standard input, an environment that is built rather than
inherited, a description for messages, and a time limit. It runs in a session of its own, so that the
whole family can be ended; it dies with Kiln (`setpriv --pdeathsig`), also on `kill -9`. Nothing here
knows what is being run.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kiln import masking
from kiln.errors import EnvironmentMissing, RuntimeFailure

HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TERM", "XDG_RUNTIME_DIR")
GRACE_SECONDS = 5.0
TAIL_LINES = 200
LINE_LIMIT = 4096
LONGEST_LINE = 1 << 14
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Hear = Callable[[str], None]
Process = subprocess.Popen[bytes]


class CommandFailed(RuntimeFailure):
    """A program exited with something other than 0, or was killed."""

    def __init__(self, result: Result, hint: str = "") -> None:
        super().__init__(f"{result.what}: {result.outcome()}", hint, result.tail(15))
        self.result = result


class TimeLimit(CommandFailed):
    """A program was stopped because its time was up."""


@dataclass(frozen=True)
class Result:
    """How a program ended: `output` holds its last lines (stdout and stderr together unless split)."""

    what: str
    argv: tuple[str, ...]
    returncode: int
    output: str
    seconds: float
    timed_out: bool = False

    @property
    def disk_full(self) -> bool:
        """Whether it said that there is no space left: programs put it in many words, all with these."""
        return "No space left on device" in self.output or "Disk quota exceeded" in self.output

    def tail(self, count: int) -> list[str]:
        return self.output.splitlines()[-count:]

    def outcome(self) -> str:
        if self.timed_out:
            return f"stopped after its time limit ({self.seconds:.0f} s)"
        if self.returncode < 0:
            return f"killed by {signal.Signals(-self.returncode).name}"
        return f"exit code {self.returncode}"


@dataclass(frozen=True)
class Redactor:
    """Replaces secrets in text that people or logs will see."""

    secrets: tuple[str, ...] = ()

    def __call__(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    @classmethod
    def of(cls, values: Iterable[str]) -> Redactor:
        """One for secrets in every form in which programs show them."""
        return cls(masking.masks(values))

    def and_of(self, values: Iterable[str]) -> Redactor:
        """This one, with further secrets."""
        found = {*self.secrets, *masking.masks(values)}
        return Redactor(tuple(sorted(found, key=lambda form: (-len(form), form))))


def host_environment(environ: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for tools of the host: a few variables of the caller's, then `extra`."""
    kept = {name: environ[name] for name in KEPT_VARIABLES if name in environ}
    kept["PATH"] = f"{kept['PATH']}:{HOST_PATH}" if kept.get("PATH") else HOST_PATH
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def which(tool: str, env: Mapping[str, str]) -> str | None:
    """The path of `tool` as a child with `env` would find it."""
    return shutil.which(tool, path=env.get("PATH", HOST_PATH))


def run(  # noqa: PLR0913 # a command has this many sides; all but the first are named
    argv: Sequence[str | os.PathLike[str]],
    *,
    what: str,
    env: Mapping[str, str],
    timeout: float,
    check: bool = True,
    cwd: Path | None = None,
    log: IO[str] | None = None,
    on_line: Callable[[str], None] | None = None,
    redact: Callable[[str], str] = str,
    pass_fds: Sequence[int] = (),
    separate: bool = False,
) -> Result:
    """Run a program to its end and return how it ended.

    `timeout` is in seconds. Output lines go to `log` and `on_line` as they come, redacted. With
    `separate`, only stdout is kept in the result (for programs whose output is data) and stderr is
    kept for the failure's message. Raises `CommandFailed` (with `check`), `TimeLimit`,
    `EnvironmentMissing` when there is no such program.
    """
    command = [os.fspath(part) for part in argv]
    started = time.monotonic()
    reader = _Reader(log, on_line, redact, keep_errors=not separate)
    with contextlib.ExitStack() as ending:
        with unbroken():
            process = _spawn(command, what=what, env=env, cwd=cwd, pass_fds=pass_fds)
            ending.enter_context(_ended(process))
        timed_out = not reader.pump(process, started + timeout)
    seconds = time.monotonic() - started
    result = Result(what, tuple(command), process.returncode, reader.text(), seconds, timed_out)
    if timed_out:
        raise TimeLimit(result)
    if check and process.returncode != 0:
        raise CommandFailed(Result(what, tuple(command), process.returncode, reader.everything(), seconds))
    return result


def attach(
    argv: Sequence[str | os.PathLike[str]], *, what: str, env: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> int:
    """Hand the terminal to a program (a shell) until it ends; returns its exit code. No time limit."""
    command = [os.fspath(part) for part in argv]
    try:
        process = subprocess.Popen(command, env=dict(env), pass_fds=tuple(pass_fds))
    except FileNotFoundError as error:
        raise _missing(command[0], what) from error
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the terminal sent it to the shell too, whose business it is
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def started(
    argv: Sequence[str], *, what: str, env: Mapping[str, str], errors: IO[bytes], grace: float
) -> Iterator[Process]:
    """A program beside this one while the block runs; the caller reads its standard output.

    With the block, and with Kiln, however that ends, it gets SIGTERM: one that tidies up has `grace` seconds.
    Raises `EnvironmentMissing` when there is no such program.
    """
    with contextlib.ExitStack() as ending:
        with unbroken():
            process = _spawn(list(argv), what=what, env=env, cwd=None, errors=errors, death="TERM")
            ending.enter_context(_ended(process, grace))
        yield process


@contextlib.contextmanager
def held(
    argv: Sequence[str | os.PathLike[str]], *, what: str, env: Mapping[str, str], timeout: float
) -> Iterator[int]:
    """A program that stays while the block runs; yields its process id once it has written a line
    to its standard output.

    It ends when its standard input does: with the block, or with Kiln, however that ends. `timeout` is
    how many seconds it has to begin. Raises `CommandFailed` where it ends before, `TimeLimit`,
    `EnvironmentMissing` when there is no such program.
    """
    command = [os.fspath(part) for part in argv]
    if which(command[0], env) is None:
        raise _missing(command[0], what)
    started = time.monotonic()
    with contextlib.ExitStack() as ending:
        with unbroken():
            process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            ending.enter_context(process)
            ending.callback(stop, process.pid, process)
        said = _first_line(process, timeout)
        silent = process.poll() is None and not said.endswith(b"\n")
        if process.returncode is not None or silent:
            stop(process.pid, process)
            seconds = time.monotonic() - started
            output = (said + _left(process.stderr)).decode("utf-8", "replace").strip()
            result = Result(what, tuple(command), process.returncode, output, seconds, silent)
            raise TimeLimit(result) if silent else CommandFailed(result)
        yield process.pid


def _first_line(process: Process, timeout: float) -> bytes:
    """What a program has written up to the end of its first line, or until its time was up."""
    stream = process.stdout
    said, deadline = b"", time.monotonic() + timeout
    if stream is None:
        return said
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not said.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(stream.fileno(), LINE_LIMIT)
            if not data:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                break
            said += data
        return said


def _left(stream: IO[bytes] | None) -> bytes:
    """What is there to read at once."""
    if stream is None:
        return b""
    os.set_blocking(stream.fileno(), False)
    return stream.read() or b""


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Put signals off until the end of the block: what begins in it is whole, or can be undone."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, lambda number, _: came.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for each in came:
        signal.raise_signal(each)


def _spawn(
    command: list[str],
    *,
    what: str,
    env: Mapping[str, str],
    cwd: Path | None,
    pass_fds: Sequence[int] = (),
    errors: IO[bytes] | int = subprocess.PIPE,
    death: str = "KILL",
) -> Process:
    if which(command[0], env) is None:
        raise _missing(command[0], what)
    setpriv = which("setpriv", env)
    prefix = [setpriv, "--pdeathsig", death, "--"] if setpriv else []
    return subprocess.Popen(
        [*prefix, *command],
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
        pass_fds=tuple(pass_fds),
    )


def _missing(tool: str, what: str) -> EnvironmentMissing:
    return EnvironmentMissing(f"'{tool}' is not installed; it is needed to {what}", "run: invoke doctor")


@contextlib.contextmanager
def _ended(process: Process, grace: float = GRACE_SECONDS) -> Iterator[None]:
    """Whatever happens in the block, the child and all of its session are gone after it."""
    try:
        yield
    finally:
        stop(process.pid, process, grace)
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def stop(group: int, process: Process | None = None, grace: float = GRACE_SECONDS) -> None:
    """End a process group: TERM, a grace period for the leader, then KILL for all that is left."""
    if process is not None and process.poll() is None:
        _signal_group(group, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    _signal_group(group, signal.SIGKILL)
    if process is not None:
        process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


class _Reader:
    """Collects a child's output: the last lines for messages, every line to the log."""

    def __init__(
        self, log: IO[str] | None, on_line: Hear | None, redact: Callable[[str], str], keep_errors: bool
    ) -> None:
        self._log, self._on_line, self._redact = log, on_line, redact
        self._keep_errors = keep_errors
        self._buffers: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._cut: set[str] = set()
        self._all: deque[str] = deque(maxlen=TAIL_LINES)
        self._data: deque[str] = deque(maxlen=TAIL_LINES if keep_errors else None)

    def pump(self, process: Process, deadline: float) -> bool:
        """Read until the child has ended; False when the deadline came first."""
        with selectors.DefaultSelector() as selector:
            for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
                if stream:
                    os.set_blocking(stream.fileno(), False)
                    selector.register(stream, selectors.EVENT_READ, name)
            while selector.get_map() and time.monotonic() < deadline:
                # A daemon that a layer left running may hold the pipes open after the child's end.
                ended = process.poll() is not None
                ready = selector.select(0 if ended else min(0.2, max(0.0, deadline - time.monotonic())))
                for key, _ in ready:
                    self._read(selector, key)
                if ended and not ready:
                    break
            expired = time.monotonic() >= deadline and not self._wait(process, 0.0)
        for name in self._buffers:
            self._line(name, self._buffers[name])
        return not expired and self._wait(process, max(0.0, deadline - time.monotonic()))

    @staticmethod
    def _wait(process: Process, seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        data = os.read(key.fd, 1 << 16)
        if not data:
            selector.unregister(key.fileobj)
            return
        # The end of a line that nobody ends is kept, but for what may be a part of a secret: up to a space.
        data = re.sub(rb"\A[^ \r\n]+", b"", data) if key.data in self._cut else data
        *lines, rest = re.split(rb"\r?\n|\r", self._buffers[key.data] + data)
        for line in lines:
            self._line(key.data, line)
        self._cut -= {key.data} if data else set()
        if len(rest) > LONGEST_LINE:
            _, space, rest = rest[-LINE_LIMIT:].partition(b" ")
            self._cut |= set() if space else {key.data}
        self._buffers[key.data] = rest

    def _line(self, name: str, raw: bytes) -> None:
        if not raw:
            return
        line = self._redact(raw.decode("utf-8", "replace"))
        self._all.append(line)
        if name == "stdout" or self._keep_errors:
            self._data.append(line)
        if self._log:
            self._log.write(line + "\n")
            self._log.flush()
        if self._on_line:
            self._on_line(line)

    def text(self) -> str:
        return "\n".join(self._data)

    def everything(self) -> str:
        return "\n".join(self._all)
