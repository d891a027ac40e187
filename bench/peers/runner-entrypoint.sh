#!/bin/bash
# A runner's entrypoint of the usual kind, as the popular images have it: wait for Docker, copy the
# cache, fetch a token with curl and jq, config.sh, run the listener, and deregister in a trap. It runs
# as the runner's user.
#
# REPO_URL, API_URL, REPOSITORY, ACCESS_TOKEN; LABELS; DOCKER_HOST and CACHE_STORE are optional.
set -eu
cd /home/runner

token() {
    curl --silent --show-error --fail --request POST \
        --header "Authorization: Bearer $ACCESS_TOKEN" --header 'Accept: application/vnd.github+json' \
        "$API_URL/repos/$REPOSITORY/actions/runners/$1-token" | jq --raw-output .token
}

stop() {
    kill -INT "$listener"
    wait "$listener" || true
    ./config.sh remove --token "$(token remove)"
    exit 0
}

if [ -n "${DOCKER_HOST:-}" ]; then
    until docker info >/dev/null 2>&1; do
        sleep 1
    done
fi
if [ -n "${CACHE_STORE:-}" ]; then
    rsync --archive "$CACHE_STORE/" /opt/hostedtoolcache/
fi
export RUNNER_TOOL_CACHE=/opt/hostedtoolcache

./config.sh --unattended --ephemeral --replace --disableupdate --url "$REPO_URL" \
    --token "$(token registration)" --name "shell-$(hostname)" --labels "${LABELS:-shell}"
./bin/Runner.Listener run &
listener=$!
trap stop TERM INT
wait "$listener" || true
if [ -n "${CACHE_STORE:-}" ]; then
    rsync --archive /opt/hostedtoolcache/ "$CACHE_STORE/"
fi
