# shellcheck shell=bash source=../guest/task.sh
. /usr/local/lib/task.sh
efs
github >/dev/null
task start
task stop

# hangs: whether a process that asks the store waits for the answer.
hangs() {
    local code=0
    timeout 5 stat --file-system /efs >/dev/null || code=$?
    test "$code" = 124
}

# stopped TASK CODE: it ends by itself, in its time and some for this slow machine, and is not registered.
stopped() {
    local took
    docker stop --time 180 "$1-runner" >/dev/null
    # By its own clock: Docker takes seconds here.
    took=$(docker logs "$1-runner" 2>&1 | jq --raw-input --null-input '[inputs | fromjson? |
        select(.message? | strings | startswith("asked to stop") or . == "summary").timestamp[:19] + "Z" | fromdate] | .[-1] - .[0]')
    echo "$1: stopped in $took s of 60 with $(exit_code "$1-runner")"
    test "$(exit_code "$1-runner")" = "$2"
    ((took < 65))
    not is_registered "$1"
}

for way in silent stopped; do
    echo "== $way when a task starts"
    # The container is there, its mounts too; the supervisor starts when the store is away.
    runner start --volume=/efs:/efs --env=CACHE_STORE=/efs --env=CACHE_RESTORE_TIMEOUT=20 --env=STOP_TIMEOUT=60 \
        --entrypoint=bash ecs-runner -c 'until [ -e /tmp/go ]; do sleep 0.2; done; exec supervisor'
    echo "== $way when a job has ended"
    job_id=$(queue stop "until [ -e /tmp/go ]; do sleep 0.2; done
tool=\$RUNNER_TOOL_CACHE/$way/1.0.0/x64; mkdir -p \$tool; echo late >\$tool/file; touch \$tool.complete")
    runner stop --volume=/efs:/efs --env=CACHE_STORE=/efs --env=CACHE_PUBLISH=all --env=STOP_TIMEOUT=60 ecs-runner
    until_true 'the job runs' job_is "$job_id" running
    efs_is "$way"
    hangs
    docker exec start-runner touch /tmp/go
    docker exec stop-runner touch /tmp/go

    # The restore is given up, and a job could start.
    until_true 'the runner is idle' is_idle start
    restore=$(docker logs start-runner 2>&1 | grep '"phase":"cache-restore"' | jq .elapsed_ms)
    echo "the restore was given up after $restore ms of at most 20000"
    ((restore >= 15000 && restore < 45000))
    until_true 'the job has ended' job_is "$job_id" succeeded
    stopped start 143
    stopped stop 0
    hangs

    efs_is there
    until_true 'the store answers again' not hangs
    docker run --rm --volume=/efs:/efs ecs-runner cache verify --store /efs
    # Nothing was published, or all of it.
    docker run --rm --volume=/efs:/efs ecs-runner cache ls --store /efs
    docker rm start-runner stop-runner >/dev/null
    docker volume rm start-tools stop-tools >/dev/null
done
