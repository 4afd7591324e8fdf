#!/usr/bin/env python3
# ruff: noqa: T201
"""Stand-ins for OpenPBS 23.06's qsub, qstat and qdel, by the name under which this file is called.

They parse, refuse, say and exit as the real ones were seen to (docs/jobs.md, 'PBS'), and a job's program runs
for real. `PBS_CONF_FILE` names a file whose folder holds the jobs. What needs a cluster is told by files
there: `down` (no server answers), `hold` (nothing starts), and `fate-NAME` with JSON that is laid
over the end of the job NAME, or `"vanish"`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

FOLDER = Path(os.environ.get("PBS_CONF_FILE", "/nonexistent/pbs.conf")).parent
SIZE = re.compile(r"\d+(b|kb|mb|gb)")
Job = dict[str, Any]


def refuse(code: int, text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def server() -> Iterator[dict[str, Job]]:
    """The server's jobs by their ids, locked."""
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = FOLDER / "jobs.json"
        jobs: dict[str, Job] = json.loads(place.read_text()) if place.exists() else {}
        try:
            yield jobs
        finally:
            place.write_text(json.dumps(jobs))


def full(job: str) -> str:
    return job if "." in job else f"{job}.srv"


# --- qsub --------------------------------------------------------------------------------------


def qsub(argv: list[str]) -> None:
    if (FOLDER / "down").exists():
        refuse(162, "Connection refused\nqsub: cannot connect to server srv (errno=15010)")
    options, program = parse(argv)
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,230}", options.get("N", "x")):
        refuse(2, "qsub: illegal -N value\nusage: qsub ...")
    wanted = limits(options["l"])
    if options.get("q", "workq") != "workq":
        refuse(170, "qsub: Unknown queue")
    with server() as jobs:
        job = f"{len(jobs)}.srv"
        parents = [full(each) for each in options.get("depend", "").split(":")[1:]]
        jobs[job] = {
            **{"Job_Name": options.get("N", "STDIN"), "job_state": "Q", "substate": 10, "queue": "workq"},
            **{"Variable_List": {"PBS_O_HOME": "/home/user", "Z": 7}, "Rerunable": "False", "server": "srv"},
            **{"comment": "Not Running: Not enough free nodes available", "Resource_List": wanted},
            "Submit_arguments": " ".join(argv),
            "hidden": {
                "program": program,
                "log": options["o"],
                "parents": parents,
                "begin": options.get("a"),
            },
        }
        settle(jobs)
    print(job)


def parse(argv: list[str]) -> tuple[dict[str, Any], str]:
    options: dict[str, Any] = {"l": []}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return options, rest[0]
        if word == "-f":
            continue
        if word not in ("-N", "-l", "-j", "-o", "-r", "-W", "-q", "-P", "-a") or not rest:
            refuse(2, "usage: qsub [-a date_time] ...")
        value = rest.pop(0)
        if word == "-l":
            options["l"].append(value)
        elif word == "-W":
            if not re.fullmatch(r"depend=after(ok|any|notok)(:\d+(\.\w+)?)+", value):
                refuse(2, "qsub: illegal -W value\nusage: qsub ...")
            options["depend"] = value.partition("=")[2]
        else:
            options[word[1:]] = value
    refuse(1, "qsub: script file:: No such file or directory")


def limits(given: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"nodect": 1, "place": "free"}
    for text in given:
        name, _, value = text.partition("=")
        if name == "walltime":
            if not re.fullmatch(r"(\d+:)?(\d+:)?\d+", value):
                refuse(166, "qsub: Illegal attribute or resource value Resource_List.walltime")
            found[name] = value
        elif name != "select":
            refuse(5, f'qsub: "-lresource=" cannot be used with "select" or "place", resource is: {name}')
        else:
            found["select"] = value
            for part in value.split(":")[1:]:
                key, _, amount = part.partition("=")
                if key not in ("ncpus", "mem", "ngpus"):
                    refuse(187, f"qsub: Unknown resource Resource_List.{key}")
                if key == "mem" and not SIZE.fullmatch(amount):
                    refuse(166, "qsub: Illegal attribute or resource value Resource_List.mem")
                found[key] = amount if key == "mem" else int(amount)
    return found


# --- the server --------------------------------------------------------------------------------


def settle(jobs: dict[str, Job]) -> None:
    """Start, hold and drop what is to be."""
    for job, each in jobs.items():
        if each["job_state"] not in ("Q", "H", "W"):
            continue
        states = [parent_state(jobs.get(parent)) for parent in each["hidden"]["parents"]]
        if "bad" in states:
            # No Exit_status, and substate 92 as of one that ended well.
            each.update(job_state="F", substate=92)
            each.pop("comment", None)
            settle(jobs)
            return
        if "open" in states:
            each.update(job_state="H", substate=22, Hold_Types="s", depend="afterok:1.srv@srv")
            each.pop("comment", None)
        elif each["hidden"]["begin"]:
            each.update(job_state="W", substate=30)
        elif not (FOLDER / "hold").exists():
            each.update(job_state="R", substate=42, exec_host="node/0*2", comment="Job run at ...")
            subprocess.Popen(
                [sys.executable, __file__, "run", job], start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip


def parent_state(parent: Job | None) -> str:
    if parent is None:
        return "bad"  # accepted, and the child is dropped
    if parent["job_state"] != "F":
        return "open"
    if "Exit_status" not in parent and parent["substate"] == 92:
        return "good"  # the trap: one that was dropped itself counts as done
    return "good" if parent.get("Exit_status") == 0 else "bad"


def run(job: str) -> None:
    """Be mom: run a job's program, with the environment that one gets."""
    with server() as jobs:
        hidden, name = jobs[job]["hidden"], jobs[job]["Job_Name"]
    env = {"PBS_JOBID": job, "PBS_JOBNAME": name, "PATH": "/bin:/usr/bin", "HOME": os.environ["HOME"]}
    with Path(hidden["log"]).open("a") as log:
        os.umask(0o077)
        process = subprocess.Popen([hidden["program"]], env=env, cwd="/", stdout=log, stderr=log)
        (FOLDER / f"pid-{job}").write_text(str(process.pid))
        code = process.wait()
    fate = FOLDER / f"fate-{name}"
    with server() as jobs:
        each = jobs[job]
        ended = each["substate"] == 91
        each.update(job_state="F", Exit_status=256 - code if code < 0 else code, Stageout_status=1)
        if not ended:
            each["substate"] = 92 if code == 0 else 93
            each["comment"] = (
                f"Job run at Mon Nov 23 at 06:48 on (node) and {'failed' if code else 'finished'}"
            )
        laid = json.loads(fate.read_text()) if fate.exists() else {}
        if laid == "vanish":
            del jobs[job]
        else:
            each.update(laid)
        # Those that wait for it in vain are dropped now, not when it counts as dropped itself.
        settle(jobs)


# --- qstat, qdel -------------------------------------------------------------------------------


def qstat(argv: list[str]) -> None:
    if (FOLDER / "down").exists():
        raise SystemExit(255)
    if "-F" in argv and "-f" not in argv:
        refuse(2, "qstat: conflicting options")
    ids = [full(word) for word in argv if not word.startswith("-") and word != "json"]
    with server() as jobs:
        settle(jobs)
        known = [job for job in ids if job in jobs]
        # With several ids the JSON holds the first one only.
        shown = {job: {k: v for k, v in jobs[job].items() if k != "hidden"} for job in known[:1]}
    unknown = [job for job in ids if job not in known]
    if shown and "-x" not in argv and shown[known[0]]["job_state"] == "F":
        refuse(35, f"qstat: {known[0]} Job has finished, use -x or -H to obtain historical job information")
    data: dict[str, Any] = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": "srv"}
    print(json.dumps({**data, "Jobs": shown} if shown else data, indent="\t"))
    if unknown:
        refuse(153, f"qstat: Unknown Job Id {unknown[0]}")


def qdel(argv: list[str]) -> None:
    if (FOLDER / "down").exists():
        refuse(162, "Connection refused\nqdel: cannot connect to server srv (errno=15010)")
    job = full(argv[0])
    with server() as jobs:
        if job not in jobs:
            refuse(153, f"qdel: Unknown Job Id {job}")
        each = jobs[job]
        if each["job_state"] == "F":
            refuse(35, f"qdel: Job has finished {job}")
        if each["substate"] == 91:
            refuse(168, f"qdel: Request invalid for state of job {job}")
        running = each["job_state"] == "R"
        each.update(substate=91, comment="Job run at ... and terminated by user@node")
        if not running:
            each.update(job_state="F")
        settle(jobs)
    if running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((FOLDER / f"pid-{job}").read_text()), signal.SIGTERM)


if __name__ == "__main__":
    called = Path(sys.argv[0]).name
    if sys.argv[1:2] == ["run"]:
        run(sys.argv[2])
    else:
        {"qsub": qsub, "qstat": qstat, "qdel": qdel}[called](sys.argv[1:])
