#!/bin/bash
# Makes the root disk $3 of the virtual machine: the userland $1 and the programs in folder $2,
# provisioned by the steps that Packer runs. $4 is the checkout, $5 a folder for what is in the
# making, $6 one with the images of a task. Runs in a mount namespace of its own.
set -euo pipefail
base=$1 programs=$2 disk=$3 checkout=$4 work=$5 images=$6

mkdir -p "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/work" "$work/root"
root=$work/root
echo "== ami/provision/provision files units"
mkdir -p "$root/run/checkout" "$root/run/programs"
mount --bind -o ro "$checkout" "$root/run/checkout"
mount --bind -o ro "$programs" "$root/run/programs"
mount -t proc proc "$root/proc"
DINDD=/run/programs/dindd chroot "$root" /run/checkout/ami/provision/provision files units clean
# As an operator would: the disk's name here.
sed -i 's|^DOCKER_STORAGE_DISK=.*|DOCKER_STORAGE_DISK=/dev/disk/by-id/virtio-storage|' \
    "$root/etc/ecs-runner-host/storage.conf"

echo "== the test's own files"
guest=$checkout/tests/vm/tests/vm/guest
install -m 0644 "$guest"/*.service "$root/etc/systemd/system/"
install -m 0755 "$guest/agent" "$root/usr/local/libexec/"
install -D -m 0644 "$guest/script.sh" "$root/usr/local/lib/script.sh"
install -m 0644 "$guest/task.sh" "$root/usr/local/lib/"
install -D -m 0755 "$programs/github-double" "$root/usr/local/lib/programs/github-double"
# What an image has that needs nothing: a program and its names.
install -D -m 0755 "$base/bin/busybox" "$root/usr/local/lib/busybox/bin/busybox"
for name in $("$base/bin/busybox" --list | grep -vx busybox); do
    ln -s busybox "$root/usr/local/lib/busybox/bin/$name"
done
echo vm >"$root/etc/hostname"
systemctl --root="$root" --quiet enable ecs.service vm-agent.service
# Its kernel modules are in the way of a boot that has no export.
systemctl --root="$root" --quiet disable nfs-server.service rpcbind.service rpcbind.socket
# Nothing of these is under test, and emulation is slow.
systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service \
    ldconfig.service nfs-blkmap.service \
    serial-getty@ttyS0.service systemd-hwdb-update.service systemd-journal-catalog-update.service \
    systemd-timesyncd.service systemd-tpm2-setup-early.service systemd-update-done.service \
    xfs_scrub_all.timer
umount "$root/run/checkout" "$root/run/programs" "$root/proc"

echo "== disk"
rm -f "$disk"
truncate -s 12G "$disk"
mke2fs -q -t ext4 -E lazy_itable_init=1,nodiscard -d "$root" "$disk"

echo "== docker load"
# By the machine's own Docker, without the emulation.
mount -o loop "$disk" "$work/root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mkdir "$root/run/images"
mount --bind -o ro "$images" "$root/run/images"
chroot "$root" dockerd --config-file=/dev/null --storage-driver=overlay2 --bridge=none --iptables=false \
    --ip6tables=false >"$work/dockerd.log" 2>&1 &
daemon=$!
for _ in {1..300}; do
    if chroot "$root" docker version >/dev/null 2>&1; then break; fi
    sleep 0.1
done
for image in "$images"/*.tar; do
    chroot "$root" docker load --quiet --input "/run/images/$(basename "$image")" || {
        cat "$work/dockerd.log"
        exit 1
    }
done
# For the tasks without ECS.
for image in ecs-dind ecs-runner; do
    chroot "$root" /usr/local/libexec/task-image "$image"
done
kill "$daemon"
wait "$daemon"
umount --recursive "$root"
