//! Which file each number stands for that the kernel was told, and how the file is reached.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use fuser::INodeNo;
use rustix::fs::Statx;

/// How a file is reached. Only folders are held open: a tree has too many files for that.
#[derive(Debug)]
pub(crate) enum Place {
    Folder(OwnedFd),
    /// One of its names, the one that was last seen.
    Entry(Arc<Place>, OsString),
}

impl Place {
    /// Folder and name for the `…at` system calls.
    pub(crate) fn at(&self) -> (BorrowedFd<'_>, &Path) {
        match self {
            Self::Folder(folder) => (folder.as_fd(), Path::new(".")),
            Self::Entry(folder, name) => (folder.at().0, Path::new(name)),
        }
    }
}

/// What is the same for all names of a file, and another for the next file with its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    device: (u32, u32),
    inode: u64,
    born: (i64, u32),
}

impl Identity {
    pub(crate) fn of(found: &Statx) -> Self {
        Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            born: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        }
    }
}

#[derive(Debug)]
struct Known {
    place: Arc<Place>,
    identity: Identity,
    /// How often the kernel was told of it and has not forgotten.
    lookups: u64,
}

/// The files that the kernel knows.
#[derive(Debug)]
pub(crate) struct Inodes {
    known: HashMap<u64, Known>,
    numbers: HashMap<Identity, u64>,
    last: u64,
}

impl Inodes {
    pub(crate) fn new(root: Place, identity: Identity) -> Self {
        let mut inodes = Self {
            known: HashMap::new(),
            numbers: HashMap::new(),
            last: 0,
        };
        // It gets the first number, INodeNo::ROOT, and is never forgotten.
        inodes.insert(identity, root);
        inodes
    }

    pub(crate) fn place(&self, ino: INodeNo) -> Option<Arc<Place>> {
        self.known.get(&ino.0).map(|known| known.place.clone())
    }

    /// The number of a file that the kernel knows and is told of once more, now by this name.
    pub(crate) fn seen(
        &mut self,
        identity: Identity,
        folder: &Arc<Place>,
        name: &OsStr,
    ) -> Option<INodeNo> {
        let number = *self.numbers.get(&identity)?;
        self.moved(identity, folder, name);
        self.known.get_mut(&number)?.lookups += 1;
        Some(INodeNo(number))
    }

    /// A file has a new name.
    pub(crate) fn moved(&mut self, identity: Identity, folder: &Arc<Place>, name: &OsStr) {
        if let Some(number) = self.numbers.get(&identity)
            && let Some(known) = self.known.get_mut(number)
            && matches!(*known.place, Place::Entry(..))
        {
            known.place = Arc::new(Place::Entry(folder.clone(), name.to_owned()));
        }
    }

    /// A file that the kernel is told of for the first time.
    pub(crate) fn insert(&mut self, identity: Identity, place: Place) -> INodeNo {
        self.last += 1;
        self.numbers.insert(identity, self.last);
        let known = Known {
            place: Arc::new(place),
            identity,
            lookups: 1,
        };
        self.known.insert(self.last, known);
        INodeNo(self.last)
    }

    pub(crate) fn forget(&mut self, ino: INodeNo, lookups: u64) {
        if ino == INodeNo::ROOT {
            return;
        }
        let Some(known) = self.known.get_mut(&ino.0) else {
            return;
        };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0
            && let Some(gone) = self.known.remove(&ino.0)
        {
            self.numbers.remove(&gone.identity);
        }
    }
}
