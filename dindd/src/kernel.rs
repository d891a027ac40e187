//! What of the host's kernel containers need and a container cannot load or set: modules, sysctls.
//!
//! Owns where each is seen. Nothing here decides whether dindd starts: a module may be part of the
//! kernel without a trace, and what really is missing is told by who needs it.

use std::fs;
use std::path::Path;

/// A module, and a file below `/` that is there when it is; the second, where there is one, too.
const MODULES: [(&str, &str, &str); 6] = [
    (
        "br_netfilter",
        "proc/sys/net/bridge",
        "sys/module/br_netfilter",
    ),
    ("bridge", "sys/module/bridge", ""),
    (
        "nf_conntrack",
        "proc/sys/net/netfilter/nf_conntrack_max",
        "sys/module/nf_conntrack",
    ),
    ("nf_nat", "sys/module/nf_nat", ""),
    ("overlay", "sys/module/overlay", ""),
    ("veth", "sys/module/veth", ""),
];

/// Sysctls, the least that a task needs, and what for. They are the host's to set, or the task
/// definition's (`systemControls`).
const SYSCTLS: [(&str, u64, &str); 3] = [
    ("net/ipv4/ip_forward", 0, "networks; dockerd sets it to 1"),
    (
        "fs/inotify/max_user_instances",
        128,
        "containers that watch files",
    ),
    (
        "fs/inotify/max_user_watches",
        8192,
        "containers that watch files",
    ),
];

/// The modules of which there is no trace.
pub(crate) fn unseen_modules(root: &Path) -> Vec<&'static str> {
    let there = |file: &str| !file.is_empty() && root.join(file).exists();
    let filesystems = fs::read_to_string(root.join("proc/filesystems")).unwrap_or_default();
    let mounts = |name: &str| {
        filesystems
            .lines()
            .any(|line| line.ends_with(&format!("\t{name}")))
    };
    let unseen = MODULES
        .iter()
        .filter(|(name, one, other)| !there(one) && !there(other) && !mounts(name));
    unseen.map(|(name, ..)| *name).collect()
}

/// What the sysctls are, and whether all are enough. With user namespaces there must be some.
pub(crate) fn sysctls(root: &Path, remapped: bool) -> (String, bool) {
    let namespaces = ("user/max_user_namespaces", 1, "DINDD_USERNS");
    let asked = SYSCTLS.into_iter().chain(remapped.then_some(namespaces));
    let mut enough = true;
    let told = asked.map(|(name, least, purpose)| {
        let dotted = name.replace('/', ".");
        let text = fs::read_to_string(root.join("proc/sys").join(name)).unwrap_or_default();
        match text.trim().parse::<u64>() {
            Ok(value) if value >= least => format!("{dotted}={value}"),
            Ok(value) => {
                enough = false;
                format!("{dotted}={value}, set at least {least} on the host for {purpose}")
            }
            Err(_) => {
                enough = false;
                format!("{dotted} is not there, for {purpose}")
            }
        }
    });
    let told = told.collect::<Vec<_>>().join("; ");
    (told, enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_module_without_any_trace_is_named() {
        let root = root(&[
            ("proc/filesystems", "nodev\toverlay\n\txfs\n"),
            ("sys/module/bridge/x", ""),
            ("sys/module/nf_nat/x", ""),
            ("sys/module/br_netfilter/x", ""),
            ("proc/sys/net/netfilter/nf_conntrack_max", "1"),
        ]);
        assert_eq!(unseen_modules(root.path()), ["veth"]);
    }

    #[test]
    fn a_sysctl_that_is_too_small_or_missing_is_told_with_the_least() {
        let root = root(&[
            ("proc/sys/net/ipv4/ip_forward", "1\n"),
            ("proc/sys/fs/inotify/max_user_instances", "64\n"),
            ("proc/sys/fs/inotify/max_user_watches", "8192\n"),
        ]);
        let (told, enough) = sysctls(root.path(), false);
        assert!(
            !enough && told.contains("max_user_instances=64, set at least 128"),
            "{told}"
        );
        fs::write(
            root.path().join("proc/sys/fs/inotify/max_user_instances"),
            "128",
        )
        .unwrap();
        assert!(sysctls(root.path(), false).1);
        let (told, enough) = sysctls(root.path(), true);
        assert!(
            !enough && told.contains("user.max_user_namespaces is not there"),
            "{told}"
        );
    }
}
