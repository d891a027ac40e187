//! What is known to be in the store, so that it need not be asked again.
//!
//! Taken when the caches were restored and read when they are published: the units of the store,
//! and one number for each loose entry that is the same in both. Nobody but whoever started both
//! can write it: the job, which runs between them, must not be able to say what is new.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Caches;
use crate::tree::{Entry, Kind};
use crate::unit::Unit;

/// Begins a memory that was written to its end.
const MAGIC: u64 = 0x6361_6368_6573_0002;
/// How long what a restore found out is believed: others may have pruned the store since.
pub const BELIEVED: Duration = Duration::from_secs(24 * 3600);

/// What the store has.
#[derive(Debug)]
pub(crate) struct Memory {
    head: Head,
    marks: HashSet<u64>,
}

/// What comes before the numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// Seconds since 1970.
    taken: u64,
    caches: Caches,
    units: BTreeSet<Unit>,
    /// The roots whose loose entries were compared.
    compared: BTreeSet<usize>,
    marks: usize,
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
    /// That of a restore that begins now.
    pub(crate) fn of(caches: &Caches) -> Self {
        Self {
            head: Head {
                taken: crate::now(),
                caches: caches.clone(),
                units: BTreeSet::new(),
                compared: BTreeSet::new(),
                marks: 0,
            },
            marks: HashSet::new(),
        }
    }

    pub(crate) fn add_units<'a>(&mut self, units: impl Iterator<Item = &'a Unit>) {
        self.head.units.extend(units.cloned());
    }

    pub(crate) fn has_unit(&self, unit: &Unit) -> bool {
        self.head.units.contains(unit)
    }

    /// Notes that what is not added of this root's entries, the store does not have.
    pub(crate) fn compared(&mut self, root: usize) {
        self.head.compared.insert(root);
    }

    pub(crate) fn has_compared(&self, root: usize) -> bool {
        self.head.compared.contains(&root)
    }

    pub(crate) fn add(&mut self, root: usize, entry: &Entry<'_>, path: &mut Vec<u8>) {
        self.marks.insert(local_mark(root, entry, path));
    }

    pub(crate) fn has(&self, root: usize, entry: &Entry<'_>, path: &mut Vec<u8>) -> bool {
        self.marks.contains(&local_mark(root, entry, path))
    }

    /// Writes it in place of what the file has.
    pub(crate) fn write(mut self, mut file: &File) -> anyhow::Result<()> {
        self.head.marks = self.marks.len();
        let head = serde_json::to_vec(&self.head)?;
        let mut bytes = Vec::with_capacity(16 + head.len() + self.marks.len() * 8);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend((head.len() as u64).to_le_bytes());
        bytes.extend(head);
        for mark in &self.marks {
            bytes.extend(mark.to_le_bytes());
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&bytes)?;
        Ok(())
    }

    /// Reads what was written of these caches; `None` when nothing was, not to its end, or too
    /// long ago.
    pub(crate) fn read(mut file: &File, caches: &Caches) -> Option<Self> {
        let mut bytes = Vec::new();
        file.rewind().ok()?;
        file.read_to_end(&mut bytes).ok()?;
        let (numbers, rest) = bytes.split_at_checked(16)?;
        let mut numbers = numbers
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes));
        if numbers.next()? != MAGIC {
            return None;
        }
        let (head, marks) = rest.split_at_checked(usize::try_from(numbers.next()?).ok()?)?;
        let head: Head = serde_json::from_slice(head).ok()?;
        let age = crate::now().checked_sub(head.taken)?;
        let marks = marks.as_chunks::<8>().0;
        let marks: HashSet<u64> = marks
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .collect();
        (head.caches == *caches && age <= BELIEVED.as_secs() && head.marks == marks.len())
            .then_some(Self { head, marks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Root;

    fn caches(store: &str) -> Caches {
        Caches {
            store: store.into(),
            roots: vec![Root {
                path: "/tools".into(),
                read_only: false,
                exclude: Vec::new(),
            }],
        }
    }

    fn written(change: impl FnOnce(&mut Memory)) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut memory = Memory::of(&caches("/store"));
        memory.add_units(["node/22.1.0/x64".parse().unwrap()].iter());
        memory.compared(0);
        memory.marks.extend([1, 2, 3]);
        change(&mut memory);
        memory.write(&file).unwrap();
        file
    }

    #[test]
    fn a_memory_is_read_as_it_was_written() {
        let read = Memory::read(&written(|_| ()), &caches("/store")).unwrap();
        assert!(read.has_unit(&"node/22.1.0/x64".parse().unwrap()));
        assert!(read.has_compared(0) && !read.has_compared(1));
        assert_eq!(read.marks, HashSet::from([1, 2, 3]));
    }

    #[test]
    fn a_memory_of_other_caches_or_an_old_or_a_broken_one_is_none() {
        let of = caches("/store");
        assert!(Memory::read(&written(|_| ()), &caches("/other")).is_none());
        let old = written(|memory| memory.head.taken -= BELIEVED.as_secs() + 60);
        assert!(Memory::read(&old, &of).is_none());
        let ahead = written(|memory| memory.head.taken += 3600);
        assert!(Memory::read(&ahead, &of).is_none());
        for length in 0..written(|_| ()).metadata().unwrap().len() {
            let cut = written(|_| ());
            cut.set_len(length).unwrap();
            assert!(Memory::read(&cut, &of).is_none(), "{length}");
        }
    }
}
