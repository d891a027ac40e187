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
# What the agents for logs and metrics get from this host.
grep -x "HOST_ID=$(cat /etc/machine-id)" /run/ecs-runner-host/identity.env
systemctl start host-pressure
# shellcheck disable=SC2016  # Perl's variables
timeout 120 perl -MIO::Socket::INET -e '$socket = IO::Socket::INET->new(Proto => "udp", LocalAddr => "127.0.0.1:8125");
    do { $socket->recv($told, 4096) } until $told =~ /^pressure_memory_full:[0-9.]+[|]g$/'
systemctl stop host-pressure
dockerd --validate --config-file /etc/docker/daemon.json
test -z "$(systemctl --failed --no-legend --plain | grep -E 'docker-storage|dindd|ecs' || true)"

echo '== the agent goes with the volume, and brings it back'
systemctl stop 'var-docker\x2dstorage.mount'
test "$(systemctl is-active ecs)" = inactive
systemctl start ecs
findmnt --noheadings --output OPTIONS /var/docker-storage | grep prjquota
