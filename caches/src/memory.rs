//! What is known to be in the store, so that it need not be asked again.
//!
//! Taken when a root was restored and read when it is published: one number for each entry that
//! is the same in both. Nobody but the process that started both can write it: the job, which runs
//! between them, must not be able to say what is new.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, Write};

use crate::tree::{Entry, Kind};

/// Begins a memory that was written to its end.
const MAGIC: u64 = 0x6361_6368_6573_0001;

/// The entries that the store has.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    marks: HashSet<u64>,
}

/// A number for an entry as a copy of it would have it too.
pub(crate) fn content_mark(entry: &Entry<'_>, path: &mut Vec<u8>) -> u64 {
    let mut hasher = hasher(entry, path);
    let meta = entry.meta();
    match meta.kind {
        Kind::Directory => meta.mode.hash(&mut hasher),
        Kind::Link => (meta.size, meta.mtime).hash(&mut hasher),
        Kind::File | Kind::Special => (meta.size, meta.mtime, meta.mode).hash(&mut hasher),
    }
    hasher.finish()
}

/// A number for an entry that changes with every change to it, also with one that sets times back.
fn local_mark(root: usize, entry: &Entry<'_>, path: &mut Vec<u8>) -> u64 {
    let mut hasher = hasher(entry, path);
    let meta = entry.meta();
    (root, meta.mode, meta.inode).hash(&mut hasher);
    // A directory changes with what is in it, which is looked at by itself.
    if meta.kind != Kind::Directory {
        (meta.size, meta.mtime, meta.ctime).hash(&mut hasher);
    }
    hasher.finish()
}

fn hasher(entry: &Entry<'_>, path: &mut Vec<u8>) -> DefaultHasher {
    path.clear();
    entry.push_path(path);
    let mut hasher = DefaultHasher::new();
    (path, entry.meta().kind as u8).hash(&mut hasher);
    hasher
}

impl Memory {
    pub(crate) fn add(&mut self, root: usize, entry: &Entry<'_>, path: &mut Vec<u8>) {
        self.marks.insert(local_mark(root, entry, path));
    }

    pub(crate) fn has(&self, root: usize, entry: &Entry<'_>, path: &mut Vec<u8>) -> bool {
        self.marks.contains(&local_mark(root, entry, path))
    }

    /// Writes it in place of what the file has.
    pub(crate) fn write(&self, mut file: &File) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity((self.marks.len() + 2) * 8);
        for number in [MAGIC, self.marks.len() as u64].iter().chain(&self.marks) {
            bytes.extend(number.to_le_bytes());
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&bytes)
    }

    /// Reads what was written; `None` when nothing was, or not to its end.
    pub(crate) fn read(mut file: &File) -> Option<Self> {
        let mut bytes = Vec::new();
        file.rewind().ok()?;
        file.read_to_end(&mut bytes).ok()?;
        let mut numbers = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes));
        if numbers.next() != Some(MAGIC) {
            return None;
        }
        let length = numbers.next()?;
        let marks: HashSet<u64> = numbers.collect();
        (marks.len() as u64 == length).then_some(Self { marks })
    }
}
