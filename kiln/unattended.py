"""Kiln run where nobody looks: in a job, by cron, by a systemd timer; with no environment at all.

Owns what such a run has of an environment, and where its output goes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from kiln.run import HOST_PATH
from kiln.site import Site

# What a profile may say by the caller's environment. None of it is a secret: a job's is kept in files.
OWN = (
    *("KILN_SITE", "KILN_IMAGES", "KILN_CACHE", "KILN_PROJECT", "PATH", "LANG", "TZ"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ENROOT_CONFIG_PATH"),
    *("SLURM_CONF", "PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT"),
)
NETWORK = (
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX"),
    "UV_EXTRA_INDEX_URL",
)


def carried(site: Site, environ: Mapping[str, str], warn: Callable[[str], None]) -> dict[str, str]:
    """The caller's variables that a later run needs to find the same things; never one with a login in it."""
    wanted = (*OWN, *(NETWORK if site.from_environment else ()))
    found = {name: environ[name] for name in wanted if name in environ}
    for name in NETWORK:
        if "@" in found.get(name, ""):
            del found[name]
            warn(f"{name} has a login in it and is not kept for later: write it into sites/{site.name}.yaml")
    return found


def environment(kept: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
    """What a run has: what was kept for it, over what the machine gives, over what is true of the user."""
    user = pwd.getpwuid(os.getuid())
    own = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "LANG": "C.UTF-8"}
    folder = f"/run/user/{os.getuid()}"
    if os.path.isdir(folder):
        own["XDG_RUNTIME_DIR"] = folder
    path = kept.get("PATH") or found.get("PATH") or HOST_PATH
    return {**own, **{name: value for name, value in found.items() if value}, **kept, "PATH": path}


def redirect(out: Path, err: Path) -> None:
    """Have all that this process and its children write go to these files, at their ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)


def outcome(work: Callable[[], None]) -> int:
    """The exit code with which a program's `main` ends; 1, and its traceback, for a bug."""
    try:
        work()
    except SystemExit as end:
        sys.stdout.flush()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        with contextlib.suppress(OSError):
            sys.excepthook(*sys.exc_info())
        return 1
    return 0
