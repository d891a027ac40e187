# shellcheck shell=bash source=../guest/task.sh
. /usr/local/lib/task.sh
efs
grep ' /efs nfs4 ' /proc/mounts
tc qdisc show dev lo | grep 'netem .*delay 500us'
github >/dev/null
job_id=$(double jobs --json "$JOB" | jq --raw-output .id)
task chain MemoryMax=1200M TasksMax=800

seed /efs
sidecar chain
runner chain --volume=/efs:/efs --env=CACHE_STORE=/efs --env=CACHE_PUBLISH=all \
    --env=DOCKER_HOST=unix:///run/dind/docker.sock ecs-runner
until_true 'the runner ends' has_ended chain-runner
docker logs chain-runner 2>&1 | grep '"phase"' | jq --raw-output '"\(.phase) \(.elapsed_ms) \(.detail)"'
conclusion=$(double "jobs/$job_id" | jq --raw-output .conclusion)
test "$conclusion $(exit_code chain-runner)" = 'succeeded 0' || {
    docker logs chain-runner
    docker logs chain-dind
    exit 1
}
not is_registered chain
docker stop --time 60 chain-dind >/dev/null
test "$(exit_code chain-dind)" = 0
docker run --rm --volume=/efs:/efs ecs-runner cache verify --store /efs
docker run --rm --volume=/efs:/efs ecs-runner cache ls --store /efs | grep widget/2.0.0/x64
docker rm chain-runner chain-dind >/dev/null
