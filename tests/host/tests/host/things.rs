//! What a driver has on the machine, as the machine sees it.

use std::fs;
use std::path::PathBuf;

/// Something on the machine that must go with its host.
#[derive(Debug)]
pub(crate) enum Thing {
    Folder(PathBuf),
    /// A file of sysfs and what is in it while the device has this backing file.
    Loop(PathBuf, String),
    /// A process and when it started.
    Process(u32, String),
}

impl Thing {
    pub(crate) fn loop_device(path: &str) -> Self {
        let name = path.strip_prefix("/dev/").unwrap();
        let file = PathBuf::from(format!("/sys/block/{name}/loop/backing_file"));
        let backing = fs::read_to_string(&file).unwrap();
        Thing::Loop(file, backing)
    }

    fn process(pid: u32) -> Option<Self> {
        Some(Thing::Process(pid, start_time(pid)?))
    }

    /// A process's command line.
    pub(crate) fn command(&self) -> String {
        let Thing::Process(pid, _) = self else {
            return String::new();
        };
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.replace('\0', " ")
    }

    pub(crate) fn exists(&self) -> bool {
        match self {
            Thing::Folder(path) => path.exists(),
            Thing::Loop(file, backing) => fs::read_to_string(file).is_ok_and(|now| now == *backing),
            Thing::Process(pid, start) => start_time(*pid).as_ref() == Some(start),
        }
    }
}

fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)
        .map(Into::into)
}

pub(crate) fn descendants(pid: u32) -> Vec<Thing> {
    let mut found = Vec::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return found;
    };
    for task in tasks.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .map(|child| child.parse().unwrap())
        {
            found.extend(Thing::process(child));
            found.extend(descendants(child));
        }
    }
    found
}

pub(crate) fn cgroups_of(driver: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroup2 = mounts
        .lines()
        .rfind(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .unwrap();
    let entries = fs::read_dir(cgroup2.split(' ').nth(1).unwrap()).unwrap();
    let prefix = format!("testhost-{driver}-");
    let ours = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(&prefix)
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(ours)
        .collect()
}
