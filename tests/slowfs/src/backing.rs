//! The folder that is shown: each request carried out on it, with the numbers that FUSE uses.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use fuser::{FileAttr, FileHandle, INodeNo, Request, TimeOrNow};
use rustix::fs::{
    AtFlags, CWD, Dev, Dir, FileType, Gid, Mode, OFlags, Statx, StatxFlags, Timestamps, Uid,
    chmodat, chownat, ftruncate, linkat, makedev, mkdirat, mknodat, openat, readlinkat, renameat,
    statx, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, Result, pread, pwrite};

use crate::attributes::{attributes, timespec};
use crate::hold;
use crate::inodes::{Identity, Inodes, Place};

/// What `setattr` changes.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<TimeOrNow>,
    pub(crate) modified: Option<TimeOrNow>,
    pub(crate) handle: Option<FileHandle>,
}

impl Change {
    /// The kernel's write-back cache saves the time of the last write. NFS has no such request.
    pub(crate) fn is_the_kernels_own(&self) -> bool {
        let others = [self.mode, self.uid, self.gid];
        self.modified.is_some()
            && self.handle.is_some()
            && self.accessed.is_none()
            && self.size.is_none()
            && others.iter().all(Option::is_none)
    }
}

#[derive(Debug)]
pub(crate) struct Backing {
    inodes: Mutex<Inodes>,
    files: Mutex<Handles<File>>,
    folders: Mutex<Handles<Vec<OsString>>>,
}

impl Backing {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Place::Folder(openat(CWD, folder, flags, Mode::empty())?);
        let identity = Identity::of(&status(&root)?);
        Ok(Self {
            inodes: Mutex::new(Inodes::new(root, identity)),
            files: Mutex::default(),
            folders: Mutex::default(),
        })
    }

    fn place(&self, ino: INodeNo) -> Result<Arc<Place>> {
        hold(&self.inodes).place(ino).ok_or(Errno::STALE)
    }

    pub(crate) fn lookup(&self, folder: INodeNo, name: &OsStr) -> Result<FileAttr> {
        self.tell(&self.place(folder)?, name)
    }

    /// Attributes of a file that the kernel is told of, which it will have to forget.
    fn tell(&self, folder: &Arc<Place>, name: &OsStr) -> Result<FileAttr> {
        let entry = Place::Entry(folder.clone(), name.to_owned());
        let found = status(&entry)?;
        let identity = Identity::of(&found);
        let mut inodes = hold(&self.inodes);
        let known = inodes.seen(identity, folder, name);
        let ino = match known {
            Some(ino) => ino,
            None if FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = openat(folder.at().0, name, flags, Mode::empty())?;
                inodes.insert(identity, Place::Folder(opened))
            }
            None => inodes.insert(identity, entry),
        };
        Ok(attributes(ino, &found))
    }

    /// What was made belongs to whoever asked for it.
    fn tell_new(&self, folder: &Arc<Place>, name: &OsStr, by: &Request) -> Result<FileAttr> {
        if by.uid() != 0 || by.gid() != 0 {
            let (uid, gid) = (Uid::from_raw(by.uid()), Gid::from_raw(by.gid()));
            let no_follow = AtFlags::SYMLINK_NOFOLLOW;
            chownat(folder.at().0, name, Some(uid), Some(gid), no_follow)?;
        }
        self.tell(folder, name)
    }

    pub(crate) fn forget(&self, ino: INodeNo, lookups: u64) {
        hold(&self.inodes).forget(ino, lookups);
    }

    pub(crate) fn getattr(&self, ino: INodeNo) -> Result<FileAttr> {
        Ok(attributes(ino, &status(&*self.place(ino)?)?))
    }

    pub(crate) fn setattr(&self, ino: INodeNo, change: &Change) -> Result<FileAttr> {
        let place = self.place(ino)?;
        let (folder, name) = place.at();
        if let Some(mode) = change.mode {
            chmodat(
                folder,
                name,
                Mode::from_raw_mode(mode & 0o7777),
                AtFlags::empty(),
            )?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            let uid = change.uid.map(Uid::from_raw);
            let gid = change.gid.map(Gid::from_raw);
            chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(size) = change.size {
            match change.handle {
                Some(handle) => ftruncate(&self.file(handle)?, size)?,
                None => {
                    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    ftruncate(openat(folder, name, flags, Mode::empty())?, size)?;
                }
            }
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let times = Timestamps {
                last_access: timespec(change.accessed),
                last_modification: timespec(change.modified),
            };
            utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        self.getattr(ino)
    }

    pub(crate) fn readlink(&self, ino: INodeNo) -> Result<Vec<u8>> {
        let place = self.place(ino)?;
        let (folder, name) = place.at();
        Ok(readlinkat(folder, name, Vec::new())?.into_bytes())
    }

    pub(crate) fn mknod(
        &self,
        by: &Request,
        (folder, name): (INodeNo, &OsStr),
        mode: u32,
        device: u32,
    ) -> Result<FileAttr> {
        let folder = self.place(folder)?;
        let (kind, permissions) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode));
        mknodat(
            folder.at().0,
            name,
            kind,
            permissions,
            device_number(device),
        )?;
        self.tell_new(&folder, name, by)
    }

    pub(crate) fn mkdir(
        &self,
        by: &Request,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<FileAttr> {
        let folder = self.place(folder)?;
        mkdirat(folder.at().0, name, Mode::from_raw_mode(mode))?;
        self.tell_new(&folder, name, by)
    }

    pub(crate) fn symlink(
        &self,
        by: &Request,
        folder: INodeNo,
        name: &OsStr,
        target: &Path,
    ) -> Result<FileAttr> {
        let folder = self.place(folder)?;
        symlinkat(target, folder.at().0, name)?;
        self.tell_new(&folder, name, by)
    }

    pub(crate) fn link(&self, ino: INodeNo, folder: INodeNo, name: &OsStr) -> Result<FileAttr> {
        let (file, folder) = (self.place(ino)?, self.place(folder)?);
        let (from, old) = file.at();
        linkat(from, old, folder.at().0, name, AtFlags::empty())?;
        self.tell(&folder, name)
    }

    pub(crate) fn remove(&self, folder: INodeNo, name: &OsStr, flags: AtFlags) -> Result<()> {
        unlinkat(self.place(folder)?.at().0, name, flags)
    }

    pub(crate) fn rename(
        &self,
        (from, old): (INodeNo, &OsStr),
        (to, new): (INodeNo, &OsStr),
    ) -> Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        renameat(from.at().0, old, to.at().0, new)?;
        let found = status(&Place::Entry(to.clone(), new.to_owned()))?;
        hold(&self.inodes).moved(Identity::of(&found), &to, new);
        Ok(())
    }

    pub(crate) fn open_file(&self, ino: INodeNo, flags: i32) -> Result<FileHandle> {
        let place = self.place(ino)?;
        let (folder, name) = place.at();
        let flags = opening(flags) - (OFlags::CREATE | OFlags::EXCL);
        let file = openat(folder, name, flags, Mode::empty())?;
        Ok(hold(&self.files).keep(file.into()))
    }

    pub(crate) fn create(
        &self,
        by: &Request,
        (folder, name): (INodeNo, &OsStr),
        mode: u32,
        flags: i32,
    ) -> Result<(FileAttr, FileHandle)> {
        let folder = self.place(folder)?;
        let flags = opening(flags) | OFlags::CREATE;
        let file = openat(folder.at().0, name, flags, Mode::from_raw_mode(mode))?;
        let attributes = self.tell_new(&folder, name, by)?;
        Ok((attributes, hold(&self.files).keep(file.into())))
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<File>> {
        hold(&self.files).get(handle)
    }

    pub(crate) fn read(&self, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>> {
        let file = self.file(handle)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Errno::INVAL)?];
        let length = pread(&file, &mut bytes, offset)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    pub(crate) fn write(&self, handle: FileHandle, offset: u64, bytes: &[u8]) -> Result<u32> {
        let written = pwrite(&self.file(handle)?, bytes, offset)?;
        u32::try_from(written).map_err(|_| Errno::FBIG)
    }

    pub(crate) fn close(&self, handle: FileHandle) {
        hold(&self.files).close(handle);
    }

    /// The names in a folder, as they are now.
    pub(crate) fn open_folder(&self, ino: INodeNo) -> Result<FileHandle> {
        let place = self.place(ino)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(place.at().0, ".", flags, Mode::empty())?;
        let mut names = vec![OsString::from("."), OsString::from("..")];
        for entry in Dir::new(opened)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(hold(&self.folders).keep(names))
    }

    pub(crate) fn names(&self, handle: FileHandle) -> Result<Arc<Vec<OsString>>> {
        hold(&self.folders).get(handle)
    }

    pub(crate) fn close_folder(&self, handle: FileHandle) {
        hold(&self.folders).close(handle);
    }
}

fn status(place: &Place) -> Result<Statx> {
    let (folder, name) = place.at();
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, wanted)
}

/// The device that FUSE names in 32 bits.
fn device_number(device: u32) -> Dev {
    let major = (device & 0xf_ff00) >> 8;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    makedev(major, minor)
}

/// How the kernel's write-back cache needs a file: it appends itself, and reads the rest of a page
/// that is written in part.
fn opening(flags: i32) -> OFlags {
    let flags = OFlags::from_bits_retain(flags.cast_unsigned()) - (OFlags::APPEND | OFlags::DIRECT);
    let access = if flags.contains(OFlags::WRONLY) {
        OFlags::RDWR
    } else {
        flags & OFlags::RWMODE
    };
    (flags - OFlags::RWMODE) | access | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// What is open, by the number that the kernel has for it.
#[derive(Debug)]
struct Handles<T> {
    open: HashMap<u64, Arc<T>>,
    last: u64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            last: 0,
        }
    }
}

impl<T> Handles<T> {
    fn keep(&mut self, opened: T) -> FileHandle {
        self.last += 1;
        self.open.insert(self.last, Arc::new(opened));
        FileHandle(self.last)
    }

    fn get(&self, handle: FileHandle) -> Result<Arc<T>> {
        self.open.get(&handle.0).cloned().ok_or(Errno::BADF)
    }

    fn close(&mut self, handle: FileHandle) {
        self.open.remove(&handle.0);
    }
}
