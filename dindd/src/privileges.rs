//! The capabilities that dindd needs, and keeping other processes out of its own.

use std::fs;

use anyhow::{Context, Result, bail};

/// Number in linux/capability.h, name.
const NEEDED: [(u32, &str); 2] = [(12, "NET_ADMIN"), (21, "SYS_ADMIN")];
const SYS_PTRACE: u32 = 19;

/// The needed capabilities that this process does not have.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn missing() -> Result<Vec<&'static str>> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    missing_in(&status).context("/proc/self/status has no CapEff line")
}

/// Refuses user namespaces for containers without what runc needs to arrange them.
///
/// # Errors
/// Names the capability and the setting.
pub(crate) fn require_tracing() -> Result<()> {
    if may_trace() {
        return Ok(());
    }
    bail!(
        "DINDD_USERNS=on needs the capability SYS_PTRACE, with which runc arranges user \
         namespaces; add it to the container, or leave DINDD_USERNS off"
    )
}

/// Whether this process may look into others whatever their user is.
pub(crate) fn may_trace() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status).is_some_and(|set| set & (1 << SYS_PTRACE) != 0)
}

/// Refuses to run with less than is needed.
///
/// # Errors
/// Names what is missing and where it is added.
pub(crate) fn require() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the capability {} is missing; run as root and add it to the container: \
         linuxParameters.capabilities.add in the task definition, --cap-add with docker run",
        missing.join(" and ")
    )
}

/// Makes `/proc/<pid>/{root,fd,ns,mem}` of this process inaccessible to processes that have no
/// `SYS_PTRACE`: it sees the whole storage volume, and jobs must not (ptrace(2), proc(5)).
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn hide() -> Result<()> {
    nix::sys::prctl::set_dumpable(false).context("cannot make the process undumpable")
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_in(status: &str) -> Option<Vec<&'static str>> {
    let effective = effective(status)?;
    let lacks = |number: u32| effective & (1 << number) == 0;
    Some(
        NEEDED
            .iter()
            .filter(|(number, _)| lacks(*number))
            .map(|(_, name)| *name)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        for (effective, expected) in [
            // Docker's defaults and the two, as a container has them.
            ("00000000a82435fb", Some(vec![])),
            ("00000000a80425fb", Some(vec!["NET_ADMIN", "SYS_ADMIN"])),
            ("00000000a80435fb", Some(vec!["SYS_ADMIN"])),
            ("none", None),
        ] {
            let status = format!("Name:\tdindd\nCapEff:\t{effective}\nCapBnd:\t0\n");
            assert_eq!(missing_in(&status), expected, "{effective}");
        }
    }
}
