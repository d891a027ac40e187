# shellcheck shell=bash
# What the tests' scripts have in common; each begins with this.
set -Eeuo pipefail
# For what is said while a condition is waited for.
exec 3>&2
trap 'echo "failed: $BASH_COMMAND" >&2' ERR

# not COMMAND…: a command has to fail. The shell goes on after `! COMMAND` whatever that does.
not() {
    if "$@"; then
        echo "succeeded: $*"
        return 1
    fi
}

# until_true WHAT COMMAND…: waits for a command to succeed, ten minutes at most.
until_true() {
    local what=$1 end=$((SECONDS + 600))
    shift
    echo "waiting until $what" >&2
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= end)); then
            echo "waited in vain until $what; last:"
            "$@"
            return 1
        fi
        # A process costs more than that under emulation.
        sleep 1
    done
}
