//! `docker-storage-format` on real disks: loop devices, of which nothing is left however a test ends.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's helpers fail by panicking, and start what they test"
)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use vm::checkout;

const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 512 * MIB;

/// A disk without a name on any filesystem; the device goes with the last file that is open on it.
struct Disk {
    content: File,
    device: PathBuf,
    _open: File,
}

impl Disk {
    fn empty() -> Self {
        Self::of_size(SIZE)
    }

    fn of_size(size: u64) -> Self {
        let content = tempfile::tempfile().unwrap();
        content.set_len(size).unwrap();
        let file = format!("/proc/{}/fd/{}", std::process::id(), content.as_raw_fd());
        let device = output("losetup", &["--find", "--show", "--direct-io=off", &file]);
        let device = PathBuf::from(device.trim());
        let open = File::options()
            .read(true)
            .write(true)
            .open(&device)
            .unwrap();
        // Open as it is, it is detached when it is closed.
        output("losetup", &["--detach", device.to_str().unwrap()]);
        Self {
            content,
            device,
            _open: open,
        }
    }

    fn path(&self) -> &str {
        self.device.to_str().unwrap()
    }

    /// What is on it, as far as it matters: a few MiB at each end.
    fn ends(&self) -> Vec<u8> {
        let mut bytes = vec![0; 8 * usize::try_from(MIB).unwrap()];
        let (start, end) = bytes.split_at_mut(4 * usize::try_from(MIB).unwrap());
        self.content.read_exact_at(start, 0).unwrap();
        self.content.read_exact_at(end, SIZE - 4 * MIB).unwrap();
        bytes
    }

    /// Runs a shell script with the filesystem mounted at `$1`, in a mount namespace of its own.
    fn mounted(&self, script: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("set -e; mount -t xfs {} \"$1\"; {script}", self.path());
        output(
            "unshare",
            &[
                "--mount",
                "sh",
                "-c",
                &script,
                "sh",
                folder.path().to_str().unwrap(),
            ],
        )
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

struct Format {
    run: TempDir,
    output: Output,
}

impl Format {
    fn said(&self) -> String {
        let Output { stdout, stderr, .. } = &self.output;
        String::from_utf8_lossy(&[stdout.as_slice(), stderr].concat()).into_owned()
    }

    fn device(&self) -> Option<PathBuf> {
        self.run.path().join("device").read_link().ok()
    }

    fn assert_refused(&self, words: &[&str]) {
        let said = self.said();
        assert_eq!(self.output.status.code(), Some(1), "{said}");
        assert_eq!(self.device(), None, "a mount would find the disk");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

/// Runs the program as its unit does.
fn format(disks: &str, wait: &str) -> Format {
    let run = tempfile::tempdir().unwrap();
    let point = tempfile::tempdir().unwrap();
    let output = Command::new(checkout("systemd/libexec/docker-storage-format"))
        .args([disks, point.path().to_str().unwrap()])
        .env("DOCKER_STORAGE_RUN", run.path())
        .env("DOCKER_STORAGE_WAIT", wait)
        .output()
        .unwrap();
    // Where it could be made immutable it cannot be removed.
    drop(
        Command::new("chattr")
            .arg("-i")
            .arg(point.path())
            .output()
            .unwrap(),
    );
    Format { run, output }
}

#[test]
fn an_empty_disk_gets_the_filesystem_that_tasks_need() {
    let disk = Disk::empty();
    let done = format(disk.path(), "0");
    assert!(done.output.status.success(), "{}", done.said());
    assert_eq!(done.device().as_deref(), Some(disk.device.as_path()));
    let info =
        disk.mounted("xfs_info \"$1\"; blkid -o value -s LABEL \"$(findmnt -no SOURCE \"$1\")\"");
    for feature in ["crc=1", "reflink=1", "ftype=1", "finobt=1", "docker-tasks"] {
        assert!(info.contains(feature), "{feature} is not in: {info}");
    }
}

#[test]
fn a_second_boot_keeps_what_the_first_one_made() {
    let disk = Disk::empty();
    assert!(format(disk.path(), "0").output.status.success());
    disk.mounted("echo data >\"$1/file\"");
    let again = format(disk.path(), "0");
    assert!(again.output.status.success(), "{}", again.said());
    assert!(again.said().contains("already"), "{}", again.said());
    assert_eq!(again.device().as_deref(), Some(disk.device.as_path()));
    assert_eq!(disk.mounted("cat \"$1/file\""), "data\n");
}

/// Fills a disk, and expects that it is refused and not touched.
fn is_never_formatted(what: &str, fill: impl FnOnce(&Disk)) {
    let disk = Disk::empty();
    fill(&disk);
    output("sync", &[]);
    let before = disk.ends();
    format(disk.path(), "0").assert_refused(&[disk.path(), "left as it is", what]);
    assert!(disk.ends() == before, "the disk with {what} was changed");
}

#[test]
fn a_disk_with_a_filesystem_of_others_is_never_formatted() {
    is_never_formatted("ext4", |disk| {
        output("mkfs.ext4", &["-q", disk.path()]);
    });
    is_never_formatted("xfs backup", |disk| {
        output("mkfs.xfs", &["-q", "-L", "backup", disk.path()]);
    });
    is_never_formatted("xfs", |disk| {
        output("mkfs.xfs", &["-q", disk.path()]);
    });
    is_never_formatted("swap", |disk| {
        output("mkswap", &[disk.path()]);
    });
}

#[test]
fn a_disk_with_partitions_is_never_formatted() {
    is_never_formatted("partition table", |disk| {
        // A DOS partition table with one Linux partition from the second MiB.
        let mut sector = [0; 512];
        sector[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 8, 0]);
        sector[510..].copy_from_slice(&[0x55, 0xAA]);
        disk.content.write_all_at(&sector, 0).unwrap();
    });
}

#[test]
fn a_disk_with_data_that_nobody_knows_is_never_formatted() {
    for place in [0, 4096, MIB - 1, SIZE - 512, SIZE - 1] {
        is_never_formatted("no known filesystem", |disk| {
            disk.content.write_all_at(b"x", place).unwrap();
        });
    }
}

#[test]
fn a_disk_with_two_signatures_is_never_formatted() {
    is_never_formatted("several signatures", |disk| {
        output("mkfs.xfs", &["-q", disk.path()]);
        // What is left of another filesystem behind XFS's own: ext's magic number.
        let rest = Disk::empty();
        output("mkfs.ext4", &["-q", rest.path()]);
        output("sync", &[]);
        let mut superblock = [0; 1024];
        rest.content.read_exact_at(&mut superblock, 1024).unwrap();
        disk.content.write_all_at(&superblock, 1024).unwrap();
    });
}

#[test]
fn a_missing_disk_is_named_with_what_to_do() {
    let missing = "/dev/docker-storage-test-none,/dev/docker-storage-test-neither";
    format(missing, "1").assert_refused(&[
        "docker-storage-test-none",
        "docker-storage-test-neither",
        "after 1 s",
        "DOCKER_STORAGE_DISK",
        "/etc/ecs-runner-host/storage.conf",
    ]);
}

#[test]
fn a_file_in_place_of_a_disk_is_no_disk() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    format(file.path().to_str().unwrap(), "0").assert_refused(&["no disk"]);
}

#[test]
fn the_first_name_that_exists_is_taken_and_a_late_disk_is_waited_for() {
    let disk = Disk::empty();
    let folder = tempfile::tempdir().unwrap();
    let late = folder.path().join("sdf");
    let names = format!("/dev/docker-storage-test-none,{}", late.display());
    let done = std::thread::scope(|scope| {
        let done = scope.spawn(|| format(&names, "60"));
        // udev makes such a link when the kernel has found the disk.
        std::thread::sleep(Duration::from_millis(500));
        symlink(&disk.device, &late).unwrap();
        done.join().unwrap()
    });
    assert!(done.output.status.success(), "{}", done.said());
    // The kernel's name, not the link: what is mounted stays the same when the link changes.
    assert_eq!(done.device().as_deref(), Some(disk.device.as_path()));
}

#[test]
fn a_disk_that_is_too_small_is_refused_by_its_size() {
    let disk = Disk::of_size(100 * MIB);
    format(disk.path(), "0").assert_refused(&["104857600 bytes", "300 MiB"]);
}

#[test]
fn two_at_once_format_a_disk_once() {
    let disk = Disk::empty();
    let done = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| format(disk.path(), "60")));
        both.map(|one| one.join().unwrap())
    });
    assert!(done.iter().all(|one| one.output.status.success()));
    let formatted = done
        .iter()
        .filter(|one| one.said().contains("making an XFS"));
    assert_eq!(formatted.count(), 1);
}

#[test]
fn nothing_can_be_written_where_the_volume_is_not_mounted() {
    // An ext4 of its own, because not every filesystem has the flag.
    let disk = Disk::empty();
    output("mkfs.ext4", &["-q", disk.path()]);
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        set -eu
        mount "$2" "$3" && mkdir "$3/point"
        "$1" /dev/docker-storage-test-none "$3/point" && exit 1
        mkdir "$3/point/task" && exit 1
        mount -t tmpfs tmpfs "$3/point"
        "$1" /dev/docker-storage-test-none "$3/point" && exit 1
        mkdir "$3/point/task"
    "#;
    let program = checkout("systemd/libexec/docker-storage-format");
    let paths = [&program, &disk.device, folder.path()].map(|path: &Path| path.to_str().unwrap());
    let done = Command::new("unshare")
        .args(["--mount", "bash", "-c", script, "bash"])
        .args(paths)
        .env("DOCKER_STORAGE_WAIT", "0")
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}
