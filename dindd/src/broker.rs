//! The process that mounts filesystems for jobs: what the filter asks about ends here.
//!
//! Owns the judgement, and the mounting. A job may mount what stays its own: tmpfs, overlay, proc,
//! network filesystems. It may not mount disks, which are the host's, nor what belongs to the whole
//! machine: cgroup v1 and `binfmt_misc`, by which the kernel starts programs outside of every
//! container, devtmpfs, debugfs and their like. Nor may it change the options of a filesystem that
//! others have mounted as well: those of the storage volume are its neighbours' too.
//!
//! Allowing a call after a look at its arguments would be no use: they are in the caller's memory,
//! and another thread can change them in between. So the broker never lets such a call pass. It
//! copies the arguments, enters the caller's namespaces and folders in a child, and mounts by
//! itself what it has read. It lives outside of dockerd's PID namespace, where no job can reach it.
//!
//! The kernel tells nothing about a process that is not dumpable, and its mounts are refused. One
//! in a user namespace of its own is let pass: there the kernel mounts nothing that is dangerous.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use init::exit_code;
use init::log::Format;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::statfs::{
    CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, PROC_SUPER_MAGIC,
    SYSFS_MAGIC, TMPFS_MAGIC,
};
use nix::unistd::{ForkResult, fork};
use tracing::{error, warn};

use crate::errand::Errand;
use crate::privileges;

/// The hidden command.
pub(crate) const NAME: &str = "mounts";

/// What a job may mount (fs/*, `file_system_type.name`). A filesystem that needs a block device is
/// not among them, and neither is one that a container cannot have for itself.
const MAY_MOUNT: [&str; 18] = [
    "9p",
    "bpf",
    "ceph",
    "cgroup2",
    "cifs",
    "devpts",
    "fuse",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfs",
    "nfs4",
    "overlay",
    "proc",
    "ramfs",
    "smb3",
    "sysfs",
    "tmpfs",
];

/// What a job may remount: filesystems of which each namespace or container has one of its own.
const MAY_CHANGE: [FsType; 7] = [
    CGROUP2_SUPER_MAGIC,
    DEVPTS_SUPER_MAGIC,
    MQUEUE_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    TMPFS_MAGIC,
];

/// linux/ipc/mqueue.c.
const MQUEUE_MAGIC: FsType = FsType(0x1980_0202);

/// What the caller is told.
pub(crate) enum Answer {
    /// What the broker's own mount came to.
    Done(Result<(), Errno>),
    /// The kernel decides as it does for everybody.
    Pass,
}

/// A call that waits for its answer.
pub(crate) struct Call<'a> {
    listener: BorrowedFd<'a>,
    asked: libc::seccomp_notif,
}

/// Answers until nobody is left who could ask; the code to exit with. The listener is standard
/// input; dindd tells how to log.
pub(crate) fn run(format: Format, level: &str) -> u8 {
    let begun = init::log::start(format, level)
        .and_then(|()| privileges::hide())
        .and_then(|()| Ok(leave_children_to_the_kernel()?));
    match begun.and_then(|()| Ok(serve(io::stdin().as_fd())?)) {
        Ok(()) => exit_code::DONE,
        Err(cause) => {
            error!("cannot supervise mounts: {cause:#}");
            exit_code::UNEXPECTED
        }
    }
}

/// Each call has a child of its own, which answers by itself.
fn leave_children_to_the_kernel() -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "there is no safe wrapper of signal(2)")]
    // SAFETY: ignoring is no handler that could do harm.
    unsafe {
        signal(Signal::SIGCHLD, SigHandler::SigIgn).map(drop)
    }
}

fn serve(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        let mut events = [PollFd::new(listener, PollFlags::POLLIN)];
        match poll(&mut events, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let happened = events[0].revents().unwrap_or(PollFlags::empty());
        if !happened.contains(PollFlags::POLLIN) {
            // The last process with the filter is gone.
            return Ok(());
        }
        let Some(call) = Call::receive(listener)? else {
            continue;
        };
        #[expect(
            unsafe_code,
            reason = "a call may wait, and must not keep others waiting"
        )]
        // SAFETY: this process has one thread.
        let forked = unsafe { fork() };
        match forked {
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => {
                call.attend();
                end();
            }
            Err(cause) => call.answer(Answer::Done(Err(cause))),
        }
    }
}

/// Ends a child without what a program does at its end.
pub(crate) fn end() -> ! {
    #[expect(unsafe_code, reason = "there is no safe wrapper of _exit(2)")]
    // SAFETY: it only ends the process.
    unsafe {
        libc::_exit(0)
    }
}

impl<'a> Call<'a> {
    fn receive(listener: BorrowedFd<'a>) -> Result<Option<Self>, Errno> {
        #[expect(unsafe_code, reason = "there is no safe wrapper of this ioctl")]
        // SAFETY: the kernel wants zeros, for which the structure is valid, and fills it.
        let (done, asked) = unsafe {
            let mut asked: libc::seccomp_notif = std::mem::zeroed();
            let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
            let done = libc::ioctl(listener.as_raw_fd(), request, &raw mut asked);
            (done, asked)
        };
        match Errno::result(done) {
            Ok(_) => Ok(Some(Self { listener, asked })),
            // The caller was killed in between.
            Err(Errno::ENOENT | Errno::EINTR) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    fn attend(&self) {
        let caller = Caller(self.asked.pid);
        if caller.is_in_a_user_namespace() || !caller.may_mount() {
            self.answer(Answer::Pass);
            return;
        }
        let arguments = self.asked.data.args;
        let errand = match Errand::read(self.asked.pid, &arguments) {
            Ok(errand) => errand,
            Err(cause) => return self.answer(Answer::Done(Err(cause))),
        };
        if let Some(kind) = errand.kind().filter(|kind| !may_mount(kind)) {
            warn!(
                filesystem = %kind.to_string_lossy(),
                "a job was refused to mount a filesystem of the host"
            );
            return self.answer(Answer::Done(Err(Errno::EPERM)));
        }
        // Whoever was read is still the one who asks: its number was not given to another.
        if self.still_waits() {
            errand.run(may_change, |done| self.answer(Answer::Done(done)));
        }
    }

    fn still_waits(&self) -> bool {
        #[expect(unsafe_code, reason = "there is no safe wrapper of this ioctl")]
        // SAFETY: the kernel reads the number.
        let done = unsafe {
            let request = libc::SECCOMP_IOCTL_NOTIF_ID_VALID;
            libc::ioctl(self.listener.as_raw_fd(), request, &raw const self.asked.id)
        };
        done == 0
    }

    fn answer(&self, answer: Answer) {
        let (error, flags) = match answer {
            Answer::Done(Ok(())) => (0, 0),
            Answer::Done(Err(cause)) => (-(cause as i32), 0),
            Answer::Pass => (0, 1), // SECCOMP_USER_NOTIF_FLAG_CONTINUE
        };
        let response = libc::seccomp_notif_resp {
            id: self.asked.id,
            val: 0,
            error,
            flags,
        };
        #[expect(unsafe_code, reason = "there is no safe wrapper of this ioctl")]
        // SAFETY: the kernel reads the structure. A caller that is gone wants no answer.
        unsafe {
            let request = libc::SECCOMP_IOCTL_NOTIF_SEND;
            libc::ioctl(self.listener.as_raw_fd(), request, &raw const response);
        }
    }
}

fn may_mount(kind: &std::ffi::CStr) -> bool {
    let name = kind.to_str().unwrap_or_default();
    // A filesystem may have subtypes: "fuse.sshfs".
    let name = name.split('.').next().unwrap_or_default();
    MAY_MOUNT.contains(&name)
}

fn may_change(kind: FsType) -> bool {
    let may = MAY_CHANGE.contains(&kind);
    if !may {
        warn!("a job was refused to change the options of a filesystem of the host");
    }
    may
}

/// What everybody may know of a thread; it does not change while the thread waits.
struct Caller(u32);

impl Caller {
    fn read(&self, file: &str) -> String {
        let mut text = String::new();
        let path = format!("/proc/{}/{file}", self.0);
        // What cannot be read is judged as if nothing were known.
        File::open(path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .ok();
        text
    }

    /// Seen from here its users are others than ours, or they look the same in another namespace:
    /// its capabilities mean nothing outside of that.
    fn is_in_a_user_namespace(&self) -> bool {
        let ours = Caller(std::process::id());
        let users = self.read("uid_map");
        let other_users = !users.is_empty() && users != ours.read("uid_map");
        other_users
            || self
                .user_namespace()
                .is_some_and(|number| Some(number) != ours.user_namespace())
    }

    /// Its number, if the process is one that tells.
    fn user_namespace(&self) -> Option<u64> {
        let link = format!("/proc/{}/ns/user", self.0);
        std::fs::metadata(link).ok().map(|found| found.ino())
    }

    /// Whether it has `SYS_ADMIN`.
    fn may_mount(&self) -> bool {
        capabilities(&self.read("status")) & 1 << 21 != 0
    }
}

/// The capabilities in force (proc(5), `/proc/[pid]/status`).
pub(crate) fn capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_may_mount_what_is_its_own_and_nothing_of_the_host() {
        for (kind, may) in [
            (c"tmpfs", true),
            (c"overlay", true),
            (c"proc", true),
            (c"fuse.sshfs", true),
            (c"xfs", false),
            (c"ext4", false),
            (c"erofs", false),
            (c"fuseblk", false),
            (c"devtmpfs", false),
            (c"cgroup", false),
            (c"binfmt_misc", false),
            (c"tracefs", false),
            (c"", false),
        ] {
            assert_eq!(may_mount(kind), may, "{kind:?}");
        }
    }

    #[test]
    fn a_job_may_change_what_nobody_else_has_mounted() {
        assert!(may_change(TMPFS_MAGIC) && may_change(OVERLAYFS_SUPER_MAGIC));
        for shared in [
            libc::EXT4_SUPER_MAGIC,
            libc::XFS_SUPER_MAGIC,
            libc::NFS_SUPER_MAGIC,
        ] {
            assert!(!may_change(FsType(shared)), "{shared:x}");
        }
    }

    #[test]
    fn who_is_in_our_user_namespace_is_not_in_another() {
        assert!(!Caller(std::process::id()).is_in_a_user_namespace());
        // A process that is gone tells nothing.
        assert_eq!(Caller(u32::MAX).user_namespace(), None);
    }

    #[test]
    fn who_has_no_sys_admin_is_seen_in_its_status() {
        assert_eq!(
            capabilities("Name:\tx\nCapEff:\t00000000a82435fb\n") >> 21 & 1,
            1
        );
        assert_eq!(
            capabilities("Name:\tx\nCapEff:\t00000000a80435fb\n") >> 21 & 1,
            0
        );
        assert_eq!(capabilities(""), 0);
    }
}
