#!/bin/bash
# A Docker sidecar as people write it for ECS: dockerd on a data-root of its own on the shared volume,
# which a trap removes when the task stops. STORAGE is the volume, SOCKET where the socket is.
set -eu

root=$STORAGE/$(cat /proc/sys/kernel/random/uuid)
mkdir "$root"
mount --make-rshared /

stop() {
    kill "$daemon"
    wait "$daemon" || true
    rm -rf "$root"
    exit 0
}

trap stop TERM INT
dockerd --host="unix://$SOCKET" --group=123 --data-root="$root" &
daemon=$!
wait "$daemon"
