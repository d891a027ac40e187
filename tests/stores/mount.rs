//! A trial's store behind `slowfs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};

use crate::harness::{Ended, Trial, make_unit, runner_user, wait_until};

/// A store that is mounted. Dropping it ends every request that waits for it.
pub(crate) struct Mounted {
    program: Child,
    shown: PathBuf,
    statistics: PathBuf,
}

impl Mounted {
    /// Shows the trial's folder `store` as `mounted`, with these options of `slowfs`.
    pub(crate) fn store(trial: &Trial, options: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_supervisor")).with_file_name("slowfs");
        assert!(
            program.exists(),
            "{} is missing: make build",
            program.display()
        );
        let (shown, statistics) = (trial.path("mounted"), trial.path("statistics"));
        fs::create_dir_all(&shown).unwrap();
        let program = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(program)
            .args(options)
            .arg("--stats")
            .arg(&statistics)
            .arg(trial.path("store"))
            .arg(&shown)
            .spawn()
            .unwrap();
        let mounted = Self {
            program,
            shown,
            statistics,
        };
        // Asking the store itself would wait for one that hangs.
        wait_until("the store is mounted", || mounted.is_there());
        mounted
    }

    fn is_there(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        points.any(|point| Path::new(point) == self.shown)
    }

    /// Unmounts; how many requests there were.
    pub(crate) fn requests(mut self) -> u64 {
        kill(
            Pid::from_raw(self.program.id().cast_signed()),
            Signal::SIGTERM,
        )
        .unwrap();
        assert!(self.program.wait().unwrap().success());
        let all: serde_json::Value =
            serde_json::from_slice(&fs::read(&self.statistics).unwrap()).unwrap();
        all["rpc_total"].as_u64().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.shown, MntFlags::MNT_DETACH).ok();
        drop(self.program.kill());
        drop(self.program.wait());
    }
}

/// A trial whose store has a pack and a loose file, all of it the runner's.
pub(crate) fn trial() -> Trial {
    let mut trial = Trial::new();
    let seed = |name: &str| trial.path("seed").join(name);
    make_unit(&seed("tools"), "packed/1.0.0/x64", "packed");
    fs::create_dir(seed("npm")).unwrap();
    fs::write(seed("npm/old"), "old").unwrap();
    command(&trial, "publish", ("store", "seed"));
    // The memory of it would be that of a restore.
    fs::remove_dir_all(trial.path("seed")).unwrap();
    give(&trial.path("store"));
    let roots = ["tools", "npm"].map(|name| trial.path(name).display().to_string());
    trial.set("CACHE_ROOTS", roots.join(":"));
    trial.set("CACHE_STORE", trial.path("mounted").display());
    trial
}

/// Runs a cache command on the folders `tools` and `npm` in `local`.
pub(crate) fn command(trial: &Trial, name: &str, (store, local): (&str, &str)) -> Ended {
    let path = |name: &str| trial.path(name).display().to_string();
    let (tools, npm) = (format!("{local}/tools"), format!("{local}/npm"));
    let (store, tools, npm) = (path(store), path(&tools), path(&npm));
    let words = ["cache", name, "--store", &store, "--root", &tools, &npm];
    trial.start(&words).end()
}

fn give(path: &Path) {
    let user = User::from_name(&runner_user()).unwrap().unwrap();
    chown(path, Some(user.uid), Some(user.gid)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}
