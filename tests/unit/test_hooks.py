"""The smoke hooks, run as programs.

GPUs are stand-ins here: one library compiled by the test is both libcuda and libnccl, keeps "device" memory
on the host and really adds up, so every call through ctypes is made, and its arguments are checked on the
other side. What only a GPU can show, that torch, NCCL and Transformer Engine work on it, isn't shown here.
"""

from __future__ import annotations

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

Ended = subprocess.CompletedProcess[str]
HOOKS = Path(__file__).resolve().parents[2] / "hooks"
GPU_HOOKS = {"gpu-visible", "nccl-init", "torch-cuda", "fp8"}
ALL_HOOKS = sorted(GPU_HOOKS | {"ddp", "python-imports", "commands"})
PYTHON = ["--python", sys.executable]
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

every_shell = pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])

STANDIN = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define MODE(text) (getenv("STANDIN") && strstr(getenv("STANDIN"), text))
enum { GPUS = 3, BLOCKS = 16, KEY = 0x5ca1ab1e };
typedef unsigned long long address;
typedef struct { int key, device; } object; /* a context or a communicator */
typedef struct { int key, device; void *to, *from; size_t size; } stream;
static struct { address at; int device; size_t size; void *late; } blocks[BLOCKS];
static struct { const float *send; float *to; stream *on; } calls[GPUS];
static object contexts[GPUS], *now;
static int kept, streams, memory, comms, aborted, ranks, grouped;
static size_t length;
/* Memory lies above 4 GiB, as on a GPU: an argument that ctypes cut to 32 bits is none of ours. */
static int find(address at, size_t size, int device) {
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].at == at && (!at || blocks[i].device == device && size <= blocks[i].size)) return i;
    return -1;
}
int cuInit(unsigned flags) { return flags ? 1 : MODE("no-device") ? 100 : 0; }
int cuDriverGetVersion(int *v) { return (*v = 12080) == 0; }
int cuDeviceGetCount(int *n) { return (*n = MODE("one-gpu") ? 1 : GPUS) == 0; }
int cuDeviceGet(int *d, int i) { return (*d = i) < 0 || i >= GPUS; }
int cuDeviceGetName(char *name, int n, int d) { snprintf(name, n, "Stand-in %d", d); return 0; }
int cuDevicePrimaryCtxRetain(object **c, int d) { *(*c = &contexts[d]) = (object){KEY, d}; return !++kept; }
int cuDevicePrimaryCtxRelease_v2(int d) { kept--; return contexts[d].key != KEY; }
int cuCtxSetCurrent(object *c) { now = c; return c && c->key != KEY; }
int cuCtxSynchronize(void) { /* Copies from pageable memory have arrived for certain only now. */
    for (int i = 0; i < BLOCKS; i++) if (blocks[i].device == now->device && blocks[i].late)
        memcpy((void *)blocks[i].at, blocks[i].late, blocks[i].size), blocks[i].late = 0;
    return 0;
}
int cuStreamCreate(stream **s, unsigned flags) {
    *(*s = malloc(sizeof **s)) = (stream){KEY, now->device}; streams++; return flags > 1;
}
int cuStreamSynchronize(stream *s) { /* What NCCL enqueued arrives now. */
    if (s->from) { memcpy(s->to, s->from, s->size); free(s->from); s->from = 0; }
    return s->key != KEY ? 400 : MODE("sync-error") ? 700 : 0;
}
int cuStreamDestroy_v2(stream *s) { streams--; free(s); return 0; }
int cuMemAlloc_v2(address *at, size_t size) {
    int i = find(0, 0, 0); *at = blocks[i].at = (address)calloc(1, size); memory++;
    blocks[i].device = now->device; blocks[i].size = size; return *at >> 32 ? 0 : 2;
}
int cuMemFree_v2(address at) { memory--; free((void *)at); return blocks[find(at, 0, now->device)].at = 0; }
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
    FILE *log = strcmp(getenv("NCCL_DEBUG"), "INFO") ? 0 : fopen(getenv("NCCL_DEBUG_FILE"), "a");
    if (log) fprintf(log, "node:1:1 [0] NCCL %s\n", text), fclose(log);
}
int ncclGetVersion(int *v) { *v = MODE("old") ? 2804 : 22605; return 0; }
const char *ncclGetErrorString(int e) { return e == 2 ? "unhandled system error" : "internal error"; }
const char *ncclGetLastError(object *c) { return MODE("init-error") ? "shm_open failed\n" : ""; }
int ncclCommInitAll(object **c, int n, const int *devices) {
    if (MODE("init-error")) { note("WARN shm_open failed: no space left on device"); return 2; }
    note(MODE("ib") ? "INFO NET/IB : Using [0]mlx5_0:1/IB" : "INFO NET/IB : No device found.");
    if (!MODE("ib")) note("INFO NET/Socket : Using [0]eth0:10.0.0.1<0>");
    if (!MODE("old")) note(MODE("ib") ? "INFO Using network IB" : "INFO Using network Socket");
    for (; ranks < n; ranks++, comms++) *(c[ranks] = malloc(sizeof **c)) = (object){KEY, devices[ranks]};
    return 0;
}
int ncclCommDestroy(object *c) { return free(c), comms--, 0; }
int ncclCommAbort(object *c) { return aborted++, ncclCommDestroy(c); }
int ncclGroupStart(void) { return !(grouped = 1); }
int ncclAllReduce(address send, address to, size_t count, int type, int op, object *c, stream *s) {
    int d = c->device, ok = c->key == KEY && s->key == KEY && s->device == d && grouped && type == 7 && !op;
    if (!ok || find(send, count * 4, d) < 0 || find(to, count * 4, d) < 0 || MODE("reduce-error")) return 3;
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
    fprintf(stderr, "left: %d %d %d %d, aborted: %d\n", kept, streams, memory, comms, aborted);
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
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.write(1, b"the workers were ended\\n") and 1))
print("the workers run", flush=True)
time.sleep(60)
"""


def run(status: int, last: str, hook: str, *words: str, before: Sequence[str] = (), **env: str) -> Ended:
    """Run a hook that is to end with this status, and with a last line that begins so."""
    command, env = [*before, str(HOOKS / hook), *words], {**os.environ, **env}
    answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    shown = answer.stdout.rstrip().rpartition("\n")[2][: len(last)]
    assert (answer.returncode, shown) == (status, last), answer.stdout + answer.stderr
    return answer


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
    text = (HOOKS / name).read_text(encoding="utf-8")
    needs = "# needs: gpu\n" if name in GPU_HOOKS else ""
    start = r"#!(/bin/sh|/usr/bin/env python3)\n# about: \S.{10,100}\n"
    assert re.match(rf"{start}{needs}# timeout: [1-9]\d{{1,2}}\n# Parameters: \S", text)
    assert os.access(HOOKS / name, os.X_OK)


@every_shell
def test_commands_run_and_all_failures_are_told(shell: str, tmp_path: Path) -> None:
    run(0, "commands that ran: 2", "commands", "echo  two   words", "true", before=[shell])
    add_program(tmp_path / "leaves", "exit 3")
    add_program(tmp_path / "dies", "kill -9 $$")
    (tmp_path / "text").write_text("no program")
    lines = ["./leaves", "echo  two   words", "./dies", "no-such-program -x", "./text", ""]
    told = "5 of 6 commands failed: ./leaves (exit 3); ./dies (exit 137, killed by signal 9); "
    told += "no-such-program -x (exit 127, not found); ./text (exit 126, can't be executed); "
    out = run(1, told, "commands", *lines, before=["env", "-C", str(tmp_path), shell]).stdout
    assert "$ echo  two   words\ntwo words\n" in out
    assert "an empty command line" in out


@every_shell
def test_command_lines_are_words_and_never_shell_text(shell: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = [*HOSTILE, *(f"echo {text}" for text in HOSTILE), "-a y touch x", "exec touch x", "x=1 touch x"]
    out = run(
        1, "12 of 21 commands failed", "commands", *lines, before=["env", "-C", str(tmp_path), shell]
    ).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for text in HOSTILE:
        assert f"$ echo {text}\n{text}\n" in out
        assert f"failed: {text} (exit 127, not found)\n" in out


def test_commands_are_found_in_games_and_sbin() -> None:
    out = run(0, "commands that ran", "commands", "env", PATH="/usr/bin:/bin").stdout
    path = re.search(r"^PATH=/usr/bin:/bin:(.*)$", out, re.M)
    assert path and {"/usr/games", "/usr/sbin", "/sbin"} <= set(path[1].split(":"))
    run(2, "usage: commands LINE", "commands")


def test_modules_are_imported_and_all_failures_are_told(tmp_path: Path) -> None:
    out = run(0, "modules imported: 2", "python-imports", *PYTHON, "pytest", "os.path").stdout
    assert f"pytest {pytest.__version__}\n" in out
    add_module(tmp_path, "broken", "raise ImportError('libxyz.so.1: no such file')")
    add_module(tmp_path, "leaves", "raise SystemExit(0)")
    path = add_module(tmp_path, "dies", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    names = ["missing", "json", "broken", "leaves", "dies"]
    told = "4 of 5 modules can't be imported: missing, broken, leaves, dies"
    out = run(1, told, "python-imports", *PYTHON, *names, PYTHONPATH=path).stdout
    assert "failed: missing: ModuleNotFoundError: No module named 'missing'\n" in out
    assert "failed: broken: ImportError: libxyz.so.1: no such file\n" in out
    assert "failed: leaves: SystemExit: 0\n" in out
    assert "failed: dies: the interpreter ended with exit 139\n" in out


def test_module_names_are_never_code_or_shell_text(tmp_path: Path) -> None:
    (tmp_path / "local_file.py").write_text("open('x', 'w')")
    names = [*HOSTILE, "os; open('x', 'w')", "__import__('os').mkdir('x')", "-c", "..", "", "local_file"]
    run(1, "15 of 15 modules", "python-imports", *PYTHON, *names, before=["env", "-C", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["local_file.py"]
    run(2, "usage: python-imports", "python-imports")
    run(1, "the interpreter doesn't start: /no/it", "python-imports", "--python=/no/it", "os")


@pytest.mark.skipif(any(Path("/dev").glob("nvidia*")), reason="this machine has NVIDIA devices")
@pytest.mark.parametrize("name", sorted(GPU_HOOKS))
def test_gpu_hooks_are_skipped_without_device_nodes(name: str, tmp_path: Path) -> None:
    add_module(tmp_path, "transformer_engine", "")
    run(77, "no GPU: there is no /dev/nvidia", name, PYTHONPATH=add_module(tmp_path, "torch", TORCH))


def test_gpu_visible_counts_gpus_and_loads_libcuda(tmp_path: Path, devices: list[str], standins: str) -> None:
    devices += ["env", f"PATH={tmp_path}:/usr/bin:/bin", f"LD_LIBRARY_PATH={tmp_path}"]
    run(1, "libcuda.so.1 can't be loaded", "gpu-visible", before=devices)
    shutil.copy(Path(standins, "libnccl.so.2"), tmp_path / "libcuda.so.1")
    run(0, "GPUs visible: 2", "gpu-visible", "2", before=devices)
    add_program(tmp_path / "nvidia-smi", "echo 'GPU 0: Stand-in (UUID: 1)'; echo '  MIG 1g.10gb Device 0'")
    run(0, "GPUs visible: 1", "gpu-visible", before=devices)
    run(1, "GPUs visible: 1, wanted: 2; look at", "gpu-visible", "2", before=devices)
    add_program(tmp_path / "nvidia-smi", "echo 'Driver/library version mismatch'; exit 18")
    run(1, "nvidia-smi -L failed", "gpu-visible", before=devices)
    for minimum in ("two", "-1", "", "1; touch x"):
        run(1, "usage: gpu-visible", "gpu-visible", minimum, before=devices)


@pytest.mark.parametrize(("mode", "gpus"), [("", 3), ("one-gpu", 1)])
def test_nccl_sums_exactly_and_gives_everything_back(standins: str, mode: str, gpus: int) -> None:
    answer = run(0, "NCCL works", "nccl-init", LD_LIBRARY_PATH=standins, STANDIN=mode)
    assert f"GPUs: {gpus}, driver up to CUDA 12.8\nGPU 0: Stand-in 0\n" in answer.stdout
    assert f"NCCL 2.26.5 from {standins}/libnccl.so.2\n" in answer.stdout
    assert f"all-reduce of 1048576 float32 over {gpus} GPUs: sum exact on each\n" in answer.stdout
    assert "network: Socket\n" in answer.stdout
    assert answer.stderr == "left: 0 0 0 0, aborted: 0\n"


NCCL_FAILURES = {
    "init-error": "ncclCommInitAll failed: unhandled system error: shm_open failed (2)",
    "reduce-error": "ncclAllReduce failed: internal error (3)",
    "wrong-sum": "wrong sum on GPU 1: element 1234 is 645, should be 644; wrong elements: 1 of 1048576",
    "no-sum": "wrong sum on GPU 0: element 0 is nan, should be 7; wrong elements: 1048576 of 1048576",
    "sync-error": "cuStreamSynchronize failed: ILLEGAL_ADDRESS, an illegal memory access (700)",
}


@pytest.mark.parametrize("mode", NCCL_FAILURES)
def test_what_goes_wrong_in_nccl_is_told(standins: str, mode: str) -> None:
    answer = run(1, NCCL_FAILURES[mode], "nccl-init", LD_LIBRARY_PATH=standins, STANDIN=mode)
    assert ("NCCL WARN shm_open failed: no space left" in answer.stdout) == (mode == "init-error")
    assert answer.stderr.endswith("0, aborted: 0\n" if mode == "init-error" else "0, aborted: 3\n")


@pytest.mark.parametrize("age", ["", "old"])
def test_infiniband_is_told_from_sockets_in_both_forms_of_the_log(standins: str, age: str) -> None:
    mode = f"ib {age}"
    out = run(0, "NCCL works", "nccl-init", "--net-ib", LD_LIBRARY_PATH=standins, STANDIN=mode).stdout
    assert "network: IB\nNET/IB : Using [0]mlx5_0:1/IB\n" in out
    told = "NCCL chose the network Socket and not NET/IB: "
    run(1, told, "nccl-init", "--net-ib", LD_LIBRARY_PATH=standins, STANDIN=f"socket {age}")


def test_nccl_is_found_in_the_wheels_of_another_interpreter(standins: str, tmp_path: Path) -> None:
    wheel = tmp_path / "packages" / "nvidia" / "nccl" / "lib"
    wheel.mkdir(parents=True)
    shutil.copy(Path(standins, "libnccl.so.2"), wheel)
    (tmp_path / "libcuda.so.1").symlink_to(wheel / "libnccl.so.2")
    add_program(tmp_path / "python", f'PYTHONPATH="{tmp_path}/packages" exec "{sys.executable}" "$@"')
    words = ["--python", f"{tmp_path}/python"]
    out = run(0, "NCCL works", "nccl-init", *words, LD_LIBRARY_PATH=str(tmp_path)).stdout
    assert f"from {wheel}/libnccl.so.2\n" in out
    run(1, "libnccl.so.2 can't be loaded: ", "nccl-init", LD_LIBRARY_PATH=str(tmp_path))


def test_what_cannot_use_the_gpus_fails(tmp_path: Path, devices: list[str], standins: str) -> None:
    run(1, "libcuda can't be loaded", "nccl-init", before=devices)
    hidden = [*devices, "env", f"LD_LIBRARY_PATH={standins}", "STANDIN=no-device", "CUDA_VISIBLE_DEVICES="]
    run(1, "cuInit failed: NO_DEVICE (100); CUDA_VISIBLE_DEVICES is ''", "nccl-init", before=hidden)
    add_module(tmp_path, "transformer_engine", "")
    path = add_module(tmp_path, "torch", TORCH)
    told = "torch 9.9 has no CUDA build, on a machine with GPUs: look for a layer"
    run(1, told, "torch-cuda", before=devices, PYTHONPATH=path)
    run(1, "torch 9.9 (CUDA None) can't use this machine's GPUs", "fp8", before=devices, PYTHONPATH=path)
    run(1, "torch 9.9 can't use this machine's GPUs", "ddp", before=devices, PYTHONPATH=path)


@pytest.mark.parametrize("name", ["torch-cuda", "fp8"])
def test_a_torch_that_is_broken_fails(name: str, tmp_path: Path) -> None:
    path = add_module(tmp_path, "torch", "raise ImportError('libcudart.so.12: cannot open')")
    out = run(1, "torch can't be imported by ", name, PYTHONPATH=path).stdout
    assert out.endswith(": ImportError: libcudart.so.12: cannot open\n")
    run(1, "--python /no/it: No such file or directory", name, "--python", "/no/it")


def test_fp8_needs_transformer_engine_and_a_recent_gpu(tmp_path: Path) -> None:
    path = add_module(tmp_path, "torch", TORCH)
    run(1, "transformer_engine isn't installed for ", "fp8", PYTHONPATH=path)
    add_module(tmp_path, "transformer_engine/__init__", "")
    run(1, "transformer_engine.pytorch can't be imported: ", "fp8", PYTHONPATH=path, OLD_GPU="1")
    add_module(tmp_path, "transformer_engine/pytorch", "")
    run(77, "Stand-in has compute capability 8.0: FP8 needs 8.9", "fp8", PYTHONPATH=path, OLD_GPU="1")


def test_fp8_results_are_judged() -> None:
    hook = runpy.run_path(str(HOOKS / "fp8"))
    hook["judge"]({"output": 0.04, "input gradient": 0.06, "weight gradient": 0.06})
    with pytest.raises(hook["Failure"], match="the weight gradient is nan from bfloat16"):
        hook["judge"]({"output": 0.04, "input gradient": 0.06, "weight gradient": float("nan")})
    with pytest.raises(hook["Failure"], match="didn't compute in FP8"):
        hook["judge"](dict.fromkeys(hook["LIMITS"], 0.0))


def test_matrix_products_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch isn't installed: no product is computed")
    check = runpy.run_path(str(HOOKS / "torch-cuda"))["check_device"]
    monkeypatch.setitem(check.__globals__, "SIZE", 128)
    assert check(torch, torch.device("cpu")) == []
    monkeypatch.setitem(check.__globals__, "product_error", lambda *_: float("nan"))
    assert "the float32 product is wrong: error nan" in check(torch, torch.device("cpu"))[0]


def test_ddp_trains_without_gpus() -> None:
    pytest.importorskip("torch", reason="torch isn't installed: DDP isn't tried")
    out = run(0, "DDP trains with 2 processes over gloo", "ddp", *PYTHON).stdout
    assert "spread of parameters: 0.00e+00\nspread of gradients: 0.00e+00\n" in out


def test_ddp_that_is_stopped_ends_its_workers(tmp_path: Path) -> None:
    for name in ("torch/__init__", "torch/distributed/__init__"):
        add_module(tmp_path, name, "")
    path = add_module(tmp_path, "torch/distributed/run", TORCHRUN)
    run(1, "--nproc 0: at least one process", "ddp", "--nproc", "0", PYTHONPATH=path)
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen([HOOKS / "ddp"], env=environment, stdout=subprocess.PIPE, text=True) as hook:
        assert hook.stdout and "the workers run\n" in iter(hook.stdout.readline, "")
        hook.send_signal(signal.SIGTERM)
        rest = hook.communicate(timeout=20)[0]
    assert (hook.returncode, rest[:45]) == (1, "the workers were ended\ntorchrun ended with 1:")
