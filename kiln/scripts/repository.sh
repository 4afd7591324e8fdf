#!/bin/sh
# repository.sh FOLDER SUITE: makes a folder of archives, each named by its SHA256, a flat mirror of SUITE
# (sources.list(5), deb-control(5)).
set -eu
cd "$1"
for file in *.deb; do
    if [ -e "$file" ]; then
        dpkg-deb --field "$file"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -L -c %s "$file")" "${file%.deb}"
    fi
done > Packages
sum=$(sha256sum Packages)
printf 'Date: Thu, 01 Jan 1970 00:00:00 UTC\nSuite: %s\nCodename: %s\nSHA256:\n %s %s Packages\n' \
    "$2" "$2" "${sum%% *}" "$(stat -c %s Packages)" > Release
