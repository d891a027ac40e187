//! Sysctls that no job may write, whatever its capabilities.
//!
//! Owns their list, and the BPF program that refuses them to this container's cgroup. A job that
//! has a writable `/proc`, which is part of `--privileged`, could name a program of its own by
//! them, and the kernel would start it as root outside of every container. Everything else stays
//! writable: jobs set up networks by sysctls.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use crate::bpf::{self, Program, Width};

/// Those by which the kernel starts a program (kernel.org `sysctl/kernel.rst`).
const STARTING_PROGRAMS: [&str; 4] = [
    "kernel/core_pattern",
    "kernel/hotplug",
    "kernel/modprobe",
    "kernel/poweroff_cmd",
];

/// `bpf_sysctl_get_name` (linux/bpf.h).
const GET_NAME: u32 = 101;
/// Where the name is on the stack, and how long it may be.
const BUFFER: i16 = 32;

const ALLOW: u32 = 1;
const REFUSE: u32 = 0;

/// Refuses them to every process of the cgroup, now and later.
///
/// # Errors
/// When the kernel does not take the program; it does from 5.2 on, if it has cgroup BPF.
pub(crate) fn refuse(cgroup: &Path) -> Result<()> {
    let cgroup = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
    bpf::watch_sysctls(&cgroup, &program())
}

/// What is called with a `struct bpf_sysctl`: whether the sysctl is written comes first.
fn program() -> Program {
    let mut program = Program::default();
    let allow = program.label();
    program.load(Width::Word, 2, 1, 0);
    program.if_is(2, 0, allow);
    for at in (-BUFFER..0).step_by(8) {
        program.clear(10, at);
    }
    program.address(2, 10, -BUFFER);
    program.set(3, u32::from(BUFFER.unsigned_abs()));
    program.set(4, 0);
    program.call(GET_NAME);
    for name in STARTING_PROGRAMS {
        let next = program.label();
        for (part, at) in eights(name).into_iter().zip((-BUFFER..0).step_by(8)) {
            program.load(Width::Double, 2, 10, at);
            program.set_double(3, part);
            program.if_differ(2, 3, next);
        }
        program.end(REFUSE);
        program.here(next);
    }
    program.here(allow);
    program.end(ALLOW);
    program
}

/// A name with its end, as the machine loads eight bytes at a time.
fn eights(name: &str) -> Vec<u64> {
    let with_end: Vec<u8> = name.bytes().chain([0]).collect();
    let eight = |part: &[u8]| {
        let mut bytes = [0; 8];
        bytes[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(bytes)
    };
    with_end.chunks(8).map(eight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_compared_with_its_end_in_eights() {
        assert_eq!(eights("abc"), [u64::from_le_bytes(*b"abc\0\0\0\0\0")]);
        assert_eq!(eights("12345678").len(), 2);
        let longest = STARTING_PROGRAMS
            .iter()
            .map(|name| eights(name).len() * 8)
            .max();
        assert!(longest <= Some(usize::from(BUFFER.unsigned_abs())));
    }
}
