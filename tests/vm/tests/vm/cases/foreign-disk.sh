# shellcheck shell=bash
until_true 'the volume is refused' systemctl is-failed docker-storage-format
journalctl --boot --unit docker-storage-format --output cat | grep 'has data (ext4 precious) and is left as it is'
test "$(systemctl is-active 'var-docker\x2dstorage.mount')" = inactive
test "$(systemctl is-active ecs)" = inactive
test "$(blkid --probe --output value --match-tag LABEL /dev/vdb)" = precious
