#!/bin/sh
# Makes the root filesystem of a test host in $1 from the Debian mirror $2.
# Runs in mount and PID namespaces of its own; lines that begin with "== " are shown as progress.
# $3 is the suite, $4 the tar file for the base image, the rest are packages: without any, the base
# image is all that is made.
set -eu
target=$1 mirror=$2 suite=$3 image=$4
shift 4

echo "== debootstrap $suite"
# sid's script does for every suite; an older debootstrap does not know the newer ones by name.
debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    "$suite" "$target" "$mirror" /usr/share/debootstrap/scripts/sid

# What debian:*-slim leaves out, and what the official image tells apt. A mirror may be a snapshot,
# whose release files have expired.
cat >"$target/etc/dpkg/dpkg.cfg.d/docker" <<'CONF'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
CONF
cat >"$target/etc/apt/apt.conf.d/docker" <<'CONF'
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Apt::AutoRemove::SuggestsImportant "false";
CONF
rm -rf "$target"/usr/share/man/* "$target"/usr/share/locale/* "$target"/usr/share/info/* \
    "$target"/var/cache/apt/*.bin "$target"/var/cache/apt/archives/*.deb \
    "$target"/var/lib/apt/lists/* "$target"/var/log/*.log
find "$target/usr/share/doc" ! -name copyright -type f -delete

echo "== base image $suite"
mkdir -p "$(dirname "$image")"
: >"$target/etc/resolv.conf"
tar -C "$target" --numeric-owner --one-file-system --exclude=".${image#"$target"}" \
    --exclude='./proc/*' --exclude='./sys/*' -cf "$image" .
test $# -gt 0 || exit 0

echo "== packages of the host: $*"
cat /etc/resolv.conf >"$target/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$target/usr/sbin/policy-rc.d"
chmod +x "$target/usr/sbin/policy-rc.d"
echo force-unsafe-io >"$target/etc/dpkg/dpkg.cfg.d/unsafe-io"
mount -t proc proc "$target/proc"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
chroot "$target" apt-get -q update
chroot "$target" apt-get -q -y --no-install-recommends install "$@"
chroot "$target" apt-get clean
umount "$target/proc"
rm -rf "$target"/var/lib/apt/lists/* "$target/usr/sbin/policy-rc.d"
: >"$target/etc/resolv.conf"

# Docker's socket is looked for below /var/run.
test "$(readlink "$target/var/run")" = /run || { rm -rf "$target/var/run"; ln -s /run "$target/var/run"; }
