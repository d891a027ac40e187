//! Owns the question what is in a host that was not there after its boot.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::boot::Host;
use crate::cgroup;
use crate::interrupt;
use crate::mounts::{MountLine, parse_mountinfo};
use crate::process::until;

/// Cgroups that dockerd keeps when no container is left: its parent folder for containers and
/// BuildKit's in it.
const OWN_CGROUPS: [&str; 3] = [cgroup::LEAF, "docker", "docker/buildkit"];

/// Where dockerd keeps its own network namespace mounted once a container used it.
const OWN_MOUNT: &str = "/run/docker/netns/default";

/// How long what ends of its own accord may take.
const SETTLE: Duration = Duration::from_secs(3);

/// As many entries of a volume are named at most.
const ENTRIES: usize = 200;

/// What was left, by kind, each by its name. Empty everywhere when nothing was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Containers in any state: `name (image, state)`.
    pub containers: Vec<String>,
    /// Mount points other than the host's own, its volumes and its binds.
    pub mounts: Vec<String>,
    /// Processes other than PID 1, dockerd and containerd: `pid command line`.
    pub processes: Vec<String>,
    pub network_devices: Vec<String>,
    /// Cgroup folders, relative to the host's root.
    pub cgroups: Vec<String>,
    /// Files and folders on volumes, by their path in the host.
    pub volume_entries: Vec<String>,
    /// On the machine after the end: loop devices, cgroups, processes, or why the end failed.
    pub machine: Vec<String>,
}

impl Leftovers {
    /// Whether nothing was left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, names)| names.is_empty())
    }

    fn kinds(&self) -> [(&'static str, &Vec<String>); 7] {
        [
            ("container", &self.containers),
            ("mount", &self.mounts),
            ("process", &self.processes),
            ("network device", &self.network_devices),
            ("cgroup", &self.cgroups),
            ("on a volume", &self.volume_entries),
            ("on the machine", &self.machine),
        ]
    }

    /// What is there and stays: the kernel and dockerd tidy up a moment after they have answered.
    pub(crate) fn inside(host: &Host) -> Result<Self> {
        let mut seen = Self::look(host);
        until(SETTLE, || {
            if seen.as_ref().map_or(true, Self::nothing_runs) || interrupt::interrupted() {
                return true;
            }
            seen = Self::look(host);
            false
        });
        seen
    }

    /// Whether all that is left are files.
    fn nothing_runs(&self) -> bool {
        let files = &self.volume_entries;
        self.kinds()
            .iter()
            .all(|(_, names)| names.is_empty() || std::ptr::eq(*names, files))
    }

    fn look(host: &Host) -> Result<Self> {
        let now = Baseline::of(host)?;
        let baseline = host.baseline();
        let list = "{{.Names}} ({{.Image}}, {{.State}})";
        let containers = host.run(["docker", "ps", "--all", "--format", list])?;
        let mounts = now
            .mounts
            .difference(&baseline.mounts)
            .map(|line| line.point.clone());
        Ok(Self {
            containers: containers.lines().map(Into::into).collect(),
            mounts: mounts.filter(|point| point != OWN_MOUNT).collect(),
            processes: processes(host)?,
            network_devices: now.devices.difference(&baseline.devices).cloned().collect(),
            cgroups: cgroup::below(&host.cgroup.path)
                .iter()
                .map(|path| path.display().to_string())
                .filter(|path| !OWN_CGROUPS.contains(&path.as_str()))
                .collect(),
            volume_entries: host
                .volumes
                .iter()
                .flat_map(|volume| entries(host, volume))
                .collect(),
            machine: Vec::new(),
        })
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing left");
        }
        let mut lines = Vec::new();
        for (kind, names) in self.kinds() {
            lines.extend(names.iter().map(|name| format!("left: {kind}: {name}")));
        }
        f.write_str(&lines.join("\n"))
    }
}

/// A volume of the host.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) path: PathBuf,
}

/// What the host itself has mounted and which network devices it has.
#[derive(Debug, Default)]
pub(crate) struct Baseline {
    mounts: BTreeSet<MountLine>,
    devices: BTreeSet<String>,
}

impl Baseline {
    pub(crate) fn of(host: &Host) -> Result<Self> {
        let devices = fs::read_dir(host.path("/sys/class/net")).context("list network devices")?;
        let name = |entry: fs::DirEntry| entry.file_name().display().to_string();
        Ok(Self {
            mounts: mounts(host.pid)?,
            devices: devices.flatten().map(name).collect(),
        })
    }

    /// Adds a mount of the driver's at `point`, with what is mounted below it now: a bind brings
    /// that along.
    pub(crate) fn own_mount(&mut self, pid: i32, point: &Path) -> Result<()> {
        let below = |line: &MountLine| Path::new(&line.point).starts_with(point);
        self.mounts.extend(mounts(pid)?.into_iter().filter(below));
        Ok(())
    }
}

fn mounts(pid: i32) -> Result<BTreeSet<MountLine>> {
    let path = format!("/proc/{pid}/mountinfo");
    let text = fs::read_to_string(&path).context("the host has ended")?;
    Ok(parse_mountinfo(&text).into_iter().collect())
}

fn processes(host: &Host) -> Result<Vec<String>> {
    let proc = host.path("/proc");
    let read = |pid: i32, file: &str| fs::read(proc.join(pid.to_string()).join(file));
    let dockerd = fs::read_to_string(host.path("/run/docker.pid")).unwrap_or_default();
    let dockerd: Option<i32> = dockerd.trim().parse().ok();
    let entries = fs::read_dir(&proc).context("the host has ended")?;
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let describe = |pid: i32| {
        let stat = String::from_utf8_lossy(&read(pid, "stat").ok()?).into_owned();
        let (name, state, parent) = name_state_and_parent(&stat)?;
        let own = pid == 1
            || Some(pid) == dockerd
            // About to be reaped.
            || (state == "Z" && parent == Some(1))
            || (name == "containerd" && parent.is_some() && parent == dockerd);
        let line = read(pid, "cmdline").ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let line = if line.is_empty() {
            format!("[{name}]")
        } else {
            line.trim_end().to_owned()
        };
        (!own).then(|| format!("{pid} {line}"))
    };
    Ok(pids.filter_map(describe).collect())
}

/// From `/proc/PID/stat`, proc_pid_stat(5).
fn name_state_and_parent(stat: &str) -> Option<(&str, &str, Option<i32>)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut fields = after.split_whitespace();
    Some((name, fields.next()?, fields.next()?.parse().ok()))
}

/// What is on a volume, depth first, as the host would name it.
fn entries(host: &Host, volume: &Volume) -> Vec<String> {
    let top = host.path(&volume.path);
    let mut found = Vec::new();
    let mut open = vec![top.clone()];
    while let Some(folder) = open.pop() {
        let Ok(list) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in list.flatten() {
            if found.len() == ENTRIES {
                return found;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
            let relative = entry.path();
            let relative = relative.strip_prefix(&top).unwrap_or(&relative);
            found.push(volume.path.join(relative).display().to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_left_says_so_and_a_leftover_is_named_with_its_kind() {
        let mut left = Leftovers::default();
        assert!(left.is_empty());
        assert_eq!(left.to_string(), "nothing left");
        left.mounts.push("/x".into());
        left.machine.push("loop device /dev/loop1".into());
        assert!(!left.is_empty());
        assert_eq!(
            left.to_string(),
            "left: mount: /x\nleft: on the machine: loop device /dev/loop1"
        );
    }

    #[test]
    fn a_process_name_may_have_parentheses_and_spaces() {
        assert_eq!(
            name_state_and_parent("7 (a) b (c) S 3 7"),
            Some(("a) b (c", "S", Some(3)))
        );
    }
}
