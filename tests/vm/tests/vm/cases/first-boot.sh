# shellcheck shell=bash
journalctl --boot --unit docker-storage-format --output cat | grep 'is empty: making an XFS filesystem'
findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS /var/docker-storage |
    grep '^/dev/vdb xfs .*noatime.*prjquota'
xfs_info /var/docker-storage | grep 'reflink=1' && xfs_info /var/docker-storage | grep 'ftype=1'
xfs_quota -x -c state /var/docker-storage | grep -A2 'Project quota' | grep -c ON | grep 2
# In this order, and not one that came about by chance.
when() { systemctl show --property "$2" --value --timestamp=us "$1" | date --file - +%s%6N; }
test "$(when docker-storage-format ExecMainExitTimestamp)" -le "$(when 'var-docker\x2dstorage.mount' ActiveEnterTimestamp)"
test "$(when 'var-docker\x2dstorage.mount' ActiveEnterTimestamp)" -le "$(when dindd-reap ExecMainStartTimestamp)"
test "$(when dindd-reap ExecMainExitTimestamp)" -le "$(when ecs ExecMainStartTimestamp)"
systemctl is-active dindd-reap.timer
for controller in cpu cpuset io memory pids; do grep -w "$controller" /sys/fs/cgroup/cgroup.controllers; done
dockerd --validate --config-file /etc/docker/daemon.json
test -z "$(systemctl --failed --no-legend --plain | grep -E 'docker-storage|dindd|ecs' || true)"
