#!/bin/sh
# repository.sh FOLDER SUITE: makes the archives in FOLDER a flat mirror of SUITE (sources.list(5), deb-control(5)).
set -eu
cd "$1"
for file in *.deb; do
    dpkg-deb --field "$file"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -c %s "$file")" "${file%.deb}"
done > Packages
sum=$(sha256sum Packages)
printf 'Suite: %s\nCodename: %s\nSHA256:\n %s %s Packages\n' \
    "$2" "$2" "${sum%% *}" "$(stat -c %s Packages)" > Release
