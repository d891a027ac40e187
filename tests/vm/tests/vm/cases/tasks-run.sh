# shellcheck shell=bash
# What tests before have left.
docker ps --all --quiet | xargs --no-run-if-empty docker rm --force >/dev/null
systemctl start dindd-reap
# Three data-roots as their dindd has them: the lock held, the daemon writing.
for task in 1 2 3; do
    root=/var/docker-storage/$(printf '%032x' $task)
    mkdir -p "$root/data/overlay2" "$root/exec"
    # shellcheck disable=SC2016  # the inner shell expands it
    systemd-run --quiet --unit "task-$task" flock --nonblock "$root/lock" bash -c \
        'i=0; while :; do echo "layer $i" >"$0/data/overlay2/$((i++))"; done' "$root"
done
for task in 1 2 3; do
    until_true "task $task writes" test -e "/var/docker-storage/$(printf '%032x' $task)/data/overlay2/100"
done
# While they live nobody takes them away.
systemctl start dindd-reap
test "$(find /var/docker-storage -mindepth 1 -maxdepth 1 -not -name .trash | wc -l)" = 3
sync
