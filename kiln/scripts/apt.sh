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
# Lists and archives never touch the image. The configuration is read from Kiln's file ($APT_CONFIG)
# before the image's own, which would win: what must hold is said on the command line.
work=$TMPDIR/apt
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
# A layer that a power cut damages is never used: dpkg need not wait for the disk.
get() {
    apt-get -q -y \
        -o "Dir::State::Lists=$work/lists" \
        -o "Dir::Cache=$work/cache" \
        -o "Dir::Cache::archives=$work/cache/archives" \
        -o APT::Sandbox::User=root \
        -o APT::Update::Error-Mode=any \
        -o APT::Install-Recommends="$recommends" \
        -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confold \
        -o Dpkg::Options::=--force-unsafe-io \
        -o Dpkg::Use-Pty=0 \
        "$@"
}
get update
if [ "$upgrade" = true ]; then
    get dist-upgrade
fi
if [ $# -gt 0 ]; then
    get install -- "$@"
fi
rm -rf "$work"
rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin
rm -rf /var/lib/apt/lists/*
