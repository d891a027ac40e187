//! One mount or remount, made in a caller's place.
//!
//! Owns reading the call's arguments, entering the caller's namespaces and folders, and the mount
//! itself. Does not judge what may be mounted or changed; see [`crate::broker`].

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{ForkResult, chroot, fchdir, fork};

use crate::broker::end;

/// The longest argument: a page (fs/namespace.c, `copy_mount_options`).
const LONGEST: usize = 4096;

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h).
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// A call of mount(2), and where it is made.
pub(crate) struct Errand {
    source: Option<CString>,
    target: CString,
    /// A remount has one already, and need not name it.
    kind: CString,
    flags: libc::c_ulong,
    data: Option<CString>,
    place: Place,
}

/// Where a caller is. Every descriptor was opened before anything is entered.
struct Place {
    root: OwnedFd,
    /// Where relative paths begin; the target itself, when it was told as a descriptor.
    here: OwnedFd,
    mounts: OwnedFd,
    network: OwnedFd,
    ipc: OwnedFd,
    cgroups: OwnedFd,
    processes: OwnedFd,
    capabilities: u64,
}

impl Errand {
    /// Copies what the thread has asked for.
    ///
    /// # Errors
    /// What the kernel would say of such arguments; EPERM for a process that cannot be read.
    pub(crate) fn read(thread: u32, arguments: &[u64; 6]) -> Result<Self, Errno> {
        let memory = File::open(format!("/proc/{thread}/mem")).map_err(|_| Errno::EPERM)?;
        let string = |address: u64| match address {
            0 => Ok(None),
            address => string_at(&memory, address).map(Some),
        };
        let [source, target, kind, flags, data, _] = *arguments;
        let target = string(target)?.ok_or(Errno::EFAULT)?;
        let descriptor = own_descriptor(&target);
        let here = match descriptor {
            Some(number) => format!("fd/{number}"),
            None => "cwd".into(),
        };
        Ok(Self {
            source: string(source)?,
            target: if descriptor.is_some() {
                c".".into()
            } else {
                target
            },
            kind: match string(kind)? {
                None if flags & libc::MS_REMOUNT != 0 => CString::default(),
                kind => kind.ok_or(Errno::EINVAL)?,
            },
            flags,
            data: string(data)?,
            place: Place::of(thread, &here)?,
        })
    }

    /// The name of the filesystem that is to be mounted; none for a remount.
    pub(crate) fn kind(&self) -> Option<&CStr> {
        (!self.is_remount()).then_some(&self.kind)
    }

    fn is_remount(&self) -> bool {
        self.flags & libc::MS_REMOUNT != 0
    }

    /// Mounts, or changes a filesystem that `may_change` allows to change, and tells what came of it.
    pub(crate) fn run(&self, may_change: fn(FsType) -> bool, tell: impl FnOnce(Result<(), Errno>)) {
        if self.is_remount() {
            tell(self.place.enter().and_then(|()| self.remount(may_change)));
            return;
        }
        if self.kind.as_c_str() != c"proc" {
            tell(self.place.enter().and_then(|()| self.mount(&self.target)));
            return;
        }
        // A new /proc shows the PID namespace of who mounts it, which only a child can enter.
        let entered = setns(&self.place.processes, CloneFlags::CLONE_NEWPID);
        #[expect(unsafe_code, reason = "only a child is in the PID namespace")]
        // SAFETY: this process has one thread.
        let forked = entered.and_then(|()| unsafe { fork() });
        match forked {
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => {
                tell(self.place.enter().and_then(|()| self.mount(&self.target)));
                end();
            }
            Err(cause) => tell(Err(cause)),
        }
    }

    /// The folder is entered before it is judged, so that a path that the caller changes meanwhile
    /// leads nowhere else. A mount on a file cannot be entered, and stays as it is.
    fn remount(&self, may_change: fn(FsType) -> bool) -> Result<(), Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(self.target.as_c_str(), flags, Mode::empty())?;
        if !may_change(fstatfs(&folder)?.filesystem_type()) {
            return Err(Errno::EPERM);
        }
        fchdir(&folder)?;
        self.mount(c".")
    }

    fn mount(&self, target: &CStr) -> Result<(), Errno> {
        let pointer =
            |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        #[expect(unsafe_code, reason = "flags are passed on as they are")]
        // SAFETY: every pointer is null or a string that outlives the call.
        let done = unsafe {
            libc::mount(
                pointer(&self.source),
                target.as_ptr(),
                self.kind.as_ptr(),
                self.flags,
                pointer(&self.data).cast(),
            )
        };
        Errno::result(done).map(drop)
    }
}

impl Place {
    fn of(thread: u32, here: &str) -> Result<Self, Errno> {
        let file = |name: &str, flags| {
            let path = format!("/proc/{thread}/{name}");
            open(path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(|_| Errno::EPERM)
        };
        let folder = |name: &str| file(name, OFlag::O_PATH);
        let namespace = |name: &str| file(&format!("ns/{name}"), OFlag::O_RDONLY);
        let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
        Ok(Self {
            root: folder("root")?,
            here: folder(here)?,
            mounts: namespace("mnt")?,
            network: namespace("net")?,
            ipc: namespace("ipc")?,
            cgroups: namespace("cgroup")?,
            processes: namespace("pid")?,
            capabilities: crate::broker::capabilities(&status.map_err(|_| Errno::EPERM)?),
        })
    }

    fn enter(&self) -> Result<(), Errno> {
        setns(&self.network, CloneFlags::CLONE_NEWNET)?;
        setns(&self.ipc, CloneFlags::CLONE_NEWIPC)?;
        setns(&self.cgroups, CloneFlags::CLONE_NEWCGROUP)?;
        setns(&self.mounts, CloneFlags::CLONE_NEWNS)?;
        fchdir(&self.root)?;
        chroot(".")?;
        fchdir(&self.here)?;
        self.take_capabilities()
    }

    /// An overlay keeps the capabilities of who mounts it, so they must be the caller's.
    fn take_capabilities(&self) -> Result<(), Errno> {
        let (low, high) = (self.capabilities & 0xffff_ffff, self.capabilities >> 32);
        let half = |bits: u64| u32::try_from(bits).unwrap_or_default();
        let header = [CAPABILITY_VERSION, 0];
        // Effective, permitted, inheritable; the lower half, then the upper.
        let sets = [half(low), half(low), 0, half(high), half(high), 0];
        #[expect(unsafe_code, reason = "no crate of ours has capset")]
        // SAFETY: header and sets have the layout of linux/capability.h; the kernel reads them.
        let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
        Errno::result(done).map(drop)
    }
}

/// A descriptor of the caller's own, told as a path: runc names its targets so. Here the same path
/// would mean a descriptor of the broker's.
fn own_descriptor(target: &CStr) -> Option<u32> {
    let path = target.to_str().ok()?;
    let number = path
        .strip_prefix("/proc/self/fd/")
        .or_else(|| path.strip_prefix("/proc/thread-self/fd/"))?;
    number.parse().ok()
}

/// A string of the caller's. Its end may be followed by nothing at all.
fn string_at(memory: &File, address: u64) -> Result<CString, Errno> {
    let mut bytes = vec![0; LONGEST];
    let mut filled = 0;
    while filled < LONGEST && !bytes[..filled].contains(&0) {
        // What is mapped at the end of a page ends there.
        match memory.read_at(&mut bytes[filled..], address + filled as u64) {
            Ok(0) | Err(_) => break,
            Ok(more) => filled += more,
        }
    }
    let text = CStr::from_bytes_until_nul(&bytes[..filled]);
    text.map(CStr::to_owned).map_err(|_| match filled {
        0 => Errno::EFAULT,
        _ => Errno::EINVAL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_the_callers_own_is_told_by_its_path() {
        for (path, number) in [
            (c"/proc/self/fd/7", Some(7)),
            (c"/proc/thread-self/fd/12", Some(12)),
            (c"/proc/self/fd/7/x", None),
            (c"/proc/1/fd/7", None),
            (c"/mnt", None),
        ] {
            assert_eq!(own_descriptor(path), number, "{path:?}");
        }
    }

    #[test]
    fn strings_are_read_from_another_processes_memory_as_far_as_they_go() {
        let memory = File::open("/proc/self/mem").unwrap();
        let text = CString::new("x".repeat(LONGEST - 1)).unwrap();
        assert_eq!(string_at(&memory, text.as_ptr() as u64).as_ref(), Ok(&text));
        let long = CString::new("x".repeat(LONGEST)).unwrap();
        assert_eq!(string_at(&memory, long.as_ptr() as u64), Err(Errno::EINVAL));
        assert_eq!(string_at(&memory, 1), Err(Errno::EFAULT));
    }
}
