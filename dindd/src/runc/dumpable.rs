//! Keeps runc's child inspectable for runc where a container joins another's namespaces.
//!
//! That child makes itself undumpable first, against processes that are in those namespaces already
//! (runc `libcontainer/nsenter/nsexec.c`), and from 1.2 on runc opens the child's mount namespace
//! (`libcontainer/process_linux.go`, `goCreateMountSources`), for which it then needs `SYS_PTRACE`.
//! A filter lets the call succeed without effect, for this runc and the container that it makes.
//! All who could be in those namespaces are the task's own.

use nix::errno::Errno;
use nix::libc::{self, sock_filter, sock_fprog};

/// `AUDIT_ARCH_*` (linux/audit.h).
const ARCH: u32 = if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    0xc000_003e
};

// Offsets in struct seccomp_data (linux/seccomp.h); the lower halves of the arguments.
const CALL_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const FIRST_AT: u32 = 16;
const SECOND_AT: u32 = 24;

/// Filters `prctl(PR_SET_DUMPABLE, 0)` for this process and all that it becomes and starts.
///
/// # Errors
/// When the kernel takes no filter.
pub(super) fn keep() -> Result<(), Errno> {
    let mut program = program();
    let filter = sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_mut_ptr(),
    };
    #[expect(unsafe_code, reason = "no crate of ours has seccomp")]
    // SAFETY: filter points to len valid instructions, which the kernel copies and checks.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    };
    Errno::result(done).map(drop)
}

fn program() -> Vec<sock_filter> {
    // The number fits: it is the kernel's own, and small.
    let prctl = u32::try_from(libc::SYS_prctl).unwrap_or_default();
    let dumpable = u32::try_from(libc::PR_SET_DUMPABLE).unwrap_or_default();
    let wanted = [
        (ARCH_AT, ARCH),
        (CALL_AT, prctl),
        (FIRST_AT, dumpable),
        (SECOND_AT, 0),
    ];
    let mut program = Vec::new();
    for (number, (offset, value)) in (1_u8..).zip(wanted) {
        // Past the other comparisons and the refusal, to the last instruction.
        let to_the_end = (4 - number) * 2 + 1;
        program.push(instruction(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            offset,
            0,
        ));
        let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        program.push(instruction(equals, value, to_the_end));
    }
    let answer = libc::BPF_RET | libc::BPF_K;
    // An error of 0: it was not done, and succeeds.
    program.push(instruction(answer, libc::SECCOMP_RET_ERRNO, 0));
    program.push(instruction(answer, libc::SECCOMP_RET_ALLOW, 0));
    program
}

fn instruction(code: u32, k: u32, unless: u8) -> sock_filter {
    sock_filter {
        // Every code is below 256.
        code: u16::try_from(code).unwrap_or_default(),
        jt: 0,
        jf: unless,
        k,
    }
}
