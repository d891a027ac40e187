#!/bin/bash
# Stand-in for the config.sh of actions/runner: the same refusal, the same dispatch. The checks
# for .NET's libraries are left out, because the stand-in has none.

if [ "$(id -u)" -eq 0 ] && [ -z "$RUNNER_ALLOW_RUNASROOT" ]; then
    echo "Must not run with sudo"
    exit 1
fi

cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" || exit 1

# shellcheck source=env.sh
source ./env.sh

shopt -s nocasematch
if [[ "$1" == "remove" ]]; then
    exec ./bin/Runner.Listener "$@"
fi
exec ./bin/Runner.Listener configure "$@"
