# shellcheck shell=bash source=../guest/task.sh
. /usr/local/lib/task.sh
store=/var/lib/golden-store in=/var/lib/golden-store/archives
task golden
mkdir -p $in

# image VERSION: an archive of it, which the host's own Docker keeps nothing of.
image() {
    tar --create --directory=/usr/local/lib/busybox . |
        docker import --change "ENV VERSION=$1" --change 'CMD ["sh"]' - warm:1 >/dev/null
    docker save --output $in/warm.tar warm:1
    docker rmi warm:1 >/dev/null
}
image 1

cat >/etc/ecs-runner-host/golden.conf <<CONF
GOLDEN_BUILDER=ecs-dind
GOLDEN_BUILD=--start-timeout=600 --archive=$in/warm.tar
CONF
build() {
    systemctl start golden-build || {
        journalctl --boot --unit golden-build --output cat
        exit 1
    }
}

# The files of the current version, and those that are mounted through loop devices.
current() { jq --raw-output '.files[].sha256' $store/current/manifest.json | sort; }
looped() { losetup --noheadings --output BACK-FILE | sed -n "s|^$store/files/\\(.*\\)[.]erofs.*|\\1|p" | sort; }
all_are_mounted() {
    if systemctl --quiet is-failed golden-store; then
        journalctl --boot --unit golden-store --output cat >&3
        exit 1
    fi
    comm -13 <(looped) <(current) | not grep .
}

systemctl is-active golden-store.path
build
until_true 'the host has mounted the images' all_are_mounted
findmnt --types erofs --output SOURCE,TARGET

sidecar golden --volume=$store:/golden:ro --env=DINDD_GOLDEN=/golden
docker logs golden-dind 2>&1 | grep 'golden images are attached'
job golden run --rm warm:1 true
docker stop --time 60 golden-dind >/dev/null
docker rm golden-dind >/dev/null

echo '== the next version'
image 2
before=$(looped)
build
until_true 'the host has mounted the new version' all_are_mounted
dindd golden gc --store $store --keep 0
test "$(looped)" = "$(current)"
test "$(looped)" != "$before"
umount $store/mounted/*
test -z "$(looped)"
