//! A job that owns its Docker socket cannot reach what is not its task's: each way that it may try
//! is one test, with a second task as the neighbour that it looks for.
//!
//! Everything that must not be found bears a name that the search knows: a file of the neighbour, a
//! file at the volume's root, and the command line of a process of the neighbour. The job hides a
//! file of its own as well: an attack that does not find that one has not searched.

use std::io::Read;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use chain::driver::{Case, Heard, data_root, end, healthy_dind};
use chain::{Container, Engine, Stage, Task, TaskOptions};

pub(crate) const CASES: [Case; 10] = [
    (
        "a_bind_mount_of_the_root_shows_neither_neighbour_nor_volume",
        a_bind_mount_of_the_root_shows_neither_neighbour_nor_volume,
    ),
    (
        "a_bind_mount_of_the_volumes_path_shows_nothing",
        a_bind_mount_of_the_volumes_path_shows_nothing,
    ),
    (
        "no_process_that_a_job_sees_leads_out",
        no_process_that_a_job_sees_leads_out,
    ),
    (
        "proc_as_a_bind_source_does_not_lead_out",
        proc_as_a_bind_source_does_not_lead_out,
    ),
    (
        "dockerds_own_namespaces_do_not_show_the_neighbour",
        dockerds_own_namespaces_do_not_show_the_neighbour,
    ),
    (
        "nothing_lies_under_what_a_job_can_unmount",
        nothing_lies_under_what_a_job_can_unmount,
    ),
    (
        "no_node_of_the_volumes_device_can_be_made_or_read",
        no_node_of_the_volumes_device_can_be_made_or_read,
    ),
    (
        "a_file_handle_of_the_volumes_root_cannot_be_opened",
        a_file_handle_of_the_volumes_root_cannot_be_opened,
    ),
    (
        "a_mount_that_a_job_shares_stays_in_its_task",
        a_mount_that_a_job_shares_stays_in_its_task,
    ),
    (
        "a_job_cannot_change_what_is_started_from_outside",
        a_job_cannot_change_what_is_started_from_outside,
    ),
];

/// Whether the attack must find the job's own file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Found,
    /// The way leads nowhere at all.
    NotFound,
}

/// Shell functions for attacks. `search FOLDER…` is for a container: it names every marked file
/// below the folders, on whatever filesystem.
const TOOLS: &str = r#"
set +e
search='search() { for folder; do find "$folder" \( -path "${folder%/}/proc" -o -path "${folder%/}/sys" \) -prune -o -name "*-of-*-task" -print; done; }'
docker volume create own >/dev/null
docker run --rm --volume own:/own busybox touch /own/own-of-NAME-task
in_dockerds_mounts() {
  docker run --rm --privileged --pid=host busybox nsenter -t 1 -m sh -c "$search; $1"
}
"#;

/// Two tasks on the volume: one attacks, the other must not be reached.
pub(crate) struct Siege<'a> {
    stage: &'a Stage,
    name: &'static str,
    heard: Heard,
    attacker: (Container<'a>, Task<'a>),
    neighbour: (Container<'a>, Task<'a>),
}

impl<'a> Siege<'a> {
    pub(crate) fn begin(stage: &'a Stage, name: &'static str) -> Result<Self> {
        let heard = Heard::default();
        let start = |role: &str| -> Result<_> {
            let options = TaskOptions::default();
            let task = stage.task(&format!("{name}-{role}"), options, heard.listener())?;
            Ok((healthy_dind(&task)?, task))
        };
        let (attacker, neighbour) = (start("attacker")?, start("neighbour")?);
        std::fs::write(stage.host().path(volume_mark(stage, name)), "")?;
        neighbour.1.docker(&format!(
            "docker run --detach --volume secret:/secret busybox sh -c \
             'touch /secret/neighbour-of-{name}-task; : neighbour-of-{name}-task; sleep 1000; :'
            until docker run --rm --volume secret:/secret busybox ls /secret | grep {name}; do :; done"
        ))?;
        Ok(Self {
            stage,
            name,
            heard,
            attacker,
            neighbour,
        })
    }

    /// The sidecar of the attacking task.
    pub(crate) fn sidecar(&self) -> &Container<'a> {
        &self.attacker.0
    }

    /// Runs a script as the job of the attacking task; what it has found.
    pub(crate) fn attack(&self, script: &str) -> Result<String> {
        let tools = TOOLS.replace("NAME", self.name);
        self.attacker.1.docker(&format!("{tools}{script}\ntrue"))
    }

    /// Runs an attack that must not find what is not the job's own.
    fn repel(&self, script: &str, own: Own) -> Result<()> {
        let found = self.attack(script)?;
        let name = self.name;
        for whose in ["neighbour", "volume"] {
            let mark = format!("{whose}-of-{name}-task");
            ensure!(!found.contains(&mark), "{mark} was found:\n{found}");
        }
        let found_own = found.contains(&format!("own-of-{name}-task"));
        ensure!(
            found_own == (own == Own::Found),
            "the job's own file was found: {found_own}, in:\n{found}"
        );
        Ok(())
    }

    /// Both tasks end in order: neither was harmed.
    pub(crate) fn end(self) -> Result<()> {
        let mark = volume_mark(self.stage, self.name);
        std::fs::remove_file(self.stage.host().path(mark))?;
        for (dind, task) in [self.attacker, self.neighbour] {
            end(dind, task, &self.heard)?;
        }
        Ok(())
    }
}

/// What runs in the sidecar's container from outside, and changes nothing of it.
const OUTSIDE: &str = r#"
sha256sum /usr/local/bin/dindd /bin/sh /usr/bin/env
find / -xdev -name "changed-by-a-job*"
find /dev /etc /run/dind -name "changed-by-a-job*" | grep -v /run/dind
test -c /dev/null && test -S /var/run/docker.sock && /usr/local/bin/dindd health"#;

/// Each leaves its mark: programs get a line more, with which they still run.
const CHANGES: &str = r#"
set +e
exec 2>&1
change='for root; do
  for file in usr/local/bin/dindd usr/bin/env; do
    cp -p $root/$file $root/tmp/program && echo changed-by-a-job >>$root/tmp/program &&
      mv $root/tmp/program $root/$file && echo replaced $root/$file
  done
  for folder in etc dev var/run usr/local/bin; do touch $root/$folder/changed-by-a-job && echo marked $root/$folder; done
  echo changed-by-a-job >>$root/etc/hosts
done'
docker run --rm --volume /:/x busybox sh -c "$change" change /x
docker run --rm --volume /usr/local/bin:/x --volume /dev:/y --volume /etc:/z busybox \
  touch /x/changed-by-a-job-too /y/changed-by-a-job-too /z/changed-by-a-job-too
enter="docker run --rm --cap-add=SYS_ADMIN --security-opt=seccomp=unconfined --pid=host busybox nsenter -t 1 -m"
$enter unshare --mount --propagation private perl -e "$LIFT" "$change"
$enter sh -c 'for file in /proc/1/task/*/exe; do chmod 0 $file && echo its mode was changed; done
  mount -o remount,rw,bind /read-only && touch /read-only/changed-by-a-job && echo written
  mount -o remount,rw /; mount --move / /mnt && echo moved; umount --lazy /read-only && echo uncovered
  umount --lazy / && echo uncovered'
docker run --rm --volume /data/new/folder:/x busybox touch /x/made
docker run --rm --volume /data:/x busybox ls /x/new/folder
echo the end
"#;

/// Lifts what covers `/`, three times, and changes what is to be seen then.
const LIFT: &str = r#"
my ($umount, $setns) = `uname -m` =~ /x86_64/ ? (166, 308) : (39, 268);
open(my $mounts, "<", "/proc/self/ns/mnt") or die "open: $!";
for (1..3) {
  print "lift: ", (syscall($umount, "/", 2) == 0 ? "lifted" : "$!"), "\n";
  print "see: ", (syscall($setns, fileno($mounts), 0x20000) == 0 ? "entered" : "$!"), "\n";
  system("sh", "-c", $ARGV[0], "change", "/");
}
"#;

fn a_job_cannot_change_what_is_started_from_outside(stage: &Stage) -> Result<()> {
    for engine in Engine::ALL {
        let heard = Heard::default();
        let name = format!("outside-{}", engine.suite());
        let host_folder = format!("/srv/{name}");
        std::fs::create_dir_all(stage.host().path(&host_folder))?;
        let options = TaskOptions {
            engine,
            create: vec![format!("--volume={host_folder}:/read-only:ro")],
            ..TaskOptions::default()
        };
        let task = stage.task(&name, options, heard.listener())?;
        let dind = healthy_dind(&task)?;
        let before = dind.exec(&["bash", "-c", OUTSIDE])?;
        let script = format!("LIFT='{LIFT}'\n{CHANGES}\ntrue");
        let found = task.docker(&script)?;
        for line in [
            "replaced /x/usr/local/bin/dindd",
            "marked /x/etc",
            "marked /x/dev",
            "made",
            "the end",
        ] {
            ensure!(found.contains(line), "{engine}: no {line:?} in:\n{found}");
        }
        for line in ["lifted", "uncovered", "its mode was changed", "written"] {
            ensure!(!found.contains(line), "{engine}: {line:?} in:\n{found}");
        }
        let after = dind.exec(&["bash", "-c", OUTSIDE])?;
        ensure!(after == before, "{engine}: {before}is now {after}");
        let files = std::fs::read_dir(stage.host().path(&host_folder))?.count();
        ensure!(files == 0, "{engine}: the host's folder was written");
        let hosts = dind.exec(&["cat", "/etc/hosts"])?;
        ensure!(!hosts.contains("changed-by-a-job"), "{engine}: {hosts}");
        end(dind, task, &heard)?;
    }
    Ok(())
}

fn volume_mark(stage: &Stage, name: &str) -> std::path::PathBuf {
    stage.volume().join(format!("volume-of-{name}-task"))
}

/// A siege with one attack.
fn besiege(stage: &Stage, name: &'static str, script: &str, own: Own) -> Result<()> {
    let siege = Siege::begin(stage, name)?;
    siege.repel(script, own)?;
    siege.end()
}

fn a_bind_mount_of_the_root_shows_neither_neighbour_nor_volume(stage: &Stage) -> Result<()> {
    let script = r#"
for options in "" "--privileged" "--cap-add=SYS_ADMIN --cap-add=MKNOD --security-opt=seccomp=unconfined"; do
  docker run --rm $options --volume /:/x busybox sh -c "$search; search /x"
  docker run --rm $options --mount type=bind,src=/,dst=/x,bind-propagation=rslave busybox sh -c "$search; search /x"
done"#;
    besiege(stage, "root", script, Own::Found)
}

fn a_bind_mount_of_the_volumes_path_shows_nothing(stage: &Stage) -> Result<()> {
    let siege = Siege::begin(stage, "path")?;
    let root = data_root(stage, &siege.neighbour.0)?;
    let (_, root) = root.rsplit_once('/').context("a path without a folder")?;
    let binds = format!(
        r#"
for folder in / /{root} /{root}/data /../../var/docker-storage /.trash; do
  docker run --rm --volume "/var/docker-storage$folder:/x" busybox sh -c "$search; search /x"
done
docker run --rm --volume /var:/x busybox sh -c "$search; search /x/docker-storage"
docker volume create --opt type=none --opt o=bind --opt device=/var/docker-storage storage
docker run --rm --volume storage:/x busybox sh -c "$search; search /x""#
    );
    siege.repel(&binds, Own::NotFound)?;
    // The same ways lead to what is dockerd's.
    siege.repel(&binds.replace("docker-storage", "lib/docker"), Own::Found)?;
    siege.end()
}

fn no_process_that_a_job_sees_leads_out(stage: &Stage) -> Result<()> {
    let script = r#"
docker run --rm --pid=host --privileged busybox sh -c "$search"'
for process in /proc/[0-9]*; do
  tr "\0" " " <$process/cmdline; tr "\0" "\n" <$process/environ; echo
  search $process/root/ $process/cwd/
  for file in $process/fd/*; do test ! -d $file || search $file/; done
done'"#;
    besiege(stage, "process", script, Own::Found)
}

fn proc_as_a_bind_source_does_not_lead_out(stage: &Stage) -> Result<()> {
    let script = r#"
for source in /proc/1/root /proc/1/root/var /proc/1/cwd /proc/self/root /proc/thread-self/root/var/docker-storage \
    /proc/1/task/1/root; do
  docker run --rm --privileged --volume "$source:/x" busybox sh -c "$search; search /x/"
done
docker run --rm --privileged --pid=host --volume /proc:/x busybox sh -c "$search; search /x/1/root/""#;
    besiege(stage, "proc", script, Own::Found)
}

fn dockerds_own_namespaces_do_not_show_the_neighbour(stage: &Stage) -> Result<()> {
    let script = r#"
docker run --rm --privileged --pid=host busybox nsenter -t 1 -m -u -i -n -p \
  bash -c "$search"'
search /
cat /proc/[0-9]*/cmdline | tr "\0" " "
# An own pair of namespaces, made from the inside.
unshare --mount --pid --fork bash -c "mount -t proc proc /proc; search /; cat /proc/*/cmdline"
for file in /sys/fs/cgroup /proc/1/cgroup /proc/1/mountinfo; do cat $file; done'"#;
    besiege(stage, "namespace", script, Own::Found)
}

/// In a copy of dockerd's mounts, so that the task's Docker survives the attack. A bind without what
/// is mounted below shows the folders under the mounts.
const UNMOUNT: &str = r#"
in_dockerds_mounts 'search /'
docker run --rm --privileged --pid=host busybox nsenter -t 1 -m unshare --mount --propagation private \
  sh -c "$search"'
mkdir -p /mnt/beneath && mount --bind / /mnt/beneath && search /mnt/beneath
for round in 1 2 3; do
  for point in $(cut -d " " -f 5 /proc/1/mountinfo | sort --reverse) /var/docker-storage /var /proc; do
    test "$point" = / || test "$point" = /proc || umount --lazy "$point"
  done
  search /
done
mount -o remount,rw,bind /; umount --lazy /proc; search / /var/docker-storage'
"#;

fn nothing_lies_under_what_a_job_can_unmount(stage: &Stage) -> Result<()> {
    besiege(stage, "unmount", UNMOUNT, Own::Found)
}

fn no_node_of_the_volumes_device_can_be_made_or_read(stage: &Stage) -> Result<()> {
    let device = std::fs::metadata(stage.host().path(stage.volume()))?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let mut magic = [0; 4];
    std::fs::File::open(format!("/dev/loop{minor}"))?.read_exact(&mut magic)?;
    ensure!(&magic == b"XFSB", "the volume's device begins otherwise");

    let siege = Siege::begin(stage, "device")?;
    let script = format!(
        r#"
exec 2>&1
try='mknod /node b {major} {minor} && echo node made; head -c 4 /node; mkdir /m; mount -t xfs /node /m && search /m'
docker run --rm --privileged busybox sh -c "$search; $try"
docker run --rm --cap-add=MKNOD --cap-add=SYS_ADMIN --device-cgroup-rule='b *:* rwm' busybox sh -c "$search; $try"
docker run --rm --privileged --cgroupns=host --pid=host --network=host busybox sh -c "$search; $try"
docker run --rm --device=/dev/loop{minor} busybox head -c 4 /dev/loop{minor}
in_dockerds_mounts 'mknod /dev/volume b {major} {minor}; head -c 4 /dev/volume; losetup -f /dev/volume'
docker run --rm --device=/dev/volume --privileged busybox sh -c 'ls /dev/volume; head -c 4 /dev/volume'
docker volume create --opt type=xfs --opt device=/dev/volume volume
docker run --rm --volume volume:/x busybox sh -c "$search; search /x""#
    );
    let found = siege.attack(&script)?;
    ensure!(
        found.contains("mknod: /node: Operation not permitted"),
        "nothing was tried:\n{found}"
    );
    for sign in ["XFSB", "neighbour-of-", "volume-of-device-task"] {
        ensure!(!found.contains(sign), "{sign} was found:\n{found}");
    }
    siege.end()
}

/// Prints the file handle of a folder, or opens one and lists the folder. With `SYS_ADMIN` alone
/// Linux lets a process open any directory by its handle from 6.11 on (fs/fhandle.c,
/// `may_decode_fh`): what stands between a job and the whole volume is the seccomp filter.
const HANDLES: &str = r#"
use strict;
my ($do, $path, $hex) = @ARGV;
my ($name_to, $open_by) = `uname -m` =~ /x86_64/ ? (303, 304) : (264, 265);
if ($do eq "name") {
  my ($handle, $mount) = (pack("Ii", 64, 0) . "\0" x 64, pack("i", 0));
  syscall($name_to, -100, $path, $handle, $mount, 0) == 0 or die "name_to_handle_at: $!\n";
  print unpack("H*", substr($handle, 0, 8 + unpack("I", $handle))), "\n";
} else {
  open(my $folder, "<", $path) or die "open: $!\n";
  my $handle = pack("H*", $hex);
  my $opened = syscall($open_by, fileno($folder), $handle, 0200000);
  $opened >= 0 or die "open_by_handle_at: $!\n";
  system("ls", "/proc/$$/fd/$opened/");
}
"#;

fn a_file_handle_of_the_volumes_root_cannot_be_opened(stage: &Stage) -> Result<()> {
    let siege = Siege::begin(stage, "handle")?;
    let volume = stage.volume().display().to_string();
    let perl = |words: &[&str]| {
        let program = ["perl", "-e", HANDLES, "--"];
        stage.host().run(program.iter().chain(words))
    };
    let handle = perl(&["name", &volume])?;
    let opened = perl(&["open", &volume, handle.trim()])?;
    ensure!(
        opened.contains("volume-of-handle-task"),
        "the handle does not lead to the volume's root: {opened}"
    );
    let script = format!(
        "exec 2>&1\ndocker run --rm --privileged --pid=host --security-opt=seccomp=unconfined busybox \
         nsenter -t 1 -m perl -e '{HANDLES}' -- open /var/lib/docker {}",
        handle.trim()
    );
    let found = siege.attack(&script)?;
    ensure!(
        found.contains("open_by_handle_at: Operation not permitted"),
        "the handle was not refused:\n{found}"
    );
    siege.end()
}

fn a_mount_that_a_job_shares_stays_in_its_task(stage: &Stage) -> Result<()> {
    let siege = Siege::begin(stage, "shared")?;
    let script = r#"
exec 2>&1
for folder in /run/dind /home/runner/_work /opt/hostedtoolcache /var/lib/docker; do
  docker run --rm --privileged --volume $folder:/x:rshared busybox sh -c \
    'mkdir /x/below && mount -t tmpfs shared-by-a-job /x/below'
done
docker run --rm --pid=host busybox cat /proc/1/mountinfo"#;
    let inside = siege.attack(script)?;
    ensure!(
        inside.contains("shared-by-a-job"),
        "dockerd's own namespace does not show the mount:\n{inside}"
    );
    let outside = ["cat", "/proc/self/mountinfo"];
    for mounts in [
        siege.attacker.0.exec(&outside)?,
        siege.neighbour.0.exec(&outside)?,
        stage.host().run(outside)?,
    ] {
        ensure!(
            !mounts.contains("shared-by-a-job"),
            "the mount got out:\n{mounts}"
        );
    }
    siege.end()
}
