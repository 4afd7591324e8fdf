#!/bin/sh
# Runs one step inside a container: layer.sh COMMAND [ARGUMENT ...]
# /run/kiln/state is Kiln's folder for this layer. The marks in it tell a failure of the runtime
# (no "started") from one of the command, since both may exit with 1.
set -u
state=/run/kiln/state

# enroot rewrites these at every start, with the builder's own name in them, or makes them. What the layer before
# left is put back first, and what this one leaves is saved, so that a user whom a layer adds stays.
identity="etc/passwd etc/group etc/shadow etc/gshadow etc/localtime"
identity="$identity etc/passwd- etc/group- etc/shadow- etc/gshadow-"
if [ -d "$state/identity" ]; then
    for file in $identity; do
        rm -f "/$file"
        if [ -e "$state/identity/$file" ] || [ -L "$state/identity/$file" ]; then
            cp -pP "$state/identity/$file" "/$file"
        fi
    done
fi
: > "$state/started"
"$@"
code=$?
if [ -d "$state/identity" ]; then
    for file in $identity; do
        rm -f "$state/identity/$file"
        if [ -e "/$file" ] || [ -L "/$file" ]; then
            cp -pP "/$file" "$state/identity/$file"
        fi
    done
fi
echo "$code" > "$state/finished"
exit "$code"
