#!/bin/sh
# Makes an archive as `docker save` does it: archive.sh BASE LAYERS ARCHIVE NUMBER… takes the images
# that layer.sh has made in LAYERS; they are called golden-NUMBER:1.
set -eu
base=$1 layers=$2 archive=$3
shift 3

place=$(mktemp -d "$layers/archive.XXXXXX")
trap 'rm -rf "$place"' EXIT
ln -s "$base" "$place/base.tar"
for number in "$@"; do
    ln -s "$layers/$number.tar" "$layers/$number.json" "$place"
    printf '{"Config":"%s.json","RepoTags":["golden-%s:1"],"Layers":["base.tar","%s.tar"]}\n' \
        "$number" "$number" "$number"
done | jq --slurp . >"$place/manifest.json"
tar --create --dereference --file="$archive" --directory="$place" .
