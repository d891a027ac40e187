//! FUSE's requests: each is carried out on the backing folder and answered through the line.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fs::AtFlags;

use crate::backing::{Backing, Change};
use crate::latency::Line;
use crate::operations::Operation;

/// What NFS reads and writes at once.
const LARGEST: u32 = 1 << 20;
const GENERATION: Generation = Generation(0);

#[derive(Debug)]
pub(crate) struct Passthrough {
    backing: Backing,
    line: Arc<Line>,
    ttl: Duration,
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

/// Answers through the line: what the reply does with the result, or its error.
macro_rules! answer {
    ($self:ident, $operation:ident, $reply:ident, $done:expr, $value:pat => $answer:expr) => {
        let done = $self.line.carry_out(Operation::$operation, || $done);
        $self
            .line
            .answer(Operation::$operation, move || match done {
                Ok($value) => $answer,
                Err(error) => $reply.error(errno(error)),
            });
    };
}

impl Passthrough {
    pub(crate) fn new(backing: Backing, line: Arc<Line>, ttl: Duration) -> Self {
        Self { backing, line, ttl }
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        // A kernel that has less says how much.
        kernel.set_max_write(LARGEST).ok();
        if let Err(most) = kernel.set_max_readahead(LARGEST) {
            kernel.set_max_readahead(most).ok();
        }
        kernel.set_max_background(512).ok();
        kernel.set_congestion_threshold(384).ok();
        for capability in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_WRITEBACK_CACHE,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            kernel.add_capabilities(capability).map_err(|lacking| {
                io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("this kernel's FUSE lacks {lacking:?}"),
                )
            })?;
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ttl = self.ttl;
        answer!(self, Lookup, reply, self.backing.lookup(parent, name),
            found => reply.entry(&ttl, &found, GENERATION));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.backing.forget(ino, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ttl = self.ttl;
        answer!(self, Getattr, reply, self.backing.getattr(ino),
            found => reply.attr(&ttl, &found));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            size,
            accessed,
            modified,
            handle,
        };
        let ttl = self.ttl;
        if change.is_the_kernels_own() {
            return match self.backing.setattr(ino, &change) {
                Ok(found) => reply.attr(&ttl, &found),
                Err(error) => reply.error(errno(error)),
            };
        }
        answer!(self, Setattr, reply, self.backing.setattr(ino, &change),
            found => reply.attr(&ttl, &found));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(self, Readlink, reply, self.backing.readlink(ino), target => reply.data(&target));
    }

    fn mknod(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let ttl = self.ttl;
        answer!(self, Mknod, reply, self.backing.mknod(by, (parent, name), mode, device),
            made => reply.entry(&ttl, &made, GENERATION));
    }

    fn mkdir(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let ttl = self.ttl;
        answer!(self, Mkdir, reply, self.backing.mkdir(by, parent, name, mode),
            made => reply.entry(&ttl, &made, GENERATION));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self, Unlink, reply, self.backing.remove(parent, name, AtFlags::empty()),
            () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self, Rmdir, reply, self.backing.remove(parent, name, AtFlags::REMOVEDIR),
            () => reply.ok());
    }

    fn symlink(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let ttl = self.ttl;
        answer!(self, Symlink, reply, self.backing.symlink(by, parent, name, target),
            made => reply.entry(&ttl, &made, GENERATION));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // Neither exchange nor "only if there is none", as with NFS.
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        answer!(self, Rename, reply,
            self.backing.rename((parent, name), (new_parent, new_name)), () => reply.ok());
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let ttl = self.ttl;
        answer!(self, Link, reply, self.backing.link(ino, new_parent, new_name),
            linked => reply.entry(&ttl, &linked, GENERATION));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer!(self, Open, reply, self.backing.open_file(ino, flags.0),
            handle => reply.opened(handle, FopenFlags::empty()));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            let read = self.backing.read(handle, offset, size);
            self.line.read(read.as_ref().map_or(0, Vec::len));
            read
        };
        answer!(self, Read, reply, read(), bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.line.written(bytes.len());
        answer!(self, Write, reply, self.backing.write(handle, offset, bytes),
            written => reply.written(written));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        answer!(self, Flush, reply, Ok(()), () => reply.ok());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.backing.close(handle);
        reply.ok();
    }

    /// Nothing is written to the disk for it: the store is what is modelled, and it has latency.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(self, Fsync, reply, Ok(()), () => reply.ok());
    }

    /// NFS has no such request, and so it is neither counted nor held back.
    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.backing.open_folder(ino) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let names = match self.backing.names(handle) {
            Ok(names) => names,
            Err(error) => return reply.error(errno(error)),
        };
        let rest = (1..)
            .zip(names.iter())
            .skip_while(|(next, _)| *next <= offset);
        let mut any = false;
        for (next, name) in rest {
            any = true;
            // The kernel is not told of these two, and does not forget them.
            let itself = name == "." || name == "..";
            let found = if itself {
                self.backing.getattr(ino)
            } else {
                self.backing.lookup(ino, name)
            };
            // What is gone since the folder was opened is left out.
            let Ok(found) = found else { continue };
            let full = reply.add(found.ino, next, name, &self.ttl, &found, GENERATION);
            if full {
                if !itself {
                    self.backing.forget(found.ino, 1);
                }
                break;
            }
        }
        // The last answer of NFS says that it is the last: FUSE's request after it costs nothing.
        if any {
            answer!(self, Readdirplus, reply, Ok(()), () => reply.ok());
        } else {
            reply.ok();
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.backing.close_folder(handle);
        reply.ok();
    }

    /// As large as anybody wants, as EFS.
    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const MANY: u64 = 1 << 40;
        const FILES: u64 = 1 << 30;
        answer!(self, Statfs, reply, Ok(()),
            () => reply.statfs(MANY, MANY, MANY, FILES, FILES, 4096, 255, 4096));
    }

    fn create(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let ttl = self.ttl;
        answer!(self, Create, reply, self.backing.create(by, (parent, name), mode, flags),
        (made, handle) => {
            reply.created(&ttl, &made, GENERATION, handle, FopenFlags::empty());
        });
    }
}
