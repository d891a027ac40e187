//! Drivers in processes of their own, to be killed or interrupted.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use testhost::{Host, Options, Plan, prepare};

use crate::things::{Thing, cgroups_of, descendants};
use crate::{disk, say, until};

/// First argument by which this executable is a driver that waits for its end.
pub(crate) const DRIVER: &str = "driver-that-waits";
/// First argument by which this executable is a driver that makes a disk in the cache folder named
/// by the second.
pub(crate) const PREPARER: &str = "driver-that-prepares";

/// A driver that ends with the test, also when the test fails or is killed.
#[derive(Debug)]
pub(crate) struct Driver {
    child: Child,
    /// Its end is the driver's sign that the test is gone. (`Child::wait` would close it.)
    _lifeline: ChildStdin,
}

impl Driver {
    /// Starts this executable with `arguments`; returns it with the lines of its output.
    pub(crate) fn start(arguments: &[&str]) -> (Self, impl Iterator<Item = String> + use<>) {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let _lifeline = child.stdin.take().unwrap();
        (Self { child, _lifeline }, lines.map(Result::unwrap))
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    /// Sends SIGINT and waits for the end; its exit code.
    pub(crate) fn interrupt(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-INT", &pid]).status();
        assert!(kill.unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// In a driver: ends it at once when the test that started it is gone.
fn end_with_the_test() {
    std::thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::abort();
    });
}

/// Starts a driver that makes a disk; returns it in the midst of debootstrap with all that it has.
pub(crate) fn start_preparer(cache: &tempfile::TempDir) -> (Driver, Vec<Thing>) {
    let (driver, mut lines) = Driver::start(&[PREPARER, cache.path().to_str().unwrap()]);
    assert!(lines.any(|line| line.starts_with("debootstrap")));
    let mut things = Vec::new();
    until("debootstrap runs", || {
        things = descendants(driver.child.id());
        things
            .iter()
            .any(|thing| thing.command().contains("debootstrap --variant"))
    });
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let device = format!("/dev/{}", entry.file_name().display());
        let file = entry.path().join("loop/backing_file");
        if fs::read_to_string(file)
            .is_ok_and(|file| file.starts_with(cache.path().to_str().unwrap()))
        {
            things.push(Thing::loop_device(&device));
        }
    }
    assert!(things.iter().any(|thing| matches!(thing, Thing::Loop(..))));
    (driver, things)
}

pub(crate) fn driver_that_prepares() -> ExitCode {
    testhost::watch_signals().unwrap();
    end_with_the_test();
    let cache = PathBuf::from(std::env::args().nth(2).unwrap());
    let plan = Plan {
        cache,
        ..Plan::default()
    };
    let tell = |step: &str| writeln!(std::io::stdout().lock(), "{step}").unwrap();
    match prepare(&plan, &tell) {
        Err(error) if error.to_string().contains("interrupted") => ExitCode::from(3),
        other => {
            say(&format!("{other:?}"));
            ExitCode::from(4)
        }
    }
}

/// Starts a driver with a host, a volume and a container; returns it with all that it has.
pub(crate) fn start_driver() -> (Driver, Vec<Thing>) {
    let (driver, mut lines) = Driver::start(&[DRIVER]);
    let mut things: Vec<_> = lines
        .by_ref()
        .take_while(|line| line != "up")
        .map(|line| Thing::loop_device(&line))
        .collect();
    assert_eq!(things.len(), 2, "the disk and a volume");
    let processes = descendants(driver.child.id());
    // First process, PID 1, janitor, dockerd, containerd, shim, the container's sleep.
    assert!(processes.len() >= 7, "{processes:?}");
    things.extend(processes);
    let cgroups = cgroups_of(driver.child.id());
    assert_eq!(cgroups.len(), 1);
    things.extend(cgroups.into_iter().map(Thing::Folder));
    for thing in &things {
        assert!(thing.exists(), "{thing:?}");
    }
    (driver, things)
}

/// The driver: tells its loop devices, then waits for its end. With arguments for dockerd: tells
/// what is left after its boot failed.
pub(crate) fn driver_that_waits() -> ExitCode {
    testhost::watch_signals().unwrap();
    end_with_the_test();
    let options = Options {
        dockerd_arguments: std::env::args().skip(2).collect(),
        ..Options::default()
    };
    let mut out = std::io::stdout().lock();
    let mut host = match Host::boot(&disk(), &options) {
        Ok(host) => host,
        Err(error) => {
            writeln!(out, "{error:#}").unwrap();
            writeln!(out, "processes {:?}", descendants(std::process::id())).unwrap();
            writeln!(out, "cgroups {:?}", cgroups_of(std::process::id())).unwrap();
            return ExitCode::from(4);
        }
    };
    host.volume("one", 1 << 30).unwrap();
    host.run([
        "docker",
        "run",
        "-d",
        "-v",
        "/ebs/one:/v",
        "debian:trixie-slim",
        "sleep",
        "9876",
    ])
    .unwrap();
    let devices = host
        .run(["df", "--output=source", "/", "/ebs/one"])
        .unwrap();
    for device in devices.lines().skip(1) {
        writeln!(out, "{device}").unwrap();
    }
    writeln!(out, "up").unwrap();
    let waited = host.run(["sleep", "infinity"]);
    assert!(waited.unwrap_err().to_string().contains("interrupted") || testhost::interrupted());
    drop(host);
    ExitCode::from(3)
}
