//! A job mounts what is its own, and nothing of the host: neither its disks, by whatever name, nor
//! what would start programs outside of every container.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use chain::Stage;
use chain::driver::Case;

use crate::isolation::Siege;

pub(crate) const CASES: [Case; 5] = [
    (
        "a_disk_cannot_be_mounted_by_a_node_that_is_there",
        a_disk_cannot_be_mounted_by_a_node_that_is_there,
    ),
    (
        "the_volumes_inodes_cannot_be_opened_by_number",
        the_volumes_inodes_cannot_be_opened_by_number,
    ),
    (
        "a_job_cannot_make_the_kernel_start_programs_on_the_host",
        a_job_cannot_make_the_kernel_start_programs_on_the_host,
    ),
    ("a_job_mounts_what_is_its_own", a_job_mounts_what_is_its_own),
    (
        "a_job_cannot_change_the_options_of_the_volume",
        a_job_cannot_change_the_options_of_the_volume,
    ),
];

/// Makes the call mount(2) itself, so that its flags are not a program's choice.
const CALL: &str = r#"
use strict;
my ($kind, $source, $target, $flags) = @ARGV;
my ($mount, $fsopen) = `uname -m` =~ /x86_64/ ? (165, 430) : (40, 430);
if ($flags eq "fsopen") {
  my $context = syscall($fsopen, $kind, 0);
  print "fsopen: ", $context < 0 ? "$!" : "made", "\n";
} else {
  my $done = syscall($mount, $source, $target, $kind, hex $flags, 0);
  print "mount $kind $flags: ", $done < 0 ? "$!" : "mounted", "\n";
}
"#;

/// The node is made from outside, where nothing is filtered: whoever may mount it has the volume.
fn a_disk_cannot_be_mounted_by_a_node_that_is_there(stage: &Stage) -> Result<()> {
    let device = std::fs::metadata(stage.host().path(stage.volume()))?.dev();
    let major = nix::sys::stat::major(device).to_string();
    let minor = nix::sys::stat::minor(device).to_string();
    let siege = Siege::begin(stage, "node")?;
    let make = ["mknod", "/tmp/volume", "b", &major, &minor];
    siege.sidecar().exec(&make)?;
    // The last flags are the oldest kernels' magic, with bits that would mean something else.
    let script = format!(
        r#"
exec 2>&1
in_dockerds_mounts 'ls -l /tmp/volume'
docker run --rm --privileged --volume /tmp:/t busybox sh -c "$search; mkdir /m; mount -t xfs /t/volume /m; search /m"
docker run --rm --privileged busybox sh -c 'mkdir /d; mount -t devtmpfs d /d && echo devtmpfs mounted'
for flags in 0 1 e c0ed0000 c0ed0020 c0ed000e fsopen; do
  docker run --rm --privileged --pid=host busybox nsenter -t 1 -m -- perl -e '{CALL}' xfs /tmp/volume /mnt $flags
done
in_dockerds_mounts 'search /mnt'"#
    );
    let found = siege.attack(&script)?;
    ensure!(found.contains("/tmp/volume"), "there was no node:\n{found}");
    for (flags, answer) in [
        ("0", "Operation not permitted"),
        ("1", "Operation not permitted"),
        ("e", "Operation not permitted"),
        ("c0ed0000", "Operation not permitted"),
        ("c0ed000e", "Operation not permitted"),
    ] {
        let expected = format!("mount xfs {flags}: {answer}");
        ensure!(found.contains(&expected), "no {expected:?} in:\n{found}");
    }
    ensure!(
        found.contains("fsopen: Function not implemented"),
        "the newer way to mount is there:\n{found}"
    );
    for sign in [
        "devtmpfs mounted",
        ": mounted",
        "neighbour-of-",
        "volume-of-node-task",
    ] {
        ensure!(!found.contains(sign), "{sign} was found:\n{found}");
    }
    siege.sidecar().exec(&["rm", "/tmp/volume"])?;
    siege.end()
}

/// `XFS_IOC_FSBULKSTAT`, `XFS_IOC_OPEN_BY_HANDLE` and `FIFREEZE` on a folder of the job's own data-root.
const IOCTLS: &str = r#"
open(my $folder, "<", "/var/lib/docker") or die "open: $!";
for my $command (0xc0205865, 0xc038586b, 0xc0045877) {
  my $arguments = "\0" x 256;
  my $done = ioctl($folder, $command, $arguments);
  printf "%x: %s\n", $command, defined $done ? "done" : "$!";
}
"#;

fn the_volumes_inodes_cannot_be_opened_by_number(stage: &Stage) -> Result<()> {
    let siege = Siege::begin(stage, "inode")?;
    let found = siege.attack(&format!(
        "exec 2>&1\ndocker run --rm --privileged --pid=host busybox nsenter -t 1 -m -- perl -e '{IOCTLS}'"
    ))?;
    for command in ["c0205865", "c038586b", "c0045877"] {
        let expected = format!("{command}: Operation not permitted");
        ensure!(found.contains(&expected), "no {expected:?} in:\n{found}");
    }
    siege.end()
}

fn a_job_cannot_make_the_kernel_start_programs_on_the_host(stage: &Stage) -> Result<()> {
    let siege = Siege::begin(stage, "helper")?;
    let script = r#"
exec 2>&1
docker run --rm --privileged busybox sh -c '
for name in core_pattern modprobe poweroff_cmd; do
  file=/proc/sys/kernel/$name
  test ! -e $file || echo "|/changed-by-a-job" >$file && cat $file
done
mkdir /m
mount -t cgroup -o none,name=job v1 /m && echo cgroup v1 mounted
mount -t binfmt_misc b /m && echo binfmt_misc mounted
mount -t debugfs d /m && echo debugfs mounted
# Sysctls of the network stay writable.
echo 1 >/proc/sys/net/ipv4/ip_forward && echo forwarding'"#;
    let found = siege.attack(script)?;
    ensure!(found.contains("forwarding"), "no sysctl works:\n{found}");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    ensure!(!pattern.contains("changed-by-a-job"), "it is {pattern}");
    for sign in ["changed-by-a-job", " mounted"] {
        ensure!(!found.contains(sign), "{sign} was found:\n{found}");
    }
    siege.end()
}

fn a_job_mounts_what_is_its_own(stage: &Stage) -> Result<()> {
    let siege = Siege::begin(stage, "mounter")?;
    let script = r#"
set -e
docker run --rm --privileged busybox sh -ec '
mkdir /t && mount -t tmpfs -o size=4m,mode=0700 tmp /t && cd /t
mkdir low up work all proc sys pts queue groups
# Relative to the working directory, as dockerd mounts layers.
touch low/lower && mount -t overlay -o lowerdir=low,upperdir=up,workdir=work layers all
touch all/upper && ls up all
unshare --pid --fork sh -c "mount -t proc proc /t/proc; echo processes: /t/proc/[0-9]*"
mount -t sysfs sys sys && ls sys/class/net
mount -t devpts pts pts && mount -t mqueue queue queue && mount -t cgroup2 groups groups
grep -c "/t/" /proc/mounts'
# In a user namespace whose root looks like the real one, the kernel decides and not the broker.
docker run --rm --privileged busybox sh -c '
mkdir -p /mnt; unshare --user --map-root-user --mount sh -c "mount -t tmpfs own /mnt && grep /mnt /proc/mounts"'
# Without the capability nothing is mounted, with and without a filter.
for options in "" "--security-opt seccomp=unconfined"; do
  docker run --rm $options busybox sh -c 'mkdir /t; mount -t tmpfs tmp /t || echo refused'
done"#;
    let found = siege.attack(script)?;
    for line in [
        "upper",
        "lower",
        "processes: /t/proc/1",
        "eth0",
        "own /mnt tmpfs",
        "refused\nrefused",
    ] {
        ensure!(found.contains(line), "no {line:?} in:\n{found}");
    }
    siege.end()
}

/// The volume's filesystem is one for all tasks: what a remount changes, it changes for everybody.
fn a_job_cannot_change_the_options_of_the_volume(stage: &Stage) -> Result<()> {
    let siege = Siege::begin(stage, "remount")?;
    let before = options(stage)?;
    let script = r#"
exec 2>&1
docker volume create left >/dev/null
docker run --rm --privileged --volume left:/v busybox sh -c '
mount -o remount,inode32 /v && echo volume remounted
mount -o remount,bind,ro /v && echo its own mount remounted
mkdir /t && mount -t tmpfs -o size=4m tmp /t && mount -o remount,size=8m /t && grep " /t " /proc/mounts'
in_dockerds_mounts 'mount -o remount,inode32 /var/lib/docker && echo data-root remounted'"#;
    let found = siege.attack(script)?;
    for line in ["its own mount remounted", "size=8192k"] {
        ensure!(found.contains(line), "no {line:?} in:\n{found}");
    }
    for sign in ["volume remounted", "data-root remounted"] {
        ensure!(!found.contains(sign), "{sign} was found:\n{found}");
    }
    let after = options(stage)?;
    ensure!(before == after, "they were {before} and are {after}");
    siege.end()
}

/// What is after the separator in proc(5)'s `mountinfo`: type, source, and the filesystem's options.
fn options(stage: &Stage) -> Result<String> {
    let mounts = stage.host().run(["cat", "/proc/self/mountinfo"])?;
    let volume = stage.volume().display().to_string();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some(volume.as_str()));
    let options = line.and_then(|line| line.split_once(" - "));
    options
        .map(|(_, options)| options.to_owned())
        .with_context(|| format!("no mount at {volume} in {mounts}"))
}
