# shellcheck shell=bash source=../guest/task.sh
. /usr/local/lib/task.sh
docker ps --all --quiet | xargs --no-run-if-empty docker rm --force >/dev/null
systemctl start dindd-reap
# Many files and few large ones, in layers and in volumes.
# shellcheck disable=SC2016  # the job and its container expand it
job='docker run --name writes --volume data:/data busybox sh -c "i=0; while :; do i=\$((i + 1))
    echo \$i >/file\$i; dd if=/dev/zero of=/data/large bs=1M count=20 2>/dev/null; rm -f /file\$((i - 50)); sleep 0.2; done"'
for name in one two three; do
    task "$name"
    sidecar "$name" --env=DINDD_QUOTA=1G
    runner "$name" --env=DOCKER_HOST=unix:///run/dind/docker.sock ecs-runner
    queue "$name" "$job"
done
# Seen from outside, without a process in each container.
all_write() {
    local root
    for root in /var/docker-storage/*; do compgen -G "$root/data/overlay2/*/diff/file*" || return 1; done
}
until_true 'the jobs write' all_write
# While they live nobody takes them away.
systemctl start dindd-reap
test "$(find /var/docker-storage -mindepth 1 -maxdepth 1 -not -name .trash | wc -l)" = 3
test "$(pgrep --exact --count dockerd)" = 4
