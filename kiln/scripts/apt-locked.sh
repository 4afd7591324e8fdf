#!/bin/sh
# apt-locked.sh UPGRADE RECOMMENDS [PACKAGE ...]: as apt.sh, from the archives in /run/kiln/locked and no others.
# The list there has lines NAME VERSION ARCHITECTURE SHA256 PATH; a PATH that isn't - is a file of the image itself.
set -eu
upgrade=$1
recommends=$2
shift 2
if ! command -v apt-get > /dev/null; then
    echo "kiln: the base has no apt-get; an apt layer needs a Debian or Ubuntu base" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Which of Python's own modules are used depends on the machine; packages compile theirs themselves.
export PYTHONDONTWRITEBYTECODE=1
locked=/run/kiln/locked
work=$TMPDIR/apt
archives=$work/cache/archives
repository=$work/repository
mkdir -p "$work/lists/partial" "$archives/partial" "$repository"
# What is there is all that apt can choose from: it decides what is needed, and in which order, as it does
# with a mirror. Kiln has checked these files, so nobody need have signed them.
while read -r _ _ _ sha256 path; do
    file=$repository/$sha256.deb
    if [ "$path" = - ]; then
        ln -s "$locked/files/$sha256.deb" "$file"
    else
        cp "$path" "$file"
        echo "$sha256  $file" | LC_ALL=C sha256sum --check --quiet
    fi
done < "$locked/list"
sh /run/kiln/scripts/repository.sh "$repository" locked
echo "deb [trusted=yes] file:$repository ./" > "$work/sources.list"
get() {
    apt-get -q -y \
        -o "Dir::Etc::sourcelist=$work/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null \
        -o "Dir::State::Lists=$work/lists" \
        -o "Dir::Cache=$work/cache" \
        -o "Dir::Cache::archives=$archives" \
        -o APT::Sandbox::User=root \
        -o APT::Update::Error-Mode=any \
        -o APT::Install-Recommends="$recommends" \
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
# shellcheck disable=SC2016 # these are dpkg's own
dpkg-query -W -f '${Package} ${Version} ${Architecture} ${db:Status-Status}\n' > "$work/installed"
while read -r name version architecture _; do
    if ! grep -Fxq "$name $version $architecture installed" "$work/installed"; then
        echo "kiln: $name $version ($architecture) is locked for this layer, but apt did not install it" >&2
        exit 1
    fi
done < "$locked/list"
rm -rf "$work"
rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin
rm -rf /var/lib/apt/lists/*
