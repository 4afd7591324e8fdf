#!/bin/sh
# copy.sh SOURCE TARGET MODE [...]: MODE "" keeps the run bit and nothing else of the source's modes.
set -eu
while [ $# -gt 0 ]; do
    source=$1
    target=$2
    mode=$3
    shift 3
    case $target in
        */) target=$target${source##*/} ;;
    esac
    if [ ! -d "$source" ] && [ -d "$target" ]; then
        target=$target/${source##*/}
    fi
    # Modes and times are set aside from the target, whose own files must not change: as a checkout
    # would have it, whatever the caller's umask, and at the one time that all of this build has.
    staged=$TMPDIR/copy
    rm -rf "$staged"
    cp -RP "$source" "$staged"
    chmod -R u=rwX,go=rX "$staged"
    if [ -n "$mode" ]; then
        chmod "$mode" "$staged"
    fi
    find "$staged" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    mkdir -p "$(dirname "$target")"
    if [ -d "$staged" ]; then
        mkdir -p "$target"
        cp -pRP "$staged/." "$target/"
    else
        rm -f "$target"
        cp -pP "$staged" "$target"
    fi
    rm -rf "$staged"
done
