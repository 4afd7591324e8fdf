#!/bin/sh
# apt-lock.sh UPGRADE RECOMMENDS [PACKAGE ...]: says what apt.sh would install, and where it is; changes nothing.
# apt-lock.sh installed: says where each installed package is.
set -eu
if ! command -v apt-get > /dev/null; then
    echo "kiln: the base has no apt-get; an apt layer needs a Debian or Ubuntu base" >&2
    exit 1
fi
work=$TMPDIR/apt
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
trap 'rm -rf "$work"' EXIT
recommends=false
get() {
    apt-get -q -y \
        -o "Dir::State::Lists=$work/lists" \
        -o "Dir::Cache=$work/cache" \
        -o "Dir::Cache::archives=$work/cache/archives" \
        -o APT::Sandbox::User=root \
        -o APT::Update::Error-Mode=any \
        -o APT::Install-Recommends="$recommends" \
        -o Acquire::ForceHash=SHA256 \
        -o Acquire::Retries=3 \
        "$@"
}
get update
if [ "$1" = installed ]; then
    installed=/run/kiln/state/installed
    # shellcheck disable=SC2016 # these are dpkg's own
    dpkg-query -W -f '${db:Status-Status} ${Package} ${Architecture} ${Version}\n' |
        sed -n 's/^installed //p' > "$work/installed"
    set --
    while read -r name architecture version; do
        echo "$name=$version" >&3
        if [ "$architecture" = all ]; then
            set -- "$@" "$name=$version"
        else
            set -- "$@" "$name:$architecture=$version"
        fi
    done < "$work/installed" 3> "$installed"
    get -qq --print-uris --reinstall install -- "$@" > /run/kiln/state/found
    exit
fi
action=install
if [ "$1" = true ]; then
    action=dist-upgrade
fi
recommends=$2
shift 2
get -qq --print-uris "$action" -- "$@" > /run/kiln/state/found
