#!/bin/sh
# uv-files.sh VENV PYTHON DEPENDENCIES: says which files /run/kiln/layer/pins.txt leads to, with or without what
# these depend on, and which of them fit this Python.
set -eu
python=$2
if [ -n "$1" ]; then
    python=$1/bin/python
fi
dependencies=$3
uv=/run/kiln/bin/uv
python=$(command -v "$python")
unset UV_NO_CACHE UV_CONSTRAINT UV_OVERRIDE UV_EXCLUDE
export UV_CACHE_DIR="$TMPDIR/uv"
trap 'rm -rf "$UV_CACHE_DIR"' EXIT
export UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1 UV_NO_PROGRESS=1
set -- --quiet --python "$python" --format pylock.toml --generate-hashes
if [ "$dependencies" = false ]; then
    set -- "$@" --no-deps
fi
"$uv" pip compile "$@" /run/kiln/layer/pins.txt > /run/kiln/state/found
"$python" /run/kiln/scripts/tags.py > /run/kiln/state/tags
