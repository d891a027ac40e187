# shellcheck shell=bash
# Tasks as the ECS agent starts them: a slice with the limits of the task, the sidecar, the runner; and
# what they need around: GitHub's double, an NFS export in place of EFS. Comes after script.sh.

readonly token=ghp_a_token_for_the_double_only

# task NAME [PROPERTY…]: the cgroup of a task, with its limits.
task() {
    local unit=ecstasks-$1.slice
    shift
    printf '%s\n' '[Slice]' "$@" >"/run/systemd/system/$unit"
    systemctl daemon-reload
    systemctl start "$unit"
}

# shared NAME: what both containers of a task have, volumes at the same path above all. ECS knows nothing
# of an image's own health check.
shared() {
    echo "--no-healthcheck --cgroup-parent=ecstasks-$1.slice --volume=$1-socket:/run/dind
        --volume=$1-work:/home/runner/_work --volume=$1-externals:/home/runner/externals
        --volume=$1-tools:/opt/hostedtoolcache --env=LOG_FORMAT=json"
}

# sidecar NAME [OPTION…]: returns when it is healthy. Its patience is for an emulated machine.
sidecar() {
    local name=$1
    shift
    # shellcheck disable=SC2046  # words
    docker run --detach --name "$name-dind" $(shared "$name") --cap-add=SYS_ADMIN --cap-add=NET_ADMIN \
        --volume=/var/docker-storage:/var/docker-storage --env=DINDD_START_TIMEOUT=600 \
        --env=DINDD_HEALTH_INTERVAL=30 "$@" ecs-dind >/dev/null
    until_true "$name's Docker is healthy" is_healthy "$name"
    tar --create --directory=/usr/local/lib/busybox . |
        job "$name" import --change 'CMD ["sh"]' - busybox >/dev/null
}

# require_running CONTAINER: one that has ended is not waited for.
require_running() {
    if has_ended "$1"; then
        docker logs "$1" >&3 2>&1
        exit 1
    fi
}

# is_healthy NAME: as ECS asks.
is_healthy() {
    require_running "$1-dind"
    # Under emulation a process in a container takes seconds that its daemon could use.
    curl --silent --max-time 60 --unix-socket "$(socket "$1")" http://docker/_ping >/dev/null &&
        docker exec "$1-dind" dindd health
}

# socket NAME: the task's Docker socket, as the host sees it.
socket() { echo "/var/lib/docker/volumes/$1-socket/_data/docker.sock"; }

# job NAME WORD…: Docker as a job of the task has it.
job() {
    local name=$1
    shift
    docker --host "unix://$(socket "$name")" "$@"
}

# runner NAME [OPTION…]: the runner's container; it takes jobs for the label NAME.
runner() {
    local name=$1
    shift
    # shellcheck disable=SC2046  # words
    docker run --detach --name "$name-runner" $(shared "$name") --env=GITHUB_URL="$(github)/acme/widgets" \
        --env=GITHUB_PAT="$token" --env=RUNNER_NAME_PREFIX="$name" --env=RUNNER_LABELS="$name" \
        --env=GITHUB_TIMEOUT=300 --env=ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT=1 "$@" >/dev/null
}

# github: the address at which containers reach GitHub's double, which is started when it is not there.
github() {
    local address
    address=$(ip -4 -brief address show docker0 | sed -E 's|.* ([0-9.]+)/.*|\1|')
    if ! systemctl is-active --quiet github-double; then
        systemd-run --quiet --unit=github-double /usr/local/lib/programs/github-double \
            --listen=0.0.0.0:8080 --pat="$token" --repo=acme/widgets
        until_true 'the double answers' double events
    fi
    echo "http://$address:8080"
}

# double WHAT [CURL-OPTION…]: asks the double of GitHub.
double() {
    local what=$1
    shift
    curl --silent --show-error --fail --max-time 60 "http://127.0.0.1:8080/_double/$what" "$@"
}

# is_registered NAME: whether the task's runner is.
is_registered() { double runners | jq --exit-status --arg name "$1" 'any(.name | startswith($name))'; }

# is_online NAME: whether it waits for jobs.
is_online() {
    double runners | jq --exit-status --arg name "$1" 'any((.name | startswith($name)) and .online)'
}

# is_idle NAME: the same of the runner's container.
is_idle() {
    require_running "$1-runner"
    is_online "$1"
}

# queue NAME SCRIPT: queues a job of one step for the label NAME; prints the job's id.
queue() {
    local job
    job=$(jq --null-input --arg label "$1" --arg run "$2" '{name: "a job", repository: "acme/widgets",
        runs_on: [$label], steps: [{name: "a step", run: $run}]}')
    double jobs --json "$job" | jq --raw-output .id
}

# job_is ID WORD: whether the job's state or conclusion is that.
job_is() { double "jobs/$1" | jq --exit-status --arg word "$2" '.state == $word or .conclusion == $word'; }

# has_ended CONTAINER
has_ended() { test "$(docker inspect --format '{{.State.Running}}' "$1")" = false; }

# exit_code CONTAINER
exit_code() { docker inspect --format '{{.State.ExitCode}}' "$1"; }

# scope NAME: the cgroup of the sidecar.
scope() {
    echo "/sys/fs/cgroup/ecstasks.slice/ecstasks-$1.slice/docker-$(docker inspect --format '{{.Id}}' "$1-dind").scope"
}

# lives: every container of the host and every dockerd: what changes when one of them ends.
lives() {
    docker ps --all --format '{{.Names}}' | sort |
        xargs docker inspect --format '{{.Name}} {{.State.StartedAt}} {{.State.Running}} {{.RestartCount}}'
    pgrep --exact dockerd | sort
}

# seed STORE: publishes the tool that the everyday job expects in its tool cache.
seed() {
    docker run --rm --interactive --volume="$1:/efs" --entrypoint=bash ecs-runner -ec \
        'tool=/opt/hostedtoolcache/busybox/1.37.0/x64; mkdir -p $tool/bin; cat >$tool/bin/busybox; \
        chmod 755 $tool/bin/busybox; touch $tool.complete; \
        exec supervisor cache publish --store /efs --root /opt/hostedtoolcache' </bin/busybox
}

# efs: mounts an NFSv4 export at /efs; a request and its answer take a millisecond more.
efs() {
    mountpoint --quiet /efs && return
    mkdir -p /srv/efs /efs
    echo '/srv/efs 127.0.0.1(rw,insecure,no_root_squash,no_subtree_check,fsid=0)' >/etc/exports
    # Without clients of a former life there is nothing to wait for.
    printf '[nfsd]\ngrace-time=10\nlease-time=10\nvers3=n\n' >/etc/nfs.conf.d/test.conf
    systemctl start nfs-server
    tc qdisc add dev lo root netem delay 500us
    # As the ECS agent mounts EFS.
    mount -t nfs4 -o nfsvers=4.1,hard,timeo=600,retrans=2,noresvport 127.0.0.1:/ /efs
}

# efs_is silent|stopped|there: its packets are dropped, as when its network is gone; its server has ended
# and refuses connections; neither. Who uses the mount waits in the first two.
efs_is() {
    local drop=(INPUT --in-interface lo --protocol tcp --dport 2049 --jump DROP)
    case $1 in
        silent) iptables --insert "${drop[@]}" ;;
        stopped) systemctl stop nfs-server ;;
        there)
            # There is no such rule when its server was stopped.
            iptables --delete "${drop[@]}" 2>/dev/null || :
            systemctl start nfs-server
            ;;
    esac
}

# two_tasks: `single`, whose sidecar has limits of its own, and `whole`, which has them as a task, as in
# images/ecs/task-ec2.yaml; with a runner. They may be there already.
two_tasks() {
    if docker inspect whole-runner >/dev/null 2>&1; then return; fi
    task single
    sidecar single --memory=640m --pids-limit=320 --env=DINDD_QUOTA=300M
    task whole MemoryMax=800M TasksMax=600
    sidecar whole --env=DINDD_PIDS_LIMIT=240 --env=DINDD_QUOTA=1G
    runner whole --env=DOCKER_HOST=unix:///run/dind/docker.sock ecs-runner
    until_true 'the runner is idle' is_idle whole
}
