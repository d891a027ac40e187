# shellcheck shell=bash source=../guest/task.sh
. /usr/local/lib/task.sh
two_tasks
# limit NAME PERCENT: the CPUs of the sidecar, or of the task that it is in.
limit() {
    case $1 in
        single) docker update --cpus "$(($2 / 100)).$(($2 % 100))" single-dind >/dev/null ;;
        whole) systemctl set-property --runtime ecstasks-whole.slice CPUQuota="$2%" ;;
    esac
}
# value CGROUP NAME: a figure of cpu.stat.
value() { sed -n "s/^$2 //p" "$1/cpu.stat"; }
declare -A limited=([single]=$(scope single) [whole]=/sys/fs/cgroup/ecstasks.slice/ecstasks-whole.slice)
for name in single whole; do
    id=$(job "$name" run --detach busybox sh -c 'while :; do :; done & while :; do :; done')
    # Where the limits of the sidecar, and of the task above it, hold for them.
    grep . "$(scope "$name")/docker/$id/cgroup.procs"
    limit "$name" 50
    cgroup=${limited[$name]}
    # A tenth of a second each.
    enough=$(($(value "$cgroup" nr_throttled) + 60))
    used=$(value "$cgroup" usage_usec) begin=$(date +%s%6N)
    until (($(value "$cgroup" nr_throttled) >= enough)); do sleep 1; done
    used=$(($(value "$cgroup" usage_usec) - used)) passed=$(($(date +%s%6N) - begin))
    echo "$name: two busy processes used $((100 * used / passed)) % of a CPU"
    ((100 * used / passed <= 55))
    limit "$name" 200
    job "$name" rm --force "$id" >/dev/null
done
