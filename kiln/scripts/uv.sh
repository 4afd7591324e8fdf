#!/bin/sh
# uv.sh VENV SYSTEM_SITE_PACKAGES PYTHON [uv pip install's arguments ...]: by the host's uv; VENV "" is the system.
set -eu
venv=$1
site=$2
python=$3
shift 3
uv=/run/kiln/bin/uv
if ! command -v "$python" > /dev/null; then
    echo "kiln: the image has no '$python'; put an apt layer with python3 before this one" >&2
    exit 1
fi
unset UV_NO_CACHE
cache=/run/kiln/packages/uv
if [ -d "$cache" ]; then
    # Builds share the wheels that uv downloads, which lead to archives. The rest is this layer's own: a
    # wheel that uv makes itself, and what it knows of a Python, depend on the image. All is below one
    # mount, for uv renames from one to the other.
    UV_CACHE_DIR=$(mktemp -d "$cache/build.XXXXXX")
    for part in archive-v0 wheels-v8; do
        mkdir -p "$cache/$part"
        ln -s "../$part" "$UV_CACHE_DIR/$part"
    done
else
    UV_CACHE_DIR=$TMPDIR/uv
fi
trap 'rm -rf "$UV_CACHE_DIR"' EXIT
export UV_CACHE_DIR UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1 UV_NO_PROGRESS=1
# uv asks Python what it is; only what is installed is to be compiled.
export PYTHONDONTWRITEBYTECODE=1
# A read-only image can't keep what Python compiles at each start.
export UV_COMPILE_BYTECODE=1
if [ -z "$venv" ]; then
    "$uv" pip install --python "$(command -v "$python")" --system --break-system-packages "$@"
else
    if [ ! -e "$venv/pyvenv.cfg" ]; then
        if [ "$site" = true ]; then
            "$uv" venv --python "$(command -v "$python")" --system-site-packages "$venv"
        else
            "$uv" venv --python "$(command -v "$python")" "$venv"
        fi
    fi
    if [ $# -gt 0 ]; then
        "$uv" pip install --python "$venv/bin/python" "$@"
    fi
    # Only this uv had a use for it, and anybody may write to it.
    rm -f "$venv/.lock"
    # Nothing in it may lead to what is mounted for this step alone.
    if grep -rlIs /run/kiln "$venv/pyvenv.cfg" "$venv/bin" || find "$venv" -lname '/run/kiln/*' | grep .; then
        echo "kiln: the environment $venv points to Kiln's own mounts (see the files above)" >&2
        exit 1
    fi
fi
