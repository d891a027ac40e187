# shellcheck shell=bash source=../guest/task.sh
. /usr/local/lib/task.sh
two_tasks
before=$(lives)

# undisturbed NAME: the task can do what it could, and nothing of it or of its neighbour has ended.
undisturbed() {
    test "$(job "$1" run --rm busybox echo works)" = works
    diff <(echo "$before") <(lives)
}

for name in single whole; do
    echo "== $name: a fork bomb"
    # Each process forks until it cannot and ends then, so that there is always room for another; the
    # first waits, and with that buries them all.
    bomb=$(job "$name" run --detach busybox sh -c \
        'bomb() { while :; do bomb & done; }; sleep 10000 & bomb & wait')
    containers=$(scope "$name")/docker
    # Newer kernels count it where the limit is.
    until_true 'the bomb meets its limit' grep '^max [1-9]' "$containers"/{,"$bomb/"}pids.events
    grep -x 240 "$containers/pids.max"
    # From outside, while it rages: ECS's health check, and what ends it.
    docker exec "$name-dind" dindd health
    job "$name" kill "$bomb" >/dev/null
    test "$(job "$name" wait "$bomb")" = 137
    undisturbed "$name"
done

echo '== one process that takes all memory of its sidecar'
# shellcheck disable=SC2016  # the container's shell expands it
hog=$(job single run --detach busybox sh -c 'x=xxxxxxxx; while :; do x=$x$x; done')
test "$(job single wait "$hog")" = 137
undisturbed single

echo '== many that are smaller than the daemons take all memory of their task'
# shellcheck disable=SC2016
hog=$(job whole run --detach busybox sh -c \
    'for i in $(seq 50); do awk "BEGIN { x = sprintf(\"%20000000s\", \"\"); system(\"sleep 1000\") }" & done; wait')
until_true 'the kernel ends some of them' grep '^oom_kill [1-9]' "$(scope whole)/docker/$hog/memory.events"
job whole rm --force "$hog" >/dev/null
undisturbed whole
docker exec whole-dind dindd health
docker exec whole-runner supervisor status
