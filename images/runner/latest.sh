#!/bin/bash
# Tells whether there is a newer actions/runner than the one in the Dockerfile, and how many days that
# one may still run. With --update it writes the newest version and its sums into the Dockerfile.
#
#   images/runner/latest.sh [--update]
#
# Exit code: 0 when the Dockerfile has the newest one (with --update: now), 3 when there is a newer
# one, 1 when GitHub does not tell. Needs curl and jq. GITHUB_TOKEN raises GitHub's limits.
set -euo pipefail
dockerfile=$(dirname "$0")/Dockerfile
api=${GITHUB_API_URL:-https://api.github.com}
# GitHub's rule for runners that do not update themselves: each release within 30 days.
days_allowed=30

get() {
    if [ -n "${GITHUB_TOKEN:-}" ]; then
        # By standard input, not in the command line, where others could read it.
        curl --fail --silent --show-error --location --retry 3 --config - "$1" \
            <<<"header = \"Authorization: Bearer $GITHUB_TOKEN\""
    else
        curl --fail --silent --show-error --location --retry 3 "$1"
    fi
}

argument() { sed -n "s/^ARG $1=//p" "$dockerfile" | head -n 1; }

update=no
case ${1:-} in
    '') ;;
    --update) update=yes ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac

present=$(argument RUNNER_VERSION)
releases=$(get "$api/repos/actions/runner/releases?per_page=20") || {
    echo "latest.sh: GitHub does not tell the releases of actions/runner ($api)" >&2
    exit 1
}
# The newest first; previews are not offered to runners.
releases=$(jq '[.[] | select((.draft or .prerelease) | not)] | sort_by(.published_at) | reverse' <<<"$releases")
newest=$(jq -r '.[0].tag_name | ltrimstr("v")' <<<"$releases")
if [ "$newest" = "$present" ]; then
    echo "runner $present is the newest; no day is counted"
    exit 0
fi

# The days count from the first release after the present one.
next=$(jq -r --arg present "v$present" \
    '(map(.tag_name) | index($present)) as $at | if $at == null then .[-1] else .[$at - 1] end | .published_at' <<<"$releases")
now=${NOW:-$(date +%s)}
left=$((days_allowed - (now - $(date --date "$next" +%s)) / 86400))
if [ "$left" -gt 0 ]; then
    echo "runner $newest is there; $present may run for $left more days"
else
    echo "runner $newest is there; $present has been too old for $((-left)) days, GitHub may refuse it any time"
fi
[ "$update" = yes ] || exit 3

sum() {
    local name=actions-runner-linux-$1-$newest.tar.gz digest
    digest=$(jq -r --arg name "$name" '.[0].assets[] | select(.name == $name) | .digest // ""' <<<"$releases")
    [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || {
        echo "latest.sh: GitHub tells no SHA-256 of $name" >&2
        return 1
    }
    echo "${digest#sha256:}"
}
amd64=$(sum x64) && arm64=$(sum arm64) || exit 1
sed -i -e "s/^ARG RUNNER_VERSION=.*/ARG RUNNER_VERSION=$newest/" \
    -e "s/^ARG RUNNER_SHA256_AMD64=.*/ARG RUNNER_SHA256_AMD64=$amd64/" \
    -e "s/^ARG RUNNER_SHA256_ARM64=.*/ARG RUNNER_SHA256_ARM64=$arm64/" "$dockerfile"
echo "$dockerfile has $newest now"
