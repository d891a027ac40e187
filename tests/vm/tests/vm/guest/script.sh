# What the tests' scripts have in common; each begins with this.
set -Eeuo pipefail
trap 'echo "failed: $BASH_COMMAND" >&2' ERR

# until_true WHAT COMMAND…: waits for a command to succeed, ten minutes at most.
until_true() {
    local what=$1 end=$((SECONDS + 600))
    shift
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
