//! Keeps runc's child inspectable for runc where a container joins another's namespaces.
//!
//! That child makes itself undumpable first, against processes that are in those namespaces already
//! (runc `libcontainer/nsenter/nsexec.c`), and from 1.2 on runc opens the child's mount namespace
//! (`libcontainer/process_linux.go`, `goCreateMountSources`), for which it then needs `SYS_PTRACE`.
//! A filter lets the call succeed without effect, for this runc and the container that it makes.
//! All who could be in those namespaces are the task's own.

use nix::errno::Errno;
use nix::libc::{self, sock_filter};

use crate::seccomp::{
    self, AARCH64, ARCH, ARGUMENTS, CALL, X86_64, instruction, load_word, skip_unless,
};

const OURS: u32 = if cfg!(target_arch = "aarch64") {
    AARCH64
} else {
    X86_64
};

/// Filters `prctl(PR_SET_DUMPABLE, 0)` for this process and all that it becomes and starts.
///
/// # Errors
/// When the kernel takes no filter.
pub(super) fn keep() -> Result<(), Errno> {
    seccomp::load(0, &mut program()).map(drop)
}

fn program() -> Vec<sock_filter> {
    // The number fits: it is the kernel's own, and small.
    let prctl = u32::try_from(libc::SYS_prctl).unwrap_or_default();
    let dumpable = u32::try_from(libc::PR_SET_DUMPABLE).unwrap_or_default();
    // The lower halves of the arguments: both supported architectures are little endian.
    let wanted = [
        (ARCH, OURS),
        (CALL, prctl),
        (ARGUMENTS, dumpable),
        (ARGUMENTS + 8, 0),
    ];
    let mut program = Vec::new();
    for (number, (offset, value)) in (1_u8..).zip(wanted) {
        // Past the other comparisons and the refusal, to the last instruction.
        let to_the_end = (4 - number) * 2 + 1;
        program.extend([load_word(offset), skip_unless(value, to_the_end)]);
    }
    let answer = libc::BPF_RET | libc::BPF_K;
    // An error of 0: it was not done, and succeeds.
    program.push(instruction(answer, libc::SECCOMP_RET_ERRNO, 0));
    program.push(instruction(answer, libc::SECCOMP_RET_ALLOW, 0));
    program
}
