#!/bin/sh
# Builds ecs-dind, ecs-runner and ecs-runner:fargate for this machine. `make images` calls it.
#
# With a Docker that reaches a registry: by `docker build`. Otherwise the programs are compiled here, and
# the images are built on a test host from a base image made by debootstrap; they are then in
# target/images/ as tar files, and in this machine's Docker if there is one. RUNNER_FOLDER names a folder
# with an unpacked actions/runner as runner/; without it those have the tests' stand-in.
set -eu
cd "$(dirname "$0")/.."
REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)
CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)
export REVISION CREATED
as_root=
[ "$(id -u)" = 0 ] || as_root="sudo --preserve-env=REVISION,CREATED,RUNNER_FOLDER"

have_docker() { docker version >/dev/null 2>&1; }

if have_docker && timeout 60 docker pull --quiet debian:trixie-slim >/dev/null 2>&1; then
    build() {
        docker build --build-arg "REVISION=$REVISION" --build-arg "CREATED=$CREATED" "$@" .
    }
    build --file images/dind/Dockerfile --tag ecs-dind
    build --file images/runner/Dockerfile --target ecs --tag ecs-runner
    build --file images/runner/Dockerfile --target fargate --tag ecs-runner:fargate
    docker image ls --filter reference=ecs-dind --filter reference=ecs-runner
    exit
fi

echo "no Docker that reaches a registry; building on a test host" >&2
images/build.sh target/images/build/out
"${MAKE:-make}" build
$as_root target/release/images
if have_docker; then
    for image in target/images/*.tar; do
        docker load --input "$image"
    done
fi
