//! The seccomp filter that dockerd and every job inherit: no block devices.
//!
//! Owns two refusals. A job that may mount (`--privileged`) could make the node of the disk that
//! the storage volume is on and mount it: the kernel opens no device for a filesystem that is
//! mounted already, so the container's device cgroup is never asked (fs/super.c, `get_tree_bdev`).
//! And it could fetch the device cgroup's own program by its number to put another in its place.
//! Both are refused here with EPERM, for every architecture that the kernel runs beside its own.
//!
//! dockerd makes one block device itself, to set quotas; without it, it has no say in the quotas of
//! its neighbours (moby `daemon/internal/quota/projectquota.go`).

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc::{self, sock_filter, sock_fprog};

/// One refusal: on this architecture, this call, when this argument says so.
#[derive(Clone, Copy)]
struct Refusal {
    arch: u32,
    call: u32,
    argument: u32,
    mask: u32,
    value: u32,
}

// `AUDIT_ARCH_*` (linux/audit.h): the machine's ELF number, 64 bits, little endian.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;
/// The bit that marks x32 calls on x86-64 (asm/unistd.h, `__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;

/// `BPF_PROG_GET_FD_BY_ID` (linux/bpf.h).
const GET_PROGRAM: u32 = 13;

/// Architecture, then the numbers of mknod (0 where there is none), mknodat and bpf.
const CALLS: [(u32, u32, u32, u32); 5] = [
    (X86_64, 133, 259, 321),
    (X86_64, X32 | 133, X32 | 259, X32 | 321),
    (I386, 14, 297, 357),
    (AARCH64, 0, 33, 280),
    (ARM, 14, 324, 386),
];

/// Refuses block devices to this process, all its threads, and everything that it starts.
///
/// # Errors
/// When the kernel has no seccomp filters, or takes none from us.
pub(crate) fn refuse_block_devices() -> Result<()> {
    let mut program = program(&refusals());
    let filter = sock_fprog {
        len: u16::try_from(program.len()).context("the filter is too long")?,
        filter: program.as_mut_ptr(),
    };
    #[expect(unsafe_code, reason = "no crate of ours has seccomp")]
    // SAFETY: filter points to len valid instructions, which the kernel copies and checks.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const filter,
        )
    };
    Errno::result(done)
        .map(drop)
        .context("cannot refuse block devices to jobs (seccomp)")
}

fn refusals() -> Vec<Refusal> {
    let mut all = Vec::new();
    for (arch, mknod, mknodat, bpf) in CALLS {
        let block = |call, argument| Refusal {
            arch,
            call,
            argument,
            mask: libc::S_IFMT,
            value: libc::S_IFBLK,
        };
        if mknod != 0 {
            all.push(block(mknod, 1));
        }
        all.push(block(mknodat, 2));
        let (argument, mask, value) = (0, u32::MAX, GET_PROGRAM);
        all.push(Refusal {
            arch,
            call: bpf,
            argument,
            mask,
            value,
        });
    }
    all
}

// Offsets in struct seccomp_data (linux/seccomp.h).
const CALL: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A block of eight instructions for each refusal; what none refuses is allowed.
fn program(refusals: &[Refusal]) -> Vec<sock_filter> {
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0);
    let skip_unless =
        |value, skipped| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, skipped);
    let verdict = |value| instruction(libc::BPF_RET | libc::BPF_K, value, 0);
    let mut program = Vec::new();
    for refusal in refusals {
        // The lower half of the argument: both supported architectures are little endian.
        let argument = ARGUMENTS + 8 * refusal.argument;
        program.extend([
            load(ARCH),
            skip_unless(refusal.arch, 6),
            load(CALL),
            skip_unless(refusal.call, 4),
            load(argument),
            instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, refusal.mask, 0),
            skip_unless(refusal.value, 1),
            verdict(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        ]);
    }
    program.push(verdict(libc::SECCOMP_RET_ALLOW));
    program
}

/// `skipped` instructions are skipped when a comparison fails.
fn instruction(code: u32, k: u32, skipped: u8) -> sock_filter {
    // Every code fits: they are at most 0xff.
    sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt: 0,
        jf: skipped,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call: a small interpreter of the instructions used.
    fn verdict(program: &[sock_filter], arch: u32, call: u32, arguments: [u32; 3]) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let sock_filter { code, jf, k, .. } = program[at];
            at += 1;
            match u32::from(code) {
                0x20 => {
                    accumulator = match k {
                        CALL => call,
                        ARCH => arch,
                        _ => arguments[usize::try_from((k - ARGUMENTS) / 8).unwrap()],
                    }
                }
                0x54 => accumulator &= k,
                0x15 => at += if accumulator == k { 0 } else { usize::from(jf) },
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn block_devices_and_foreign_programs_are_refused_and_nothing_else() {
        let program = program(&refusals());
        let refused = libc::SECCOMP_RET_ERRNO | 1;
        let allowed = libc::SECCOMP_RET_ALLOW;
        for (arch, call, arguments, expected) in [
            (X86_64, 133, [0, libc::S_IFBLK | 0o600, 0], refused),
            (X86_64, 133, [0, libc::S_IFCHR | 0o600, 0], allowed),
            (X86_64, 259, [0, 0, libc::S_IFBLK], refused),
            (X86_64, 259, [0, 0, libc::S_IFIFO], allowed),
            (X86_64, X32 | 259, [0, 0, libc::S_IFBLK], refused),
            (X86_64, 321, [13, 0, 0], refused),
            (X86_64, 321, [5, 0, 0], allowed),
            (I386, 14, [0, libc::S_IFBLK, 0], refused),
            (I386, 133, [0, libc::S_IFBLK, 0], allowed),
            (AARCH64, 33, [0, 0, libc::S_IFBLK], refused),
            (AARCH64, 0, [0, libc::S_IFBLK, 0], allowed),
            (ARM, 324, [0, 0, libc::S_IFBLK], refused),
        ] {
            let found = verdict(&program, arch, call, arguments);
            assert_eq!(found, expected, "{arch:#x} {call} {arguments:?}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_this_architecture() {
        let ours = if cfg!(target_arch = "aarch64") {
            AARCH64
        } else {
            X86_64
        };
        let (_, _, mknodat, bpf) = CALLS.into_iter().find(|(arch, ..)| *arch == ours).unwrap();
        assert_eq!(libc::c_long::from(mknodat.cast_signed()), libc::SYS_mknodat);
        assert_eq!(libc::c_long::from(bpf.cast_signed()), libc::SYS_bpf);
    }
}
