#!/bin/sh
# uv-locked.sh VENV SYSTEM_SITE_PACKAGES PYTHON: as uv.sh, with what /run/kiln/locked has, and asks no index.
set -eu
venv=$1
site=$2
python=$3
uv=/run/kiln/bin/uv
locked=/run/kiln/locked
if ! command -v "$python" > /dev/null; then
    echo "kiln: the image has no '$python'; put an apt layer with python3 before this one" >&2
    exit 1
fi
unset UV_NO_CACHE UV_FIND_LINKS
export UV_CACHE_DIR="$TMPDIR/uv"
trap 'rm -rf "$UV_CACHE_DIR"' EXIT
export UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1 UV_NO_PROGRESS=1 UV_OFFLINE=1
# uv asks Python what it is; only what is installed is to be compiled.
export PYTHONDONTWRITEBYTECODE=1
# A read-only image can't keep what Python compiles at each start.
export UV_COMPILE_BYTECODE=1
install() {
    if [ -s "$locked/requirements.txt" ]; then
        "$uv" pip install --no-index --no-deps --find-links "$locked/files" --require-hashes \
            -r "$locked/requirements.txt" "$@"
    fi
}
# uv writes down when it got the file of each package, which no other build can repeat.
forget_times() {
    "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib")); print(sysconfig.get_path("platlib"))' |
        sort -u | while read -r folder; do
        for each in "$folder"/*.dist-info/uv_cache.json; do
            if [ -e "$each" ]; then
                rm "$each"
                sed -i '/\.dist-info\/uv_cache\.json,/d' "${each%/*}/RECORD"
            fi
        done
    done
}
if [ -z "$venv" ]; then
    install --python "$(command -v "$python")" --system --break-system-packages
    forget_times "$python"
else
    if [ ! -e "$venv/pyvenv.cfg" ]; then
        if [ "$site" = true ]; then
            "$uv" venv --python "$(command -v "$python")" --system-site-packages "$venv"
        else
            "$uv" venv --python "$(command -v "$python")" "$venv"
        fi
    fi
    install --python "$venv/bin/python"
    forget_times "$venv/bin/python"
    # Only this uv had a use for it, and anybody may write to it.
    rm -f "$venv/.lock"
    # Nothing in it may lead to what is mounted for this step alone.
    if grep -rlIs /run/kiln "$venv/pyvenv.cfg" "$venv/bin" || find "$venv" -lname '/run/kiln/*' | grep .; then
        echo "kiln: the environment $venv points to Kiln's own mounts (see the files above)" >&2
        exit 1
    fi
fi
