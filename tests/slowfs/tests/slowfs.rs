//! The program on a real mount. Needs root and /dev/fuse: `cargo test -p slowfs --features root`.
#![expect(
    clippy::disallowed_methods,
    reason = "a test driver, not the PID 1 of a container; its own temporary folders"
)]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// A folder shown by the program at another.
struct Mount {
    program: Child,
    folder: TempDir,
}

impl Mount {
    fn new(arguments: &[&str]) -> Self {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(folder.path().join("backing")).unwrap();
        fs::create_dir(folder.path().join("shown")).unwrap();
        Self::of(folder, arguments)
    }

    fn of(folder: TempDir, arguments: &[&str]) -> Self {
        let program = start(folder.path(), arguments, Stdio::inherit());
        let mut mount = Self { program, folder };
        wait_until(|| {
            assert_eq!(mount.program.try_wait().unwrap(), None, "it has ended");
            is_mounted(&mount.shown())
        });
        mount
    }

    fn backing(&self) -> PathBuf {
        self.folder.path().join("backing")
    }

    fn shown(&self) -> PathBuf {
        self.folder.path().join("shown")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.program.id().cast_signed()), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(|| {
            status = self.program.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Unmounts, and returns what the program counted.
    fn finish(mut self) -> BTreeMap<String, u64> {
        self.signal(Signal::SIGTERM);
        assert!(self.ended().success());
        self.statistics()
    }

    fn statistics(&self) -> BTreeMap<String, u64> {
        let json = fs::read(self.folder.path().join("stats")).unwrap();
        let all: BTreeMap<String, Value> = serde_json::from_slice(&json).unwrap();
        all.into_iter()
            .map(|(name, number)| (name, number.as_u64().unwrap()))
            .collect()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(self.shown(), UnmountFlags::DETACH).ok();
        drop(self.program.kill());
        drop(self.program.wait());
    }
}

/// The program, which ends when the test is killed.
fn start(folder: &Path, arguments: &[&str], errors: Stdio) -> Child {
    Command::new("setpriv")
        .args(["--pdeathsig", "TERM", env!("CARGO_BIN_EXE_slowfs")])
        .args(arguments)
        .arg("--stats")
        .arg(folder.join("stats"))
        .arg(folder.join("backing"))
        .arg(folder.join("shown"))
        .stderr(errors)
        .spawn()
        .unwrap()
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.to_str().unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path))
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "waited for nothing");
        thread::sleep(Duration::from_millis(5));
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("--archive")
        .arg(from.join("."))
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Everything that a copy must keep of a tree, by path.
fn describe(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let mut text = format!(
                "{:o} {}:{} {}.{:09} {}",
                found.mode(),
                found.uid(),
                found.gid(),
                found.mtime(),
                found.mtime_nsec(),
                found.rdev(),
            );
            if found.is_dir() {
                folders.push(path.clone());
            } else {
                text += &format!(" {} links", found.nlink());
            }
            if found.is_symlink() {
                text += &format!(" -> {:?}", fs::read_link(&path).unwrap());
            }
            if found.is_file() {
                let content = fs::read(&path).unwrap();
                let sum: u64 = (1..)
                    .zip(&content)
                    .map(|(at, byte)| at * u64::from(*byte))
                    .sum();
                text += &format!(" {} bytes, sum {sum}", content.len());
            }
            all.insert(path.strip_prefix(top).unwrap().to_owned(), text);
        }
    }
    all
}

fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (describe(left), describe(right));
    for path in left.keys().chain(right.keys()) {
        assert_eq!(left.get(path), right.get(path), "{}", path.display());
    }
}

fn make_tree(top: &Path) {
    fs::create_dir_all(top.join("empty/deeper")).unwrap();
    fs::write(top.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(top.join("tool"), Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(top.join("tool"), top.join("empty/hard")).unwrap();
    fs::write(top.join("secret"), "s").unwrap();
    fs::set_permissions(top.join("secret"), Permissions::from_mode(0o400)).unwrap();
    std::os::unix::fs::chown(top.join("secret"), Some(1234), Some(4321)).unwrap();
    fs::write(top.join(OsStr::from_bytes(b"not-utf8-\xff\nline")), "u").unwrap();
    fs::write(top.join("large"), vec![7; 3 << 20]).unwrap();
    symlink("tool", top.join("link")).unwrap();
    symlink("nowhere".repeat(40), top.join("dangling")).unwrap();
    let status = Command::new("mknod")
        .arg(top.join("device"))
        .args(["c", "300", "70000"])
        .status();
    assert!(status.unwrap().success());
    for number in 0..300 {
        fs::write(top.join("empty/deeper").join(number.to_string()), "").unwrap();
    }
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
    let ancient = SystemTime::UNIX_EPOCH - Duration::new(1000, 500_000_000);
    for (name, time) in [("tool", old), ("empty", old), ("large", ancient)] {
        let file = File::open(top.join(name)).unwrap();
        file.set_modified(time).unwrap();
    }
}

#[test]
fn a_tree_that_is_copied_through_it_is_the_same() {
    let tree = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    make_tree(tree.path());
    let mount = Mount::new(&["--lat-us", "100", "--slots", "64"]);
    copy(tree.path(), &mount.shown());
    assert_same(&mount.shown(), tree.path());
    assert_same(&mount.backing(), tree.path());
}

#[test]
fn a_tree_that_is_copied_from_it_is_the_same() {
    let target = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mount = Mount::new(&[]);
    make_tree(&mount.backing());
    copy(&mount.shown(), target.path());
    assert_same(target.path(), &mount.backing());
}

#[test]
fn every_request_is_counted_by_its_kind() {
    let mount = Mount::new(&[]);
    let shown = mount.shown();
    fs::create_dir(shown.join("folder")).unwrap();
    fs::write(shown.join("folder/file"), "12345").unwrap();
    fs::rename(shown.join("folder/file"), shown.join("file")).unwrap();
    symlink("file", shown.join("link")).unwrap();
    fs::hard_link(shown.join("file"), shown.join("hard")).unwrap();
    fs::remove_file(shown.join("file")).unwrap();
    fs::remove_dir(shown.join("folder")).unwrap();
    let counts = mount.finish();
    for kind in [
        "mkdir", "create", "write", "flush", "rename", "symlink", "link", "unlink", "rmdir",
    ] {
        assert_eq!(counts.get(kind), Some(&1), "{kind} of {counts:?}");
    }
    assert_eq!(counts["bytes_w"], 5);
    assert_eq!(counts["bytes_r"], 0);
    let sums = ["rpc_total", "bytes_r", "bytes_w", "max_inflight"];
    let kinds = counts.iter().filter(|(name, _)| !sums.contains(&&***name));
    let total: u64 = kinds.map(|(_, count)| count).sum();
    assert_eq!(counts["rpc_total"], total);
}

#[test]
fn nothing_is_counted_when_nothing_is_asked() {
    assert_eq!(Mount::new(&[]).finish()["rpc_total"], 0);
}

#[test]
fn what_the_kernel_remembers_is_asked_once() {
    let mount = Mount::new(&[]);
    fs::write(mount.backing().join("file"), "x").unwrap();
    for _ in 0..10 {
        fs::metadata(mount.shown().join("file")).unwrap();
    }
    assert_eq!(mount.finish()["lookup"], 1);
}

#[test]
fn each_request_takes_its_latency() {
    let mount = Mount::new(&["--lat-us", "20000"]);
    let begin = Instant::now();
    for number in 0..10 {
        fs::create_dir(mount.shown().join(number.to_string())).unwrap();
    }
    let took = begin.elapsed();
    let counts = mount.finish();
    let latency = u32::try_from(counts["rpc_total"]).unwrap() * Duration::from_millis(20);
    assert!(took >= latency, "{counts:?} took {took:?}");
    assert_eq!(counts["mkdir"], 10);
}

#[test]
fn a_request_does_not_wait_for_another() {
    let mount = Mount::new(&["--lat-w-us", "3000000"]);
    for name in ["one", "other"] {
        fs::create_dir(mount.backing().join(name)).unwrap();
    }
    let slow = mount.shown().join("one/slow");
    let slow = thread::spawn(move || fs::create_dir(slow).unwrap());
    // It was carried out, and its answer is held back.
    wait_until(|| mount.backing().join("one/slow").exists());
    fs::write(mount.backing().join("other/file"), "x").unwrap();
    let read = fs::read(mount.shown().join("other/file")).unwrap();
    assert!(!slow.is_finished(), "it was answered first");
    assert_eq!(read, b"x");
    slow.join().unwrap();
}

#[test]
fn no_more_requests_are_under_way_than_there_are_slots() {
    for (slots, most) in [("0", 6), ("2", 2)] {
        let mount = Mount::new(&["--lat-us", "500000", "--slots", slots]);
        thread::scope(|scope| {
            for number in 0..6 {
                let path = mount.shown().join(number.to_string());
                scope.spawn(move || fs::metadata(path).unwrap_err());
            }
        });
        let counts = mount.finish();
        assert_eq!(counts["lookup"], 6);
        assert_eq!(counts["max_inflight"], most, "with {slots} slots");
    }
}

#[test]
fn an_open_file_can_be_renamed_and_removed() {
    let mount = Mount::new(&[]);
    let (one, two) = (mount.shown().join("one"), mount.shown().join("two"));
    fs::write(&one, "first ").unwrap();
    let mut file = File::options().append(true).open(&one).unwrap();
    fs::rename(&one, &two).unwrap();
    file.write_all(b"second").unwrap();
    assert_eq!(fs::read(&two).unwrap(), b"first second");
    let mut open = File::open(&two).unwrap();
    fs::remove_file(&two).unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "first second");
}

#[test]
fn a_file_keeps_its_other_names() {
    let mount = Mount::new(&["--ttl-s", "0"]);
    let (one, two) = (mount.shown().join("one"), mount.shown().join("two"));
    fs::write(&one, "text").unwrap();
    fs::hard_link(&one, &two).unwrap();
    fs::remove_file(&two).unwrap();
    assert_eq!(fs::read(&one).unwrap(), b"text");
}

#[test]
fn what_an_unprivileged_user_makes_is_that_users() {
    let mount = Mount::new(&[]);
    fs::set_permissions(mount.backing(), Permissions::from_mode(0o777)).unwrap();
    let status = Command::new("setpriv")
        .args([
            "--reuid",
            "1234",
            "--regid",
            "4321",
            "--clear-groups",
            "mkdir",
        ])
        .arg("made")
        .current_dir(mount.shown())
        .status();
    assert!(status.unwrap().success());
    let made = fs::metadata(mount.backing().join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 4321));
}

#[test]
fn a_request_fails_as_it_is_told_and_the_others_do_not() {
    let mount = Mount::new(&["--fault", "mkdir=ENOSPC", "--fault", "rename=ESTALE"]);
    let shown = mount.shown();
    fs::write(shown.join("file"), "text").unwrap();
    let error = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    assert_eq!(error(fs::create_dir(shown.join("folder"))), 28);
    assert_eq!(
        error(fs::rename(shown.join("file"), shown.join("other"))),
        116
    );
    assert_eq!(fs::read(shown.join("file")).unwrap(), b"text");
    assert_eq!(fs::read_dir(mount.backing()).unwrap().count(), 1);
}

#[test]
fn a_lost_answer_is_that_of_a_request_that_was_carried_out() {
    let mount = Mount::new(&["--fault", "link=lost"]);
    fs::write(mount.shown().join("one"), "text").unwrap();
    let linked = fs::hard_link(mount.shown().join("one"), mount.shown().join("two"));
    assert_eq!(linked.unwrap_err().raw_os_error(), Some(5));
    assert_eq!(fs::read(mount.backing().join("two")).unwrap(), b"text");
}

#[test]
fn who_waits_for_a_request_that_hangs_cannot_be_killed_until_it_ends() {
    let mut mount = Mount::new(&["--fault", "mkdir=hang"]);
    let mut waiting = Command::new("mkdir")
        .arg(mount.shown().join("folder"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = format!("/proc/{}/stat", waiting.id());
    let asleep = |letter: &str| fs::read_to_string(&state).unwrap().contains(letter);
    wait_until(|| mount.backing().join("folder").exists() && asleep(") S"));
    waiting.kill().unwrap();
    wait_until(|| asleep(") D"));
    assert_eq!(waiting.try_wait().unwrap(), None);
    mount.signal(Signal::SIGKILL);
    assert!(!mount.ended().success());
    assert!(!waiting.wait().unwrap().success());
}

#[test]
fn umount_ends_it_and_it_writes_its_statistics() {
    let mut mount = Mount::new(&[]);
    fs::create_dir(mount.shown().join("folder")).unwrap();
    wait_until(|| unmount(mount.shown(), UnmountFlags::empty()).is_ok());
    assert!(mount.ended().success());
    assert_eq!(mount.statistics()["mkdir"], 1);
}

#[test]
fn a_signal_unmounts_also_when_a_file_is_open_which_can_be_used_to_its_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut mount = Mount::new(&["--lat-us", "1000"]);
        let mut file = File::create(mount.shown().join("file")).unwrap();
        mount.signal(signal);
        wait_until(|| !is_mounted(&mount.shown()));
        file.write_all(b"after").unwrap();
        drop(file);
        assert!(mount.ended().success());
        assert_eq!(mount.statistics()["create"], 1);
        assert_eq!(fs::read(mount.backing().join("file")).unwrap(), b"after");
    }
}

#[test]
fn what_a_killed_one_left_is_named_with_the_remedy() {
    let mut mount = Mount::new(&[]);
    mount.signal(Signal::SIGKILL);
    assert!(!mount.ended().success());
    let next = start(mount.folder.path(), &[], Stdio::piped());
    let output = next.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let remedy = format!("umount {}", mount.shown().display());
    assert!(error.contains(&remedy), "{error}");
    assert!(!output.status.success());
}
