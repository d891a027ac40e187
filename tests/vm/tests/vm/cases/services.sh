# shellcheck shell=bash source=../guest/task.sh
. /usr/local/lib/task.sh
etc=/etc/ecs-runner-host state=/var/lib/ecs-runner-host
github >/dev/null
seed $state/store
install -m 0600 /dev/stdin $etc/dindd.env <<'ENV'
DINDD_START_TIMEOUT=600
DINDD_HEALTH_INTERVAL=30
DINDD_QUOTA=700M
ENV
install -m 0600 /dev/stdin $etc/supervisor.env <<ENV
GITHUB_URL=http://10.213.77.1:8080/acme/widgets
GITHUB_PAT=$token
GITHUB_TIMEOUT=300
RUNNER_NAME_PREFIX=services
RUNNER_LABELS=services
WAIT_FOR_DOCKER=600
CACHE_STORE=/efs
CACHE_PUBLISH=all
ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT=1
ENV
job_id=$(double jobs --json "$JOB" | jq --raw-output .id)

# task_lives: both containers of the task and what they share: what changes with the task.
task_lives() { systemctl show --property InvocationID --value task@one dindd@one supervisor@one | xargs -n 1; }
# is_new LIVES: none of them is one of those.
is_new() {
    systemctl --quiet is-active supervisor@one && ! grep --quiet --fixed-strings --line-regexp "$1" <(task_lives)
}
# Other tasks have other quotas.
has_quota() { xfs_quota -x -c 'report -p -n -N' /var/docker-storage | awk '$4 == 700 * 1024' | grep .; }
data_roots() { find /var/docker-storage -mindepth 1 -maxdepth 1 -not -name .trash | wc -l; }
journal() { journalctl --boot --unit task@one --unit dindd@one --unit supervisor@one --output cat --lines 200; }

others=$(data_roots)
systemctl start supervisor@one
before=$(task_lives)
until_true 'the job has ended' job_is "$job_id" completed
job_is "$job_id" succeeded || {
    journal
    exit 1
}
until_true 'there is a new task' is_new "$before"
until_true 'its runner is idle' is_online services
$state/images/ecs-runner/usr/local/bin/supervisor cache ls --store $state/store | grep widget/2.0.0/x64
# The widget of the job before is restored from the store, and its image is gone.
socket=unix://$state/tasks/one/dind/docker.sock
test -e "$state/tasks/one/tools/widget/2.0.0/x64.complete"
test -z "$(docker --host "$socket" images --quiet)"
has_quota

echo '== what a job starts is below the slice of the task, and its ports are at localhost'
within=(ip netns exec task-one /usr/local/lib/busybox/bin/busybox)
tar --create --directory=/usr/local/lib/busybox . | docker --host "$socket" import - busybox >/dev/null
id=$(docker --host "$socket" run --detach --publish 8000:8000 busybox httpd -f -p 8000 -h /bin)
find /sys/fs/cgroup/tasks.slice/tasks-one.slice -name "$id" | grep "$id"
until_true 'its port answers' "${within[@]}" wget -qO /dev/null http://localhost:8000/busybox
docker --host "$socket" run --rm busybox wget -qO /dev/null http://10.213.77.1:8080/_double/events

echo '== what a task reaches'
# A machine beyond the host, at the address of the metadata service as well, and a second task.
ip netns add beyond
ip link add beyond type veth peer name eth0 netns beyond
ip address add 203.0.113.1/24 dev beyond
ip link set beyond up
ip -netns beyond address add 203.0.113.2/24 dev eth0
ip -netns beyond address add 169.254.169.254/32 dev eth0
ip -netns beyond link set eth0 up
ip route add 169.254.169.254 via 203.0.113.2
/usr/local/libexec/task-network make two
two=$(ip -netns task-two -4 -brief address show eth0 | sed -E 's|.* ([0-9.]+)/.*|\1|')
for address in "$two" 169.254.169.254; do
    /usr/local/lib/busybox/bin/ping -c 1 -W 10 "$address"
    not "${within[@]}" ping -c 1 -W 5 "$address"
done
"${within[@]}" ping -c 1 -W 10 203.0.113.2
/usr/local/libexec/task-network remove two
ip netns delete beyond

echo '== a Docker daemon that dies takes its task with it'
before=$(task_lives)
systemctl kill --kill-whom=main --signal=KILL dindd@one
until_true 'there is a new task' is_new "$before"
until_true 'its runner is idle' is_online services
test "$(double runners | jq 'map(select(.name | startswith("services"))) | length')" = 1

echo '== stopped'
systemctl stop supervisor@one
not is_registered services
# Its parts follow by themselves.
has_stopped() { test "$(systemctl is-active task@one dindd@one | sort -u)" = inactive; }
until_true 'all of it has ended' has_stopped
test "$(systemctl show --property Result --value task@one dindd@one supervisor@one | xargs)" = 'success success success'
not ip netns pids task-one
not test -e $state/tasks/one
not has_quota
test "$(data_roots)" = "$others"
