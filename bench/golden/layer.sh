#!/bin/sh
# Makes an image's layer and configuration of Debian packages: layer.sh BASE DEBS OUT NUMBER
# writes OUT/NUMBER.tar and OUT/NUMBER.json. BASE is the tar file of the layer below. The packages lie
# below /opt, so that no file of theirs hides one of the base's.
set -eu
base=$1 debs=$2 out=$3 number=$4

tree=$(mktemp -d "$out/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
for deb in "$debs"/*.deb; do
    mkdir -p "$tree/opt/$number"
    dpkg-deb --extract "$deb" "$tree/opt/$number"
done
tar --create --file="$out/$number.part" --sort=name --numeric-owner --directory="$tree" opt
sum() { sha256sum <"$1" | cut -d ' ' -f 1; }
printf '{"architecture":"%s","os":"linux","config":{"Cmd":["sh"]},"history":[],"rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$(sum "$base")" "$(sum "$out/$number.part")" >"$out/$number.json"
find "$tree" | wc -l >"$out/$number.files"
mv "$out/$number.part" "$out/$number.tar"
