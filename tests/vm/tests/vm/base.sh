#!/bin/bash
# Makes the userland of the virtual machine in $1: Debian trixie with a kernel of Debian bookworm
# (6.1, as Amazon Linux 2023 has it), and what the step `packages` of the provisioning installs.
# Runs in a mount namespace of its own. $2 is the Debian mirror, $3 the checkout.
set -euo pipefail
target=$1 mirror=$2 checkout=$3

echo "== debootstrap trixie"
debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    trixie "$target" "$mirror" /usr/share/debootstrap/scripts/sid >/dev/null
printf '#!/bin/sh\nexit 101\n' >"$target/usr/sbin/policy-rc.d"
chmod +x "$target/usr/sbin/policy-rc.d"
echo force-unsafe-io >"$target/etc/dpkg/dpkg.cfg.d/unsafe-io"
printf 'path-exclude /usr/share/%s/*\n' doc locale man >"$target/etc/dpkg/dpkg.cfg.d/small"
cat /etc/resolv.conf >"$target/etc/resolv.conf"
mount -t proc proc "$target/proc"
mkdir -p "$target/run/checkout"
mount --bind -o ro "$checkout" "$target/run/checkout"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
within() { chroot "$target" "$@"; }

echo "== packages of the test"
within apt-get -q update >/dev/null
within apt-get -q -y --no-install-recommends install \
    busybox-static dbus kmod netbase nfs-kernel-server systemd systemd-sysv udev >/dev/null

echo "== ami/provision/provision packages"
within /run/checkout/ami/provision/provision packages >/dev/null

echo "== kernel"
echo "deb $mirror bookworm main" >"$target/etc/apt/sources.list.d/kernel.list"
within apt-get -q update >/dev/null
package=$(within apt-cache depends linux-image-cloud-amd64/bookworm | sed -n 's/.*Depends: \(linux-image-6.1[^ ]*\)$/\1/p')
within sh -c "cd /tmp && apt-get -q download $package && dpkg -x $package*.deb kernel && rm $package*.deb" >/dev/null
version=${package#linux-image-}
# Its own layout has /lib as a folder, here it is a link.
mkdir -p "$target/usr/lib/modules"
mv "$target/tmp/kernel/lib/modules/$version" "$target/usr/lib/modules/"
mv "$target/tmp/kernel/boot/vmlinuz-$version" "$target/boot/vmlinuz"
rm -r "$target/tmp/kernel"
within depmod "$version"
# Only the disk has to be found before the root filesystem is there.
initial=$target/tmp/initial
mkdir -p "$initial/bin" "$initial/lib"
cp "$target/bin/busybox" "$initial/bin/"
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
    find "$target/usr/lib/modules/$version" -name "$module.ko" -exec cp {} "$initial/lib/" \;
done
cat >"$initial/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mkdir -p /dev /root
/bin/busybox mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
    /bin/busybox insmod /lib/$module.ko
done
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
INIT
chmod +x "$initial/init"
within sh -c 'cd /tmp/initial && find . | busybox cpio -o -H newc | gzip -1 >/boot/initial.gz' 2>/dev/null
rm -rf "$initial"

within apt-get clean
umount "$target/run/checkout" "$target/proc"
rm -rf "$target"/var/lib/apt/lists/* "$target/usr/sbin/policy-rc.d" "$target/run/checkout"
: >"$target/etc/resolv.conf"
