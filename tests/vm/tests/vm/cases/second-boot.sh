# shellcheck shell=bash
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
# Nor a limit of a data-root that is gone.
test -z "$(xfs_quota -x -c 'report -p -n -N' /var/docker-storage | awk '$4 > 0')"
# The host's Docker does not start them again.
test -z "$(docker ps --quiet)"
