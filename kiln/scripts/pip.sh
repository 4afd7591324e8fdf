#!/bin/sh
# pip.sh UPGRADE_PIP [pip's arguments ...]: into the system's Python.
set -eu
upgrade=$1
shift
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
export PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off
# Which modules pip itself uses depends on the cache and the network; what it installs it compiles all the same.
export PYTHONDONTWRITEBYTECODE=1
cache=/run/kiln/packages/pip
if [ -d "$cache" ]; then
    # Builds share what pip downloads. A wheel that it makes itself depends on the image in which it does.
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
# pip compiles one file after the other, which is half of its time for a large package.
install() {
    : > "$TMPDIR/before"
    "$python" -m pip install --no-compile "$@"
    if [ -z "${PIP_NO_COMPILE:-}" ]; then
        "$python" /run/kiln/scripts/compile.py "$TMPDIR/before"
    fi
}
if [ "$upgrade" = true ]; then
    install --upgrade pip
fi
if [ $# -gt 0 ]; then
    install "$@"
fi
rm -rf "$TMPDIR/pip" "$TMPDIR/before"
