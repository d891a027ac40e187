//! The requests that cost a store something: their names, and which of them change something.

use std::sync::atomic::{AtomicU64, Ordering};

/// A request to the store. What NFS answers without asking the server is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Read,
    Write,
    /// Stands for the CLOSE of NFS.
    Flush,
    Fsync,
    Readdirplus,
    Create,
    Statfs,
}

impl Operation {
    pub(crate) const ALL: [Self; 19] = [
        Self::Lookup,
        Self::Getattr,
        Self::Setattr,
        Self::Readlink,
        Self::Mknod,
        Self::Mkdir,
        Self::Unlink,
        Self::Rmdir,
        Self::Symlink,
        Self::Rename,
        Self::Link,
        Self::Open,
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Fsync,
        Self::Readdirplus,
        Self::Create,
        Self::Statfs,
    ];

    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub(crate) fn changes(self) -> bool {
        match self {
            Self::Lookup
            | Self::Getattr
            | Self::Readlink
            | Self::Open
            | Self::Read
            | Self::Flush
            | Self::Readdirplus
            | Self::Statfs => false,
            Self::Setattr
            | Self::Mknod
            | Self::Mkdir
            | Self::Unlink
            | Self::Rmdir
            | Self::Symlink
            | Self::Rename
            | Self::Link
            | Self::Write
            | Self::Fsync
            | Self::Create => true,
        }
    }
}

/// How many requests there were of each kind.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; Operation::ALL.len()]);

impl Counts {
    pub(crate) fn add(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Each kind that there was, by its name.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = (String, u64)> {
        Operation::ALL
            .into_iter()
            .map(|operation| {
                let count = self.0[operation as usize].load(Ordering::Relaxed);
                (operation.name(), count)
            })
            .filter(|(_, count)| *count > 0)
    }
}
