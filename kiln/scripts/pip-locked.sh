#!/bin/sh
# pip-locked.sh: installs what /run/kiln/locked has into the system's Python, and asks no index.
set -eu
python=$(command -v python3 || command -v python || true)
if [ -z "$python" ]; then
    echo "kiln: the base has no Python; put 'apt: [python3-pip]' before this layer" >&2
    exit 1
fi
if ! "$python" -m pip --version > /dev/null 2>&1; then
    echo "kiln: $python has no pip; put 'apt: [python3-pip]' before this layer, or use a uv layer" >&2
    exit 1
fi
# The image is the environment: what PEP 668 protects is somebody's machine.
export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_NO_CACHE_DIR=1
# What pip itself uses stays as it is; what it installs it compiles all the same.
export PYTHONDONTWRITEBYTECODE=1
locked=/run/kiln/locked
# As variables these hold for what a source is built with too, and win over the image's own pip.conf.
export PIP_NO_INDEX=1 PIP_FIND_LINKS="$locked/files"
# The first is for pip itself, where the layer brings it up to date.
for list in "$locked/tools.txt" "$locked/requirements.txt"; do
    if [ -s "$list" ]; then
        : > "$TMPDIR/before"
        "$python" -m pip install --no-compile --no-deps --require-hashes -r "$list"
        if [ -z "${PIP_NO_COMPILE:-}" ]; then
            "$python" /run/kiln/scripts/compile.py "$TMPDIR/before"
        fi
        rm "$TMPDIR/before"
    fi
done
