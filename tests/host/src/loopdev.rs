//! Owns loop devices and the sparse files behind them.
//!
//! Neither survives its user: the file has no name once it is in use, and the device clears itself
//! (LO_FLAGS_AUTOCLEAR) when the last mount or descriptor of it is gone, whoever ended how.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, copy_file_range, seek};
use rustix::io::Errno;

use crate::process;

/// How often another program may take the free device that the kernel named before we give up.
const ATTEMPTS: u32 = 64;

/// How the superblock of an XFS filesystem begins.
const XFS_MAGIC: &[u8; 4] = b"XFSB";

/// A loop device with a backing file.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    /// `/dev/loopN`.
    pub(crate) path: PathBuf,
    /// Keeps the device until something mounts it.
    _device: File,
    trace: LoopTrace,
}

/// How to recognise, later, that a loop device still has our file.
#[derive(Debug, Clone)]
pub(crate) struct LoopTrace {
    path: PathBuf,
    label: abi::Label,
}

impl LoopDevice {
    /// Puts a free loop device in front of `backing`.
    pub(crate) fn attach(backing: &File) -> Result<Self> {
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .context(
                "/dev/loop-control cannot be opened: loop devices are needed; \
             load the module (modprobe loop), or give a container its devices",
            )?;
        let label = abi::new_label();
        for _ in 0..ATTEMPTS {
            let number = abi::get_free(&control).context("LOOP_CTL_GET_FREE")?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("open {}", path.display()))?;
            match abi::configure(&device, backing, label) {
                // Somebody else was faster: the kernel only names a device, it does not keep it.
                Err(nix::errno::Errno::EBUSY) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("attach {}", path.display()));
                }
                Ok(()) => {
                    let trace = LoopTrace {
                        path: path.clone(),
                        label,
                    };
                    return Ok(Self {
                        path,
                        _device: device,
                        trace,
                    });
                }
            }
        }
        bail!("no free loop device in {ATTEMPTS} attempts")
    }

    pub(crate) fn trace(&self) -> LoopTrace {
        self.trace.clone()
    }
}

impl LoopTrace {
    /// The device's path while it still has our file.
    pub(crate) fn still_attached(&self) -> Option<&Path> {
        let device = File::open(&self.path).ok()?;
        (abi::label_of(&device)? == self.label).then_some(self.path.as_path())
    }
}

/// An empty sparse file of `size` bytes in `folder` that has no name.
pub(crate) fn nameless(folder: &Path, size: u64) -> Result<File> {
    let file = tempfile::tempfile_in(folder)
        .with_context(|| format!("make a temporary file in {}", folder.display()))?;
    file.set_len(size)
        .context("set the size of a sparse file")?;
    Ok(file)
}

/// A sparse file with a name, which is there for one at a time.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) file: File,
    /// No file system is in it yet.
    pub(crate) new: bool,
}

impl Kept {
    /// Opens it, or makes it with `size` bytes. Whoever has it open, also a loop device, keeps others
    /// from it.
    pub(crate) fn open(path: &Path, size: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("{} is another host's volume", path.display()))?;
        let mut magic = [0; 4];
        let read = file
            .read_at(&mut magic, 0)
            .context("read a volume's file")?;
        let new = read < magic.len() || &magic != XFS_MAGIC;
        if new {
            file.set_len(size)
                .context("set the size of a sparse file")?;
        }
        Ok(Self { file, new })
    }
}

/// Copies `from` to the empty file `to`: shares its blocks where the filesystem can (btrfs, XFS),
/// else copies only what is not a hole.
pub(crate) fn clone_into(from: &File, to: &File) -> Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let size = from.metadata().context("look at the disk image")?.len();
    to.set_len(size).context("set the size of a sparse file")?;
    let mut offset = 0;
    while offset < size {
        let start = match seek(from, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(error) => return Err(error).context("look for data in the disk image"),
        };
        let end = seek(from, SeekFrom::Hole(start)).context("look for a hole in the image")?;
        copy_range(from, to, start, end)?;
        offset = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at)?;
        let copied = copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length)
            .context("copy the disk image")?;
        if copied == 0 {
            bail!("the disk image became shorter while it was copied");
        }
    }
    Ok(())
}

/// Makes an XFS filesystem, with the features that ECS's EBS volumes have, on `device`.
pub(crate) fn make_xfs(device: &Path) -> Result<()> {
    let mut command = Command::new("mkfs.xfs");
    command
        .args(["-q", "-f", "-K", "-m", "reflink=1,crc=1", "-n", "ftype=1"])
        .arg(device);
    process::output(command).map(drop)
}

/// The loop driver's interface, `include/uapi/linux/loop.h`.
#[expect(
    unsafe_code,
    reason = "ioctl; neither std nor a crate in use has these three"
)]
mod abi {
    use super::{AsRawFd, File};
    use nix::errno::Errno;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::SystemTime;

    /// `lo_file_name`, which is for its user to choose.
    pub(super) type Label = [u8; 64];

    const LOOP_GET_STATUS64: u64 = 0x4C05;
    const LOOP_CONFIGURE: u64 = 0x4C0A;
    const LOOP_CTL_GET_FREE: u64 = 0x4C82;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;

    #[repr(C)]
    struct LoopInfo64 {
        device: u64,
        inode: u64,
        rdevice: u64,
        offset: u64,
        size_limit: u64,
        number: u32,
        encrypt_type: u32,
        encrypt_key_size: u32,
        flags: u32,
        file_name: [u8; 64],
        crypt_name: [u8; 64],
        encrypt_key: [u8; 32],
        init: [u64; 2],
    }

    #[repr(C)]
    struct LoopConfig {
        fd: u32,
        block_size: u32,
        info: LoopInfo64,
        reserved: [u64; 8],
    }

    const EMPTY: LoopInfo64 = LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };

    pub(super) fn get_free(control: &File) -> Result<i32, Errno> {
        // SAFETY: this request takes no argument and writes to no memory of ours.
        Errno::result(unsafe { nix::libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })
    }

    pub(super) fn configure(device: &File, backing: &File, label: Label) -> Result<(), Errno> {
        let config = LoopConfig {
            fd: u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?,
            block_size: 0,
            info: LoopInfo64 {
                flags: LO_FLAGS_AUTOCLEAR,
                file_name: label,
                ..EMPTY
            },
            reserved: [0; 8],
        };
        // SAFETY: `config` has the layout of struct loop_config and outlives the call, which
        // only reads it.
        let result =
            unsafe { nix::libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        Errno::result(result).map(drop)
    }

    /// The name given to `device` with its file; none when it has no file.
    pub(super) fn label_of(device: &File) -> Option<Label> {
        let mut info = EMPTY;
        // SAFETY: `info` has the layout of struct loop_info64, which the kernel fills.
        let result =
            unsafe { nix::libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
        (result == 0).then_some(info.file_name)
    }

    /// A name that no other device of this boot of the machine has. (The inode number of a
    /// nameless file is used again at once.)
    pub(super) fn new_label() -> Label {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos();
        let mut label = [0; 64];
        let text = format!("testhost-{}-{count}-{now}", std::process::id());
        // The last byte stays zero: it is a C string.
        for (byte, letter) in label[..63].iter_mut().zip(text.bytes()) {
            *byte = letter;
        }
        label
    }
}
