//! Attributes and times between `statx` and FUSE.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use rustix::fs::{Statx, StatxTimestamp, Timespec, UTIME_NOW, UTIME_OMIT};

const BLOCK_SIZE: u32 = 1 << 20;

pub(crate) fn attributes(ino: INodeNo, found: &Statx) -> FileAttr {
    FileAttr {
        ino,
        size: found.stx_size,
        blocks: found.stx_blocks,
        atime: system_time(found.stx_atime),
        mtime: system_time(found.stx_mtime),
        ctime: system_time(found.stx_ctime),
        crtime: UNIX_EPOCH,
        kind: kind(found),
        perm: found.stx_mode & 0o7777,
        nlink: found.stx_nlink,
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: device(found),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn kind(found: &Statx) -> FileType {
    match rustix::fs::FileType::from_raw_mode(found.stx_mode.into()) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        rustix::fs::FileType::RegularFile | rustix::fs::FileType::Unknown => FileType::RegularFile,
    }
}

/// The number of a device in the 32 bits that FUSE has for it.
fn device(found: &Statx) -> u32 {
    let (major, minor) = (found.stx_rdev_major, found.stx_rdev_minor);
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn system_time(time: StatxTimestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.tv_sec.unsigned_abs());
    let whole = if time.tv_sec < 0 {
        UNIX_EPOCH - seconds
    } else {
        UNIX_EPOCH + seconds
    };
    whole + Duration::from_nanos(time.tv_nsec.into())
}

/// A time to set, as `utimensat` takes it.
pub(crate) fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match time {
        None => special(UTIME_OMIT),
        Some(TimeOrNow::Now) => special(UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timespec {
                tv_sec: after.as_secs().cast_signed(),
                tv_nsec: after.subsec_nanos().into(),
            },
            // fuser subtracts the nanoseconds of a time before 1970, where the kernel means to add
            // them; so these are the kernel's own numbers again.
            Err(before) => Timespec {
                tv_sec: -before.duration().as_secs().cast_signed(),
                tv_nsec: before.duration().subsec_nanos().into(),
            },
        },
    }
}
