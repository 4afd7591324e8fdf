#!/bin/sh
# uv-lock.sh VENV SYSTEM_SITE_PACKAGES PYTHON [uv pip install's arguments ...]: says what uv.sh would install.
# A new environment is made, for uv to look at; nothing is installed into it.
set -eu
venv=$1
site=$2
python=$3
shift 3
uv=/run/kiln/bin/uv
if ! command -v "$python" > /dev/null; then
    echo "kiln: there is no '$python' before this layer; put an apt layer with python3 before it" >&2
    exit 1
fi
unset UV_NO_CACHE
export UV_CACHE_DIR="$TMPDIR/uv"
trap 'rm -rf "$UV_CACHE_DIR"' EXIT
export UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1 UV_NO_PROGRESS=1
rm -f /run/kiln/state/found
if [ -n "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
    if [ "$site" = true ]; then
        "$uv" venv --python "$(command -v "$python")" --system-site-packages "$venv"
    else
        "$uv" venv --python "$(command -v "$python")" "$venv"
    fi
fi
if [ $# -eq 0 ]; then
    exit
fi
if [ -z "$venv" ]; then
    set -- --python "$(command -v "$python")" --system --break-system-packages "$@"
else
    set -- --python "$venv/bin/python" "$@"
fi
"$uv" pip install --dry-run --output-format json "$@" > /run/kiln/state/found
