# shellcheck shell=bash
until_true 'the search is given up' systemctl is-failed docker-storage-format
journalctl --boot --unit docker-storage-format --output cat |
    grep 'no disk /dev/disk/by-id/virtio-storage after 60 s: attach the storage volume'
journalctl --boot --unit ecs --output cat | grep 'Dependency failed for ecs.service'
test "$(systemctl is-active ecs)" = inactive
test "$(systemctl is-active dindd-reap)" = inactive
# Docker makes the source of a bind mount that is not there; here it cannot.
not mkdir /var/docker-storage/task
