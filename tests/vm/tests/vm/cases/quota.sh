# shellcheck shell=bash source=../guest/task.sh
. /usr/local/lib/task.sh
two_tasks
# limits: the hard limits of all projects, in KiB, smallest first.
limits() {
    xfs_quota -x -c 'report -p -n -N' /var/docker-storage | awk '$4 > 0 { print $4 }' | sort -n | xargs
}
# The one that started first keeps its own.
test "$(limits)" = '307200 1048576'

# fill NAME MIB: what a job writes; the layer is its container's.
fill() { job "$1" run --rm busybox dd if=/dev/zero of=/file bs=1M count="$2" 2>&1; }
full=$(fill single 600 || true)
grep 'No space left on device' <<<"$full"
fill whole 400
not fill whole 1200
# The full one can be used again when its job has gone.
fill single 50

echo '== stopped in order'
docker stop --time 60 single-dind >/dev/null
test "$(exit_code single-dind)" = 0
test "$(limits)" = 1048576
docker rm single-dind >/dev/null

echo '== a third daemon beside the second'
sidecar third --env=DINDD_QUOTA=2G
test "$(limits)" = '1048576 2097152'

echo '== killed, and reaped by the host'
docker kill third-dind >/dev/null
systemctl start dindd-reap
test "$(limits)" = 1048576
docker rm third-dind >/dev/null
