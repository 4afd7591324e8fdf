"""The smoke hooks, run as programs.

GPUs are stand-ins here: one library compiled by the test is both libcuda and libnccl, keeps "device" memory on
the host and really adds up, so every call through ctypes is made, and its arguments are checked on the other
side. What only a GPU can show, that torch, NCCL and Transformer Engine compute on it, isn't shown here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

HOOKS = Path(__file__).resolve().parents[2] / "hooks"
GPU_HOOKS = {"gpu-visible", "nccl-init", "torch-cuda", "fp8"}
ALL_HOOKS = sorted(GPU_HOOKS | {"ddp", "python-imports", "commands"})
HOSTILE = [
    "$(touch x)",
    "`touch x`",
    "; touch x",
    "a && touch x",
    "'touch' x",
    '"',
    "> x",
    "*",
    "eval touch x",
]

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch isn't installed")
every_shell = pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])

STANDIN = r"""
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define MODE(text) (getenv("STANDIN") && strstr(getenv("STANDIN"), text))
enum { GPUS = 3, BLOCKS = 16, KEY = 0x5ca1ab1e };
typedef unsigned long long address;
typedef struct { int key, device, kept; } object; /* a context or a communicator */
typedef struct { int key, device; void *to, *from; size_t size; } stream;
static struct { address at; int device; size_t size; void *late; } blocks[BLOCKS];
static struct { const float *send; float *to; stream *on; } calls[GPUS];
static object contexts[GPUS], *now;
static int streams, alive, aborted, ranks, grouped;
static size_t length;
/* Memory lies above 4 GiB, as on a GPU: an argument that ctypes cut to 32 bits is none of ours. */
static int find(address at, size_t size, int device) {
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].at == at && (!at || blocks[i].device == device && size <= blocks[i].size)) return i;
    return -1;
}
int cuInit(unsigned flags) { return flags ? 1 : MODE("no-device") ? 100 : 0; }
int cuDriverGetVersion(int *v) { *v = 12080; return 0; }
int cuDeviceGetCount(int *n) { *n = MODE("one-gpu") ? 1 : GPUS; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return i < 0 || i >= GPUS; }
int cuDeviceGetName(char *name, int n, int d) { snprintf(name, n, "Stand-in %d", d); return 0; }
int cuDevicePrimaryCtxRetain(object **c, int d) {
    contexts[d] = (object){KEY, d, contexts[d].kept + 1}; *c = &contexts[d]; return 0;
}
int cuDevicePrimaryCtxRelease_v2(int d) { return contexts[d].kept-- < 1; }
int cuCtxSetCurrent(object *c) { now = c; return c && c->key != KEY; }
int cuCtxSynchronize(void) { /* Copies from pageable memory have arrived for certain only now. */
    for (int i = 0; i < BLOCKS; i++) if (blocks[i].device == now->device && blocks[i].late) {
        memcpy((void *)blocks[i].at, blocks[i].late, blocks[i].size); free(blocks[i].late); blocks[i].late = 0;
    }
    return 0;
}
int cuStreamCreate(stream **s, unsigned flags) {
    *s = calloc(1, sizeof **s); **s = (stream){KEY, now->device}; streams++; return flags > 1;
}
int cuStreamSynchronize(stream *s) { /* What NCCL enqueued arrives now. */
    if (s->key != KEY) return 400;
    if (s->from) { memcpy(s->to, s->from, s->size); free(s->from); s->from = 0; }
    return MODE("sync-error") ? 700 : 0;
}
int cuStreamDestroy_v2(stream *s) { streams--; free(s); return 0; }
int cuMemAlloc_v2(address *at, size_t size) {
    int i = find(0, 0, 0); *at = blocks[i].at = (address)calloc(1, size);
    blocks[i].device = now->device; blocks[i].size = size; return *at >> 32 ? 0 : 2;
}
int cuMemFree_v2(address at) {
    int i = find(at, 0, now->device); if (i < 0) return 1;
    free((void *)at); blocks[i].at = 0; return 0;
}
int cuMemcpyHtoD_v2(address to, const void *from, size_t size) {
    int i = find(to, size, now->device); if (i < 0) return 1;
    blocks[i].late = memcpy(malloc(size), from, size); return 0;
}
int cuMemcpyDtoH_v2(void *to, address from, size_t size) {
    return find(from, size, now->device) < 0 || !memcpy(to, (void *)from, size);
}
int cuGetErrorName(int e, const char **s) { *s = e == 100 ? "NO_DEVICE" : "ILLEGAL_ADDRESS"; return 0; }
int cuGetErrorString(int e, const char **s) { *s = e == 700 ? "an illegal memory access" : 0; return !*s; }
static void note(const char *text) {
    static FILE *log; const char *level = getenv("NCCL_DEBUG");
    if (!log && level && !strcmp(level, "INFO")) log = fopen(getenv("NCCL_DEBUG_FILE"), "w");
    if (log) fprintf(log, "node:1:1 [0] NCCL %s\n", text), fflush(log);
}
int ncclGetVersion(int *v) { *v = MODE("old") ? 2804 : 22605; return 0; }
const char *ncclGetErrorString(int e) { return e == 2 ? "unhandled system error" : "internal error"; }
const char *ncclGetLastError(object *c) { return MODE("init-error") ? "shm_open failed\n" : ""; }
int ncclCommInitAll(object **c, int n, const int *devices) {
    if (MODE("init-error")) { note("WARN shm_open failed: no space left on device"); return 2; }
    note(MODE("ib") ? "INFO NET/IB : Using [0]mlx5_0:1/IB" : "INFO NET/IB : No device found.");
    if (!MODE("ib")) note("INFO NET/Socket : Using [0]eth0:10.0.0.1<0>");
    if (!MODE("old")) note(MODE("ib") ? "INFO Using network IB" : "INFO Using network Socket");
    for (; ranks < n; ranks++, alive++)
        *(c[ranks] = calloc(1, sizeof **c)) = (object){KEY, devices[ranks]};
    return 0;
}
int ncclCommDestroy(object *c) { alive--; free(c); return 0; }
int ncclCommAbort(object *c) { aborted++; return ncclCommDestroy(c); }
int ncclGroupStart(void) { grouped = 1; memset(calls, 0, sizeof calls); return 0; }
int ncclAllReduce(address send, address to, size_t count, int type, int op, object *c, stream *s) {
    int d = c->device, memory = find(send, count * 4, d) >= 0 && find(to, count * 4, d) >= 0;
    if (MODE("reduce-error") || !grouped || c->key != KEY || type != 7 || op || s->device != d || !memory) return 3;
    calls[d].send = (float *)send; calls[d].to = (float *)to; calls[d].on = s; length = count; return 0;
}
int ncclGroupEnd(void) {
    for (int to = 0; to < ranks && !MODE("no-sum"); to++) {
        float *sum = calloc(length, 4); stream *s = calls[to].on;
        for (int i = 0; i < ranks; i++) for (size_t k = 0; k < length; k++) sum[k] += calls[i].send[k];
        if (MODE("wrong-sum") && to == 1) sum[1234] += 1;
        free(s->from); s->from = sum; s->to = calls[to].to; s->size = length * 4;
    }
    return grouped = 0;
}
__attribute__((destructor)) static void leftovers(void) {
    int memory = 0, kept = 0;
    for (int i = 0; i < BLOCKS; i++) memory += blocks[i].at != 0;
    for (int i = 0; i < GPUS; i++) kept += contexts[i].kept;
    fprintf(stderr, "left: contexts %d streams %d memory %d communicators %d, aborted %d\n", kept, streams, memory,
            alive, aborted);
}
"""

TORCH = """
import os
gpu = "OLD_GPU" in os.environ
class version: cuda = "12.8" if gpu else None
class cuda:
    is_available = staticmethod(lambda: gpu)
    get_device_capability = staticmethod(lambda index: (8, 0))
    get_device_name = staticmethod(lambda index: "Stand-in")
__version__ = "9.9"
"""
TORCHRUN = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit("the workers were ended"))
print("the workers run", flush=True)
time.sleep(60)
"""


class Result:
    """What a finished hook left: exit status, output, and the output's last line."""

    def __init__(self, answer: subprocess.CompletedProcess[str]) -> None:
        self.status, self.out, self.err = answer.returncode, answer.stdout, answer.stderr
        self.last = answer.stdout.rstrip().rpartition("\n")[2]

    def ends(self, status: int, last: str) -> bool:
        """With this status, and a last line that begins so."""
        return self.status == status and self.last.startswith(last)


def run(hook: str, *words: str, before: Sequence[str] = (), cwd: Path | None = None, **env: str) -> Result:
    command = [*before, str(HOOKS / hook), *words]
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "text": True,
        "timeout": 120,
    }
    return Result(subprocess.run(command, cwd=cwd, env={**os.environ, **env}, check=False, **options))


def add_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def add_module(folder: Path, name: str, text: str) -> str:
    """A module that an import finds, and what PYTHONPATH is to be for that."""
    path = folder / "modules" / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(folder / "modules")


@pytest.fixture(scope="module")
def standins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with libcuda.so.1 and libnccl.so.2."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc isn't installed: the CUDA and NCCL calls aren't tested")
    folder = tmp_path_factory.mktemp("standins")
    (folder / "standin.c").write_text(STANDIN)
    command = [compiler, "-O2", "-w", "-shared", "-fPIC", "-o", "libnccl.so.2", "standin.c"]
    subprocess.run(command, cwd=folder, check=True)
    (folder / "libcuda.so.1").symlink_to("libnccl.so.2")
    return str(folder)


@pytest.fixture
def devices(tmp_path: Path) -> list[str]:
    """What to put before a command to give it a /dev with the device nodes of two GPUs, and little else."""
    (tmp_path / "dev").mkdir()
    for name in ("null", "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    script = 'mount --bind /dev/null "$0/null" && mount --rbind "$0" /dev && exec "$@"'
    before = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, f"{tmp_path}/dev"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be had here: hooks on machines with GPU nodes aren't tested")
    return before


@pytest.mark.parametrize("name", ALL_HOOKS)
def test_header_says_about_needs_and_timeout(name: str) -> None:
    lines = (HOOKS / name).read_text(encoding="utf-8").splitlines()
    assert os.access(HOOKS / name, os.X_OK)
    assert lines[0] in ("#!/bin/sh", "#!/usr/bin/env python3")
    assert re.fullmatch(r"# about: \S.{10,100}", lines[1])
    assert (lines[2] == "# needs: gpu") == (name in GPU_HOOKS)
    timeout, parameters = lines[3:5] if name in GPU_HOOKS else lines[2:4]
    assert re.fullmatch(r"# timeout: [1-9]\d{1,2}", timeout)
    assert parameters.startswith("# Parameters: ")


@every_shell
def test_commands_run_and_all_failures_are_told(shell: str, tmp_path: Path) -> None:
    assert run("commands", "echo  two   words", "true", before=[shell]).ends(0, "commands that ran: 2")
    add_program(tmp_path / "leaves", "exit 3")
    add_program(tmp_path / "dies", "kill -9 $$")
    (tmp_path / "text").write_text("no program")
    lines = ["./leaves", "echo  two   words", "./dies", "no-such-program -x", "./text", ""]
    result = run("commands", *lines, before=[shell], cwd=tmp_path)
    assert result.ends(
        1, "5 of 6 commands failed: ./leaves (exit 3); ./dies (exit 137, killed by signal 9); "
    )
    assert "no-such-program -x (exit 127, not found); ./text (exit 126, can't be executed)" in result.last
    assert "$ echo  two   words\ntwo words\n" in result.out
    assert "an empty command line" in result.out


@every_shell
def test_command_lines_are_words_and_never_shell_text(shell: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = [*HOSTILE, *(f"echo {text}" for text in HOSTILE), "-c touch", "exec touch x", "x=1 touch x"]
    result = run("commands", *lines, before=[shell], cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for text in HOSTILE:
        assert f"$ echo {text}\n{text}\n" in result.out
        assert f"failed: {text} (exit 127, not found)\n" in result.out


def test_commands_are_found_in_games_and_sbin() -> None:
    path = re.search(r"^PATH=/usr/bin:/bin:(.*)$", run("commands", "env", PATH="/usr/bin:/bin").out, re.M)
    assert path
    assert {"/usr/games", "/usr/sbin", "/sbin"} <= set(path[1].split(":"))
    assert run("commands").ends(2, "usage: commands LINE")


def test_modules_are_imported_and_all_failures_are_told(tmp_path: Path) -> None:
    result = run("python-imports", "--python", sys.executable, "pytest", "os.path")
    assert result.ends(0, "modules imported: 2")
    assert f"pytest {pytest.__version__}\n" in result.out
    add_module(tmp_path, "broken", "raise ImportError('libxyz.so.1: no such file')")
    add_module(tmp_path, "leaves", "raise SystemExit(0)")
    path = add_module(tmp_path, "dies", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    result = run("python-imports", "missing", "json", "broken", "leaves", "dies", PYTHONPATH=path)
    assert result.ends(1, "4 of 5 modules can't be imported: missing, broken, leaves, dies")
    assert "failed: missing: ModuleNotFoundError: No module named 'missing'\n" in result.out
    assert "failed: broken: ImportError: libxyz.so.1: no such file\n" in result.out
    assert "failed: leaves: SystemExit: 0\nfailed: dies: the interpreter ended with exit 139\n" in result.out


def test_module_names_are_never_code_or_shell_text(tmp_path: Path) -> None:
    (tmp_path / "local_file.py").write_text("open('x', 'w')")
    names = [*HOSTILE, "os; open('x', 'w')", "__import__('os').mkdir('x')", "-c", "..", "", "local_file"]
    result = run("python-imports", *names, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["local_file.py"]
    assert result.ends(1, f"{len(names)} of {len(names)} modules can't be imported")
    assert run("python-imports").ends(2, "usage: python-imports")
    assert run("python-imports", "--python=/no/it", "os").ends(1, "the interpreter doesn't start: /no/it")


@pytest.mark.skipif(any(Path("/dev").glob("nvidia*")), reason="this machine has NVIDIA devices")
def test_gpu_hooks_are_skipped_without_device_nodes(tmp_path: Path) -> None:
    add_module(tmp_path, "transformer_engine", "")
    path = add_module(tmp_path, "torch", TORCH)
    for name in GPU_HOOKS:
        assert run(name, PYTHONPATH=path).ends(77, "no GPU: there is no /dev/nvidia"), name


def test_gpu_visible_counts_gpus_and_loads_libcuda(
    tmp_path: Path, devices: list[str], standins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run("gpu-visible", before=devices).ends(1, "libcuda.so.1 can't be loaded")
    shutil.copy(Path(standins, "libnccl.so.2"), tmp_path / "libcuda.so.1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert run("gpu-visible", "2", before=devices).ends(0, "GPUs visible: 2")
    add_program(
        tmp_path / "nvidia-smi", "echo 'GPU 0: Stand-in (UUID: 1)'; echo '  MIG 1g.10gb Device 0: (2)'"
    )
    assert run("gpu-visible", before=devices).ends(0, "GPUs visible: 1")
    assert run("gpu-visible", "2", before=devices).ends(1, "GPUs visible: 1, wanted: 2; look at")
    add_program(tmp_path / "nvidia-smi", "echo 'Driver/library version mismatch'; exit 18")
    assert run("gpu-visible", before=devices).ends(1, "nvidia-smi -L failed")
    for minimum in ("two", "-1", "", "1; touch x"):
        assert run("gpu-visible", minimum, before=devices).ends(1, "usage: gpu-visible")


@pytest.mark.parametrize(("mode", "gpus"), [("", 3), ("one-gpu", 1)])
def test_nccl_sums_exactly_and_gives_everything_back(standins: str, mode: str, gpus: int) -> None:
    result = run("nccl-init", LD_LIBRARY_PATH=standins, STANDIN=mode)
    assert result.ends(0, "NCCL works"), result.out
    assert f"GPUs: {gpus}, driver up to CUDA 12.8\nGPU 0: Stand-in 0\n" in result.out
    assert f"NCCL 2.26.5 from {standins}/libnccl.so.2\n" in result.out
    assert f"all-reduce of 1048576 float32 over {gpus} GPUs: sum exact on each\n" in result.out
    assert (
        f"GB/s {'copied on the one GPU' if gpus == 1 else 'bus bandwidth'}\nnetwork: Socket\n" in result.out
    )
    assert result.err == "left: contexts 0 streams 0 memory 0 communicators 0, aborted 0\n"


NCCL_FAILURES = {
    "init-error": "ncclCommInitAll failed: unhandled system error: shm_open failed (2)",
    "reduce-error": "ncclAllReduce failed: internal error (3)",
    "wrong-sum": "wrong sum on GPU 1: element 1234 is 645, should be 644; wrong elements: 1 of 1048576",
    "no-sum": "wrong sum on GPU 0: element 0 is nan, should be 7; wrong elements: 1048576 of 1048576",
    "sync-error": "cuStreamSynchronize failed: ILLEGAL_ADDRESS, an illegal memory access (700)",
}


@pytest.mark.parametrize("mode", NCCL_FAILURES)
def test_what_goes_wrong_in_nccl_is_told(standins: str, mode: str) -> None:
    result = run("nccl-init", LD_LIBRARY_PATH=standins, STANDIN=mode)
    assert (result.status, result.last) == (1, NCCL_FAILURES[mode])
    assert ("NCCL WARN shm_open failed: no space left" in result.out) == (mode == "init-error")
    assert f"communicators 0, aborted {0 if mode == 'init-error' else 3}\n" in result.err


@pytest.mark.parametrize("age", ["", "old"])
def test_infiniband_is_told_from_sockets_in_both_forms_of_the_log(standins: str, age: str) -> None:
    result = run("nccl-init", "--net-ib", LD_LIBRARY_PATH=standins, STANDIN=f"ib {age}")
    assert result.ends(0, "NCCL works")
    assert "network: IB\nNET/IB : Using [0]mlx5_0:1/IB\n" in result.out
    result = run("nccl-init", "--net-ib", LD_LIBRARY_PATH=standins, STANDIN=f"socket {age}")
    assert result.ends(1, "NCCL chose the network Socket and not NET/IB: ")


def test_nccl_is_found_in_the_wheels_of_another_interpreter(standins: str, tmp_path: Path) -> None:
    wheel = tmp_path / "packages" / "nvidia" / "nccl" / "lib"
    wheel.mkdir(parents=True)
    shutil.copy(Path(standins, "libnccl.so.2"), wheel)
    (tmp_path / "libcuda.so.1").symlink_to(wheel / "libnccl.so.2")
    add_program(tmp_path / "python", f'PYTHONPATH="{tmp_path}/packages" exec "{sys.executable}" "$@"')
    result = run("nccl-init", "--python", f"{tmp_path}/python", LD_LIBRARY_PATH=str(tmp_path))
    assert result.ends(0, "NCCL works")
    assert f"from {wheel}/libnccl.so.2\n" in result.out
    assert run("nccl-init", LD_LIBRARY_PATH=str(tmp_path)).ends(1, "libnccl.so.2 can't be loaded: ")


def test_what_cannot_use_the_gpus_fails(tmp_path: Path, devices: list[str], standins: str) -> None:
    assert run("nccl-init", before=devices).ends(1, "libcuda can't be loaded")
    hidden = [*devices, "env", f"LD_LIBRARY_PATH={standins}", "STANDIN=no-device", "CUDA_VISIBLE_DEVICES="]
    assert run("nccl-init", before=hidden).ends(
        1, "cuInit failed: NO_DEVICE (100); CUDA_VISIBLE_DEVICES is ''"
    )
    add_module(tmp_path, "transformer_engine", "")
    path = add_module(tmp_path, "torch", TORCH)
    result = run("torch-cuda", before=devices, PYTHONPATH=path)
    assert result.ends(1, "torch 9.9 has no CUDA build, on a machine with GPUs: look for a layer")
    for name in ("fp8", "ddp"):
        result = run(name, before=devices, PYTHONPATH=path)
        assert (result.status, result.last.endswith("can't use this machine's GPUs: run torch-cuda")) == (
            1,
            True,
        )


def test_what_is_not_installed_fails(tmp_path: Path) -> None:
    path = add_module(tmp_path, "torch", "raise ImportError('libcudart.so.12: cannot open')")
    for name in ("torch-cuda", "fp8"):
        result = run(name, PYTHONPATH=path)
        assert result.ends(1, "torch can't be imported by ")
        assert result.last.endswith("ImportError: libcudart.so.12: cannot open")
        assert run(name, "--python", "/no/it").ends(1, "--python /no/it: No such file or directory")


def test_fp8_needs_transformer_engine_and_a_recent_gpu(tmp_path: Path) -> None:
    path = add_module(tmp_path, "torch", TORCH)
    assert run("fp8", PYTHONPATH=path).ends(1, "transformer_engine isn't installed for ")
    add_module(tmp_path, "transformer_engine/__init__", "")
    result = run("fp8", PYTHONPATH=path, OLD_GPU="1")
    assert result.ends(1, "transformer_engine.pytorch can't be imported: ModuleNotFoundError")
    add_module(tmp_path, "transformer_engine/pytorch", "")
    result = run("fp8", PYTHONPATH=path, OLD_GPU="1")
    assert result.ends(77, "Stand-in has compute capability 8.0: FP8 needs 8.9")


def test_fp8_results_are_judged() -> None:
    hook = runpy.run_path(str(HOOKS / "fp8"))
    hook["judge"]({"output": 0.04, "input gradient": 0.06, "weight gradient": 0.06})
    with pytest.raises(hook["Failure"], match="the weight gradient is nan from bfloat16"):
        hook["judge"]({"output": 0.04, "input gradient": 0.06, "weight gradient": float("nan")})
    with pytest.raises(hook["Failure"], match="didn't compute in FP8"):
        hook["judge"](dict.fromkeys(hook["LIMITS"], 0.0))


@needs_torch
def test_matrix_products_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = importlib.import_module("torch")
    check = runpy.run_path(str(HOOKS / "torch-cuda"))["check_device"]
    monkeypatch.setitem(check.__globals__, "SIZE", 128)
    assert check(torch, torch.device("cpu")) == []
    monkeypatch.setitem(check.__globals__, "product_error", lambda *_: float("nan"))
    assert "the float32 product is wrong: error nan" in check(torch, torch.device("cpu"))[0]


@needs_torch
def test_ddp_trains_without_gpus() -> None:
    result = run("ddp", "--python", sys.executable)
    assert result.ends(0, "DDP trains with 2 processes over gloo"), result.err
    assert "spread of parameters: 0.00e+00\nspread of gradients: 0.00e+00\n" in result.out


def test_ddp_that_is_stopped_ends_its_workers(tmp_path: Path) -> None:
    for name in ("torch/__init__", "torch/distributed/__init__"):
        add_module(tmp_path, name, "")
    path = add_module(tmp_path, "torch/distributed/run", TORCHRUN)
    assert run("ddp", "--nproc", "0", PYTHONPATH=path).ends(1, "--nproc 0: at least one process")
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(
        [HOOKS / "ddp"], env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True
    ) as hook:
        assert hook.stdout and "the workers run\n" in iter(hook.stdout.readline, "")
        hook.send_signal(signal.SIGTERM)
        rest = hook.communicate(timeout=20)[0]
    assert rest.startswith("the workers were ended\ntorchrun ended with 1: ")
    assert hook.returncode == 1
