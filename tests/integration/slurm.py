"""A real Slurm of one node, from Debian's packages, as long as a test module: own ports, own folders.

Its two GPUs are none. It is run by the caller, who needs no rights: slurmd then starts the caller's jobs.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
START_SECONDS = 30.0
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
GresTypes=gpu
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldTimeout=5
SlurmdTimeout=5
MessageTimeout=5
KillWait=8
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 Gres=gpu:h100:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GPUS = "NodeName=localhost Name=gpu Type=h100 Count=2 File=/dev/null,/dev/zero\n"


def available() -> bool:
    return all(shutil.which(program, path=PATH) for program in PROGRAMS)


@dataclass(frozen=True)
class Cluster:
    """A running Slurm."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": PATH}

    def ask(self, *argv: str) -> str:
        """What one of Slurm's own commands says."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def states(self) -> dict[str, str]:
        """The states of all jobs by their ids."""
        lines = self.ask("squeue", "--noheader", "--states=all", "--format=%i %T").splitlines()
        return {job: state for job, state in map(str.split, lines)}

    def fact(self, job: str, name: str) -> str:
        """One of the values that `scontrol show job` has."""
        text = self.ask("scontrol", "--oneliner", "show", "job", job)
        found = (word.partition("=")[2] for word in text.split() if word.startswith(f"{name}="))
        return next(found, "")

    def start_controller(self) -> None:
        _start(["slurmctld"], self)

    def start_node(self) -> None:
        _start(["slurmd", "-N", "localhost"], self)

    def stop(self, daemon: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop slurmctld or slurmd, and wait until it has ended."""
        place = self.folder / f"{daemon}.pid"
        try:
            pid = int(place.read_text())
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError):
            return
        try:
            signal.pidfd_send_signal(descriptor, number)
            # Readable once it has ended, also while nobody has asked how: on a machine whose init is slow to.
            assert select.select([descriptor], [], [], START_SECONDS)[0], f"{daemon} lives on"
        finally:
            os.close(descriptor)
        place.unlink(missing_ok=True)

    def resume(self) -> None:
        """Have a node that was down take jobs again; one that has registered meanwhile does so already."""
        argv = ["scontrol", "update", "NodeName=localhost", "State=RESUME"]
        subprocess.run(argv, env=self.env, capture_output=True, timeout=60, check=False)
        self.await_idle()

    def await_idle(self) -> None:
        await_true(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%t"), "the node is not idle")


def _start(argv: Sequence[str], cluster: Cluster) -> None:
    log = cluster.folder / f"{argv[0]}.log"
    done = subprocess.run(argv, env=cluster.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stderr, log.read_text() if log.exists() else "")


def await_true(reached: Callable[[], object], words: str) -> None:
    """Ask again and again, until it is so."""
    deadline = time.monotonic() + START_SECONDS
    while not reached():
        assert time.monotonic() < deadline, words
        time.sleep(0.1)  # Slurm tells nobody: it is asked again


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        found = []
        for _ in range(count):
            holder = held.enter_context(socket.socket())
            holder.bind(("127.0.0.1", 0))
            found.append(int(holder.getsockname()[1]))
        return found


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster in `folder`; all of it has ended after the block, its jobs too."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    controller, node = _ports(2)
    text = CONFIGURATION.format(user=getpass.getuser(), folder=folder, controller=controller, node=node)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(GPUS)
    cluster = Cluster(folder)
    try:
        cluster.start_controller()
        cluster.start_node()
        cluster.await_idle()
        yield cluster
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            for job, state in cluster.states().items():
                if state in ("RUNNING", "PENDING", "COMPLETING"):
                    cluster.ask("scancel", job)
            await_true(lambda: not {"RUNNING", "COMPLETING"} & set(cluster.states().values()), "jobs live on")
        # Nothing is to be saved: a controller that is asked to end takes seconds for that.
        cluster.stop("slurmd", signal.SIGKILL)
        cluster.stop("slurmctld", signal.SIGKILL)
