//! The seccomp filter that dockerd and every job inherit.
//!
//! Owns which calls are refused, and which are asked about. A job with `SYS_ADMIN`, which is what
//! `--privileged` comes to here, could ask the kernel for things that do not stop at its
//! namespaces:
//!
//! * Mounting the volume by its device: Linux gives out a filesystem that is mounted already
//!   without opening the device, so the device cgroup is never asked (fs/super.c, `get_tree_bdev`).
//!   Making block devices is refused. A node can come from elsewhere (devtmpfs, a file server), so
//!   every mount of a filesystem is asked about; see [`crate::broker`]. `fsopen`, the newer way to
//!   the same, does not exist here: its callers fall back to `mount`.
//! * Changing the options of a filesystem that neighbours use as well. A remount of anything but a
//!   mount's own flags is asked about, and `fspick` does not exist either.
//! * Opening any inode of the volume by a handle: `open_by_handle_at`, and XFS's ioctls, which also
//!   freeze or shut down the whole volume for everybody.
//! * Changing its quota, or its neighbours'.
//! * Fetching the BPF programs that guard its cgroup by their numbers, and tracing the machine.
//!
//! Refused with EPERM, for every architecture that the kernel runs beside its own. dockerd makes
//! one block device itself, to set quotas; without it, it has no say in the quotas of its
//! neighbours (moby `daemon/internal/quota/projectquota.go`).

use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc::{self, sock_filter};

use crate::seccomp::{
    self, AARCH64, ARCH, ARGUMENTS, ARM, CALL, I386, X86_64, instruction, load_word, skip_unless,
};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse(Errno),
    /// The broker decides.
    Ask,
}

/// When an argument, masked, has a value.
#[derive(Clone, Copy)]
struct When {
    argument: u32,
    mask: u32,
    value: u32,
}

/// The first rule that fits decides.
#[derive(Clone, Copy)]
struct Rule {
    call: u32,
    when: Option<When>,
    verdict: Verdict,
}

/// One architecture's numbers; 0 where it has no such call.
struct Calls {
    arch: u32,
    /// Set in all its numbers.
    bit: u32,
    mknod: u32,
    mknodat: u32,
    mount: u32,
    ioctl: u32,
    open_by_handle_at: u32,
    quotactl: u32,
    bpf: u32,
}

/// The bit that marks x32 calls on x86-64 (asm/unistd.h, `__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;
const OURS: u32 = if cfg!(target_arch = "aarch64") {
    AARCH64
} else {
    X86_64
};

/// The same number everywhere (asm-generic/unistd.h).
const FSOPEN: u32 = 430;
const FSPICK: u32 = 433;
const QUOTACTL_FD: u32 = 443;
const FILE_SETATTR: u32 = 469;

const fn calls(arch: u32, bit: u32, numbers: [u32; 7]) -> Calls {
    let [
        mknod,
        mknodat,
        mount,
        ioctl,
        open_by_handle_at,
        quotactl,
        bpf,
    ] = numbers;
    Calls {
        arch,
        bit,
        mknod,
        mknodat,
        mount,
        ioctl,
        open_by_handle_at,
        quotactl,
        bpf,
    }
}

const CALLS: [Calls; 5] = [
    calls(X86_64, 0, [133, 259, 165, 16, 304, 179, 321]),
    calls(X86_64, X32, [133, 259, 165, 514, 304, 179, 321]),
    calls(I386, 0, [14, 297, 21, 54, 342, 131, 357]),
    calls(AARCH64, 0, [0, 33, 40, 29, 265, 60, 280]),
    calls(ARM, 0, [14, 324, 21, 54, 371, 131, 386]),
];

// Flags of mount(2) that make it something else than a mount of a filesystem, in the order in which
// the kernel looks at them (fs/namespace.c, `path_mount`). The upper half does not count when it is
// the magic of the oldest kernels.
const REMOUNT: u32 = 0x20;
const BIND: u32 = 0x1000;
const MOVE: u32 = 0x2000;
const PROPAGATION: [u32; 4] = [1 << 17, 1 << 18, 1 << 19, 1 << 20];
const UPPER_HALF: u32 = 0xffff_0000;
const MAGIC: u32 = 0xc0ed_0000;

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` (linux/fs.h): attributes, and the project that a
/// quota counts.
const GET_ATTRIBUTES: u32 = 0x801c_581f;
const SET_ATTRIBUTES: u32 = 0x401c_5820;
/// The letter of XFS's ioctls, and of those that freeze and shut down (linux/fs.h).
const XFS_IOCTLS: (u32, u32) = (0xff00, 0x5800);
/// `PERF_EVENT_IOC_SET_BPF` (linux/perf_event.h).
const SET_TRACER: u32 = 0x4004_2408;
/// `BPF_PROG_GET_FD_BY_ID`, `RAW_TRACEPOINT_OPEN`, `LINK_CREATE`, `LINK_GET_FD_BY_ID` (linux/bpf.h).
const BPF_REFUSED: [u32; 4] = [13, 17, 28, 30];

/// Filters this process, all its threads, and everything that it starts. With `quota`, files also
/// stay in the project that they were made in.
///
/// What is returned receives the questions. There is none when somebody further out, such as the
/// dindd that this one is nested in, receives them already: the kernel has one for a process.
///
/// # Errors
/// When the kernel has no seccomp filters, or takes none from us.
pub(crate) fn install(quota: bool) -> Result<Option<OwnedFd>> {
    let threads = libc::SECCOMP_FILTER_FLAG_TSYNC;
    let asking =
        threads | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // So that a signal does not repeat a mount that was made; kernels from 5.19 on.
    let once = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let mut done = seccomp::load(asking | once, &mut program(quota, Verdict::Ask));
    if done == Err(Errno::EINVAL) {
        done = seccomp::load(asking, &mut program(quota, Verdict::Ask));
    }
    let listener = match done {
        Err(Errno::EBUSY) => {
            seccomp::load(threads, &mut program(quota, Verdict::Allow))
                .context("cannot filter system calls (seccomp)")?;
            return Ok(None);
        }
        other => other.context("cannot filter and supervise system calls (seccomp)")?,
    };
    #[expect(unsafe_code, reason = "the call's result is a new descriptor")]
    // SAFETY: the kernel has just made it, and nobody else knows it.
    let listener = unsafe { OwnedFd::from_raw_fd(listener) };
    Ok(Some(listener))
}

impl Calls {
    fn rules(&self, quota: bool, mounts: Verdict) -> Vec<Rule> {
        let refuse = Verdict::Refuse(Errno::EPERM);
        let mut all = Vec::new();
        let mut rule = |call: u32, when: Option<(u32, u32, u32)>, verdict| {
            let when = when.map(|(argument, mask, value)| When {
                argument,
                mask,
                value,
            });
            if call != 0 {
                let call = self.bit | call;
                all.push(Rule {
                    call,
                    when,
                    verdict,
                });
            }
        };
        let block = |argument| Some((argument, libc::S_IFMT, libc::S_IFBLK));
        rule(self.mknod, block(1), refuse);
        rule(self.mknodat, block(2), refuse);
        // The flags of one mount.
        let own = REMOUNT | BIND;
        rule(self.mount, Some((3, own, own)), Verdict::Allow);
        // The broker speaks the machine's own language only.
        let native = self.arch == OURS && self.bit == 0;
        let mounts = if mounts == Verdict::Ask && !native {
            refuse
        } else {
            mounts
        };
        rule(self.mount, Some((3, REMOUNT, REMOUNT)), mounts);
        for flag in [BIND, MOVE] {
            rule(self.mount, Some((3, flag, flag)), Verdict::Allow);
        }
        rule(self.mount, Some((3, UPPER_HALF, MAGIC)), mounts);
        for flag in PROPAGATION {
            rule(self.mount, Some((3, flag, flag)), Verdict::Allow);
        }
        rule(self.mount, None, mounts);
        for call in [FSOPEN, FSPICK] {
            rule(call, None, Verdict::Refuse(Errno::ENOSYS));
        }
        rule(self.open_by_handle_at, None, refuse);
        rule(self.quotactl, None, refuse);
        rule(QUOTACTL_FD, None, refuse);
        let whole = |argument, value| Some((argument, u32::MAX, value));
        rule(self.ioctl, whole(1, GET_ATTRIBUTES), Verdict::Allow);
        if quota {
            rule(FILE_SETATTR, None, Verdict::Refuse(Errno::ENOSYS));
        } else {
            rule(self.ioctl, whole(1, SET_ATTRIBUTES), Verdict::Allow);
        }
        let (mask, value) = XFS_IOCTLS;
        rule(self.ioctl, Some((1, mask, value)), refuse);
        rule(self.ioctl, whole(1, SET_TRACER), refuse);
        for command in BPF_REFUSED {
            rule(self.bpf, whole(0, command), refuse);
        }
        all
    }
}

/// A section for each architecture, in it a block for each rule; what no rule fits is allowed.
fn program(quota: bool, mounts: Verdict) -> Vec<sock_filter> {
    let mut program = Vec::new();
    for calls in &CALLS {
        let section: Vec<_> = calls
            .rules(quota, mounts)
            .into_iter()
            .flat_map(block)
            .collect();
        let length = u32::try_from(section.len()).unwrap_or(u32::MAX);
        program.extend([
            load_word(ARCH),
            skip_unless(calls.arch, 1),
            // Past the jump over the section.
            instruction(libc::BPF_JMP | libc::BPF_JA, 1, 0),
            instruction(libc::BPF_JMP | libc::BPF_JA, length, 0),
        ]);
        program.extend(section);
    }
    program.push(verdict(Verdict::Allow));
    program
}

fn block(rule: Rule) -> Vec<sock_filter> {
    let mut tail = Vec::new();
    if let Some(when) = rule.when {
        tail.extend([
            // The lower half: both supported architectures are little endian.
            load_word(ARGUMENTS + 8 * when.argument),
            instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, when.mask, 0),
            skip_unless(when.value, 1),
        ]);
    }
    tail.push(verdict(rule.verdict));
    let length = u8::try_from(tail.len()).unwrap_or(u8::MAX);
    let mut block = vec![load_word(CALL), skip_unless(rule.call, length)];
    block.extend(tail);
    block
}

fn verdict(verdict: Verdict) -> sock_filter {
    let value = match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Refuse(error) => libc::SECCOMP_RET_ERRNO | (error as i32).cast_unsigned(),
        Verdict::Ask => libc::SECCOMP_RET_USER_NOTIF,
    };
    instruction(libc::BPF_RET | libc::BPF_K, value, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call: a small interpreter of the instructions used.
    fn run(program: &[sock_filter], arch: u32, call: u32, arguments: [u32; 4]) -> u32 {
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
                0x05 => at += usize::try_from(k).unwrap(),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const ASKED: u32 = libc::SECCOMP_RET_USER_NOTIF;
    const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | 38;

    #[test]
    fn what_does_not_stop_at_namespaces_is_refused_and_nothing_else() {
        let program = program(false, Verdict::Ask);
        for (arch, call, arguments, expected) in [
            (X86_64, 133, [0, libc::S_IFBLK | 0o600, 0, 0], REFUSED),
            (X86_64, 133, [0, libc::S_IFCHR | 0o600, 0, 0], ALLOWED),
            (X86_64, 259, [0, 0, libc::S_IFBLK, 0], REFUSED),
            (X86_64, 259, [0, 0, libc::S_IFIFO, 0], ALLOWED),
            (X86_64, X32 | 259, [0, 0, libc::S_IFBLK, 0], REFUSED),
            (X86_64, 321, [13, 0, 0, 0], REFUSED),
            (X86_64, 321, [5, 0, 0, 0], ALLOWED),
            (X86_64, 304, [0; 4], REFUSED),
            (X86_64, 179, [0; 4], REFUSED),
            (X86_64, 443, [0; 4], REFUSED),
            (X86_64, 430, [0; 4], UNKNOWN),
            (X86_64, 433, [0; 4], UNKNOWN),
            // XFS_IOC_OPEN_BY_HANDLE, FIFREEZE, FICLONE, TCGETS.
            (X86_64, 16, [3, 0xc038_586b, 0, 0], REFUSED),
            (X86_64, 16, [3, 0xc004_5877, 0, 0], REFUSED),
            (X86_64, 16, [3, 0x4004_9409, 0, 0], ALLOWED),
            (X86_64, 16, [3, 0x5401, 0, 0], ALLOWED),
            (X86_64, 16, [3, SET_ATTRIBUTES, 0, 0], ALLOWED),
            (X86_64, 0, [0; 4], ALLOWED),
            (I386, 14, [0, libc::S_IFBLK, 0, 0], REFUSED),
            (I386, 133, [0, libc::S_IFBLK, 0, 0], ALLOWED),
            (AARCH64, 33, [0, 0, libc::S_IFBLK, 0], REFUSED),
            (AARCH64, 0, [0, libc::S_IFBLK, 0, 0], ALLOWED),
            (ARM, 324, [0, 0, libc::S_IFBLK, 0], REFUSED),
        ] {
            let found = run(&program, arch, call, arguments);
            assert_eq!(found, expected, "{arch:#x} {call} {arguments:x?}");
        }
    }

    #[test]
    fn mounts_and_remounts_of_filesystems_are_asked_about_and_other_mounts_are_not() {
        let mount = |flags| [0, 0, 0, flags];
        let asking = program(false, Verdict::Ask);
        let (ours, foreign) = match OURS {
            AARCH64 => ((AARCH64, 40), (ARM, 21)),
            _ => ((X86_64, 165), (I386, 21)),
        };
        for (flags, asked) in [
            (0, true),
            (0xe, true),              // nosuid, nodev, noexec
            (1 << 24, true),          // strictatime
            (MAGIC | 0xe, true),      // has the bits of propagation, which do not count
            (MAGIC | 1 << 20, false), // not the magic any more
            (0x20, true),
            (MAGIC | 0x21, true),
            (0x20 | 0x2000, true), // a remount: the kernel looks at that first
            (0x20 | 0x1000, false),
            (0x1000 | 0x4000, false),
            (0x2000, false),
            (1 << 18 | 0x4000, false),
        ] {
            let (arch, call) = ours;
            let expected = if asked { ASKED } else { ALLOWED };
            let found = run(&asking, arch, call, mount(flags));
            assert_eq!(found, expected, "{flags:#x}");
            let expected = if asked { REFUSED } else { ALLOWED };
            let found = run(&asking, foreign.0, foreign.1, mount(flags));
            assert_eq!(found, expected, "{flags:#x} of another architecture");
        }
        let nested = program(false, Verdict::Allow);
        assert_eq!(run(&nested, ours.0, ours.1, mount(0)), ALLOWED);
    }

    #[test]
    fn with_a_quota_files_stay_in_their_project() {
        let program = program(true, Verdict::Ask);
        let ioctl = |command| run(&program, X86_64, 16, [3, command, 0, 0]);
        assert_eq!(ioctl(SET_ATTRIBUTES), REFUSED);
        assert_eq!(ioctl(GET_ATTRIBUTES), ALLOWED);
        assert_eq!(run(&program, X86_64, FILE_SETATTR, [0; 4]), UNKNOWN);
    }

    #[test]
    fn the_numbers_are_those_of_this_architecture() {
        let ours = CALLS.iter().find(|calls| calls.arch == OURS).unwrap();
        for (number, expected) in [
            (ours.mknodat, libc::SYS_mknodat),
            (ours.mount, libc::SYS_mount),
            (ours.ioctl, libc::SYS_ioctl),
            (ours.open_by_handle_at, libc::SYS_open_by_handle_at),
            (ours.quotactl, libc::SYS_quotactl),
            (ours.bpf, libc::SYS_bpf),
            (FSOPEN, libc::SYS_fsopen),
            (FSPICK, libc::SYS_fspick),
            (QUOTACTL_FD, libc::SYS_quotactl_fd),
        ] {
            assert_eq!(libc::c_long::from(number.cast_signed()), expected);
        }
    }
}
