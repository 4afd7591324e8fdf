#!/bin/sh
# pip-lock.sh UPGRADE_PIP [pip's arguments ...]: says what pip.sh would install, and where it is; installs nothing.
set -eu
upgrade=$1
shift
python=$(command -v python3 || command -v python || true)
if [ -z "$python" ]; then
    echo "kiln: there is no Python before this layer; put 'apt: [python3-pip]' before it" >&2
    exit 1
fi
if ! "$python" -m pip install --help 2> /dev/null | grep -q -e --report; then
    echo "kiln: $python has no pip that says what it would install (22.2 or later); use a uv layer" >&2
    exit 1
fi
export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off
cache=/run/kiln/packages/pip
if [ -d "$cache" ]; then
    unset PIP_NO_CACHE_DIR
    export PIP_CACHE_DIR="$TMPDIR/pip"
    mkdir -p "$PIP_CACHE_DIR"
    for part in http http-v2; do
        mkdir -p "$cache/$part"
        ln -sfn "$cache/$part" "$PIP_CACHE_DIR/$part"
    done
else
    export PIP_NO_CACHE_DIR=1
fi
trap 'rm -rf "$TMPDIR/pip"' EXIT
state=/run/kiln/state
rm -f "$state/tool" "$state/found"
if [ "$upgrade" = true ]; then
    "$python" -m pip install --quiet --dry-run --report "$state/tool" --upgrade pip
fi
if [ $# -gt 0 ]; then
    "$python" -m pip install --quiet --dry-run --report "$state/found" "$@"
fi
