#!/bin/sh
# apt.sh UPGRADE RECOMMENDS [PACKAGE ...]: packages of Debian or Ubuntu, and nothing else left behind.
set -eu
upgrade=$1
recommends=$2
shift 2
if ! command -v apt-get > /dev/null; then
    echo "kiln: the base has no apt-get; an apt layer needs a Debian or Ubuntu base" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Which of Python's own modules are used depends on the cache and the network; packages compile theirs themselves.
export PYTHONDONTWRITEBYTECODE=1
# Lists and archives never touch the image. The configuration is read from Kiln's file ($APT_CONFIG)
# before the image's own, which would win: what must hold is said on the command line.
work=$TMPDIR/apt
archives=$work/cache/archives
# Packages that earlier builds downloaded, each named by its SHA256; missing where there is no cache.
cache=/run/kiln/packages/apt
mkdir -p "$work/lists/partial" "$archives/partial" "$work/found"
# A layer that a power cut damages is never used: dpkg need not wait for the disk.
get() {
    apt-get -q -y \
        -o "Dir::State::Lists=$work/lists" \
        -o "Dir::Cache=$work/cache" \
        -o "Dir::Cache::archives=$archives" \
        -o APT::Sandbox::User=root \
        -o APT::Update::Error-Mode=any \
        -o APT::Install-Recommends="$recommends" \
        -o APT::Keep-Downloaded-Packages=true \
        -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confold \
        -o Dpkg::Options::=--force-unsafe-io \
        -o Dpkg::Use-Pty=0 \
        "$@"
}
# Lines of "SHA256 FILE" for what apt-get would download. What it reads where it lies is left out, and
# what it knows no SHA256 of.
wanted() {
    get -qq -o Acquire::ForceHash=SHA256 --print-uris "$@" 2> /dev/null | sed -n \
        -e "/^'file:/d" -e "/^'copy:/d" -e "/^'cdrom:/d" \
        -e "s/^'[^']*' \([A-Za-z0-9._+~%:-]*\) [0-9]* SHA256:\([0-9a-f]*\)\$/\2 \1/p"
}
# apt compares only the sizes of what it finds in its archives: a file gets there by its SHA256 alone.
# It is checked where nobody else writes.
take_from_cache() {
    while read -r sha256 file; do
        if [ -f "$cache/$sha256.deb" ] && cp "$cache/$sha256.deb" "$work/found/$file" 2> /dev/null; then
            echo "$sha256  $file"
        fi
    done < "$work/wanted" > "$work/sums"
    if [ ! -s "$work/sums" ]; then
        return
    fi
    (cd "$work/found" && LC_ALL=C sha256sum --check "$work/sums" 2> /dev/null | sed -n 's/: OK$//p' |
        xargs -r mv -t "$archives")
    while read -r sha256 file; do
        if [ -e "$work/found/$file" ]; then
            echo "kiln: $file is damaged in the package cache; it is downloaded again" >&2
            rm -f "$cache/$sha256.deb" "$work/found/$file"
        else
            echo "$cache/$sha256.deb"
        fi
    done < "$work/sums" | xargs -r touch -c
}
# A name without its whole content is never seen there: what is new appears by rename.
put_into_cache() {
    new=$(mktemp -d "$cache/new.XXXXXX") || return 0
    while read -r sha256 file; do
        if [ -f "$archives/$file" ] && [ ! -e "$cache/$sha256.deb" ]; then
            if ! cp "$archives/$file" "$new/part" 2> /dev/null || ! mv "$new/part" "$cache/$sha256.deb"; then
                echo "kiln: the package cache could not be written; going on without" >&2
                break
            fi
        fi
    done < "$work/wanted"
    rm -rf "$new"
}
# What a failing layer has downloaded serves its next try.
get_cached() {
    if [ ! -d "$cache" ]; then
        get "$@"
        return
    fi
    wanted "$@" > "$work/wanted"
    take_from_cache
    code=0
    get "$@" || code=$?
    put_into_cache
    return "$code"
}
get update
if [ "$upgrade" = true ]; then
    get_cached dist-upgrade
fi
if [ $# -gt 0 ]; then
    get_cached install -- "$@"
fi
rm -rf "$work"
rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin
rm -rf /var/lib/apt/lists/*
