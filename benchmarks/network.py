"""How the outside is reached from inside a container, the same for every contestant.

Kiln takes proxies, certificates and package indexes from the caller's environment, by its site `local`.
What it finds is written to a folder that the others see at `/run/bench`, with the two steps that they run.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kiln import site

INSIDE = "/run/bench"
SCRIPTS = {
    "apt.sh": """set -eu
. /run/bench/env.sh
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q install -y --no-install-recommends "$@"
apt-get clean
rm -rf /var/lib/apt/lists/*
""",
    "pip.sh": """set -eu
. /run/bench/env.sh
python3 -m pip install --no-cache-dir --break-system-packages --root-user-action ignore \\
    --disable-pip-version-check --no-input --progress-bar off "$@"
""",
}


@dataclass(frozen=True)
class Network:
    """Variables for a container, and the certificates that they name (None: the container's own)."""

    variables: Mapping[str, str]
    ca_bundle: Path | None

    def write(self, folder: Path) -> Path:
        """Fill `folder`, which is to be mounted at `/run/bench`; returns it."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.variables.items()]
        (folder / "env.sh").write_text("".join(lines))
        for name, text in SCRIPTS.items():
            (folder / name).write_text(text)
        if self.ca_bundle:
            shutil.copyfile(self.ca_bundle, folder / "ca.crt")
        return folder


def of(root: Path, environ: Mapping[str, str]) -> Network:
    """What the site `local` of the checkout `root` makes of the caller's environment."""
    local = site.load("local", root, environ)
    variables = {**local.proxy_environment(), **local.index_environment()}
    if local.ca_bundle:
        variables |= local.ca_environment(f"{INSIDE}/ca.crt")
    return Network(variables, local.ca_bundle)
