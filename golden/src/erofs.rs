//! EROFS images: making one with `mkfs.erofs`, mounting one, knowing it again.
//!
//! EROFS, because nothing makes its superblock writable, its images can be mounted from a plain
//! file (Linux 6.12), and its metadata is read as needed, so mounting costs the same at any size.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use init::{Children, Deadline};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, statfs};
use serde::{Deserialize, Serialize};

use crate::checksum;
use crate::manifest::ErofsFile;
use crate::store::{FILES, Store, UNFINISHED};

/// In the package `erofs-utils`.
const PROGRAM: &str = "mkfs.erofs";
/// The file at the root of each image that has its uuid.
const MARK: &str = ".golden";
/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: FsType = FsType(0xE0F5_E1E2);
/// How long mount(8) may take.
const A_MOMENT: Duration = Duration::from_secs(30);
/// How long one image may take.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// How one image gets to its place.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Source {
    /// From its file.
    File(PathBuf),
    /// The host has mounted it here. All tasks share its page cache then.
    Mounted(PathBuf),
}

/// Makes an image of `tree` and puts it among the store's files.
pub(crate) async fn make(
    store: &Store,
    children: &Children,
    tree: &Path,
    content_bytes: u64,
) -> Result<ErofsFile> {
    let uuid = new_uuid();
    fs::write(tree.join(MARK), &uuid)
        .with_context(|| format!("cannot write to {}", tree.display()))?;
    let unfinished = store.dir().join(FILES).join(format!("{UNFINISHED}{uuid}"));
    let mut command = Command::new(PROGRAM);
    command
        // Owners, nanoseconds and times of their own are kept only in this form.
        .args(["-zlz4", "-Eforce-inode-extended", "-U", &uuid])
        .args([&unfinished, tree]);
    let made = children.run(&mut command, Deadline::within(PATIENCE)).await;
    let made = made.context("the package erofs-utils is needed to build a store")?;
    made.checked()?;
    let finish = || -> Result<ErofsFile> {
        let file = File::open(&unfinished)?;
        file.sync_all()?;
        let finished = ErofsFile {
            sha256: checksum::of_file(&unfinished)?,
            bytes: file.metadata()?.len(),
            content_bytes,
            uuid,
        };
        fs::rename(&unfinished, store.path_of(&finished))?;
        Ok(finished)
    };
    finish().with_context(|| format!("cannot finish {}", unfinished.display()))
}

/// Random, of version 4.
fn new_uuid() -> String {
    let random = rand::random::<u128>() & !(0xf << 76 | 0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    let hex = format!("{random:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

/// Where to take a file from: the host's mount if there is one, else the file itself.
pub(crate) fn source(store: &Store, file: &ErofsFile) -> Result<Source> {
    let mounted = store.mounted(file);
    if is_mounted(&mounted, file) {
        return Ok(Source::Mounted(mounted));
    }
    let path = store.path_of(file);
    let there = fs::metadata(&path).with_context(|| format!("{} is not there", path.display()))?;
    ensure!(
        there.len() == file.bytes,
        "{} is damaged: it has {} bytes instead of {}",
        path.display(),
        there.len(),
        file.bytes
    );
    Ok(Source::File(path))
}

/// Whether `file` is mounted at `place`.
pub(crate) fn is_mounted(place: &Path, file: &ErofsFile) -> bool {
    let is_erofs = statfs(place).is_ok_and(|filesystem| filesystem.filesystem_type() == MAGIC);
    is_erofs && has_mark(place, file)
}

fn has_mark(place: &Path, file: &ErofsFile) -> bool {
    fs::read_to_string(place.join(MARK)).is_ok_and(|mark| mark == file.uuid)
}

impl Source {
    /// Mounts it at `place`, a directory.
    pub(crate) fn mount(&self, place: &Path) -> Result<()> {
        match self.try_mount(place) {
            Err(Errno::ENOTBLK) => bail!(
                "this kernel cannot mount {} from a file (Linux 6.12 with \
                 EROFS_FS_BACKED_BY_FILE can); let the host mount it with `dindd golden mount`",
                self.path().display()
            ),
            done => self.explained(done),
        }
    }

    /// The same on a host, which has loop devices for a kernel that cannot mount from a file.
    pub(crate) async fn mount_on_host(&self, children: &Children, place: &Path) -> Result<()> {
        match self.try_mount(place) {
            Err(Errno::ENOTBLK) => {
                // It frees the loop device together with the mount.
                let mut command = Command::new("mount");
                command.args(["-t", "erofs", "-o", "ro,loop"]);
                command.args([self.path(), place]);
                let mounted = children.run(&mut command, Deadline::within(A_MOMENT)).await;
                mounted?.checked().map(drop)
            }
            done => self.explained(done),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Mounted(path) => path,
        }
    }

    fn try_mount(&self, place: &Path) -> nix::Result<()> {
        let (kind, flags) = match self {
            Self::File(_) => (Some("erofs"), MsFlags::MS_RDONLY),
            Self::Mounted(_) => (None, MsFlags::MS_BIND),
        };
        mount(Some(self.path()), place, kind, flags, None::<&str>)
    }

    fn explained(&self, done: nix::Result<()>) -> Result<()> {
        match done {
            Err(Errno::ENODEV) => bail!("this kernel has no EROFS"),
            done => done.with_context(|| format!("cannot mount {}", self.path().display())),
        }
    }
}

/// Refuses another image than `file` at `place`.
pub(crate) fn require_mark(place: &Path, file: &ErofsFile) -> Result<()> {
    ensure!(
        has_mark(place, file),
        "the file {} of the store is another one or damaged",
        file.sha256
    );
    Ok(())
}

/// Undoes [`Source::mount`]; who still uses it keeps it.
pub(crate) fn unmount(place: &Path) -> Result<()> {
    umount2(place, MntFlags::MNT_DETACH)
        .with_context(|| format!("cannot unmount {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_gets_a_uuid_of_its_own_that_mkfs_understands() {
        let uuid = new_uuid();
        assert_ne!(uuid, new_uuid());
        let form: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(form, [8, 4, 4, 4, 12]);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
    }
}
