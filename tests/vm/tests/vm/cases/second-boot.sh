# shellcheck shell=bash source=/dev/null
until_true 'the agent runs' systemctl is-active ecs
journalctl --boot --unit docker-storage-format --output cat | grep 'has the filesystem already'
findmnt --noheadings --output FSTYPE,OPTIONS /var/docker-storage | grep '^xfs .*prjquota'
journalctl --boot --unit dindd-reap --output cat
systemctl show --property Result --value dindd-reap | grep -x success
left=$(find /var/docker-storage -mindepth 1 -not -name .trash)
test -z "$left" || {
    echo "left: $left"
    exit 1
}
