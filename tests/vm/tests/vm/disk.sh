#!/bin/bash
# Makes the root disk $3 of the virtual machine: the userland $1 and the programs in folder $2,
# provisioned by the steps that Packer runs. $4 is the checkout, $5 a folder for what is in the
# making. Runs in a mount namespace of its own.
set -euo pipefail
base=$1 programs=$2 disk=$3 checkout=$4 work=$5

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
echo vm >"$root/etc/hostname"
systemctl --root="$root" --quiet enable ecs.service vm-agent.service
# Nothing of these is under test, and emulation is slow.
systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer fsidd.service getty@tty1.service \
    ldconfig.service nfs-blkmap.service nfs-server.service rpcbind.service rpcbind.socket \
    serial-getty@ttyS0.service systemd-hwdb-update.service systemd-journal-catalog-update.service \
    systemd-timesyncd.service systemd-tpm2-setup-early.service systemd-update-done.service \
    xfs_scrub_all.timer
umount "$root/run/checkout" "$root/run/programs" "$root/proc"

echo "== disk"
rm -f "$disk"
truncate -s 12G "$disk"
mke2fs -q -t ext4 -E lazy_itable_init=1,nodiscard -d "$root" "$disk"
