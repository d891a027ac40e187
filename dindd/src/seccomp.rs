//! Filters of system calls: the instructions that ours are made of, and loading one.
//!
//! What is filtered is [`crate::filter`]'s and [`crate::runc`]'s.

use nix::errno::Errno;
use nix::libc::{self, sock_filter, sock_fprog};

// `AUDIT_ARCH_*` (linux/audit.h): the machine's ELF number, 64 bits, little endian.
pub(crate) const X86_64: u32 = 0xc000_003e;
pub(crate) const I386: u32 = 0x4000_0003;
pub(crate) const AARCH64: u32 = 0xc000_00b7;
pub(crate) const ARM: u32 = 0x4000_0028;

// Offsets in struct seccomp_data (linux/seccomp.h).
pub(crate) const CALL: u32 = 0;
pub(crate) const ARCH: u32 = 4;
pub(crate) const ARGUMENTS: u32 = 16;

/// Loads a filter for this thread and all that it becomes and starts; what the call returns.
///
/// # Errors
/// When the kernel takes no filter, or not with these flags.
pub(crate) fn load(flags: libc::c_ulong, program: &mut [sock_filter]) -> Result<i32, Errno> {
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
            flags,
            &raw const filter,
        )
    };
    Errno::result(done).map(|done| i32::try_from(done).unwrap_or(-1))
}

/// Loads a word of the call that is judged.
pub(crate) fn load_word(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0)
}

/// Skips instructions unless the word is `value`.
pub(crate) fn skip_unless(value: u32, skipped: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, skipped)
}

/// `skipped` instructions are skipped when a comparison fails.
pub(crate) fn instruction(code: u32, k: u32, skipped: u8) -> sock_filter {
    // Every code fits: they are at most 0xff.
    sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt: 0,
        jf: skipped,
        k,
    }
}
