//! What is new in a tree of loose files, and what is done in the store beside rsync's work: the
//! directories, and taking back what was moved.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, Mode, chmodat, utimensat};

use crate::moved::moved;
use crate::rsync::Copied;
use crate::tree::{Entry, Kind, Tree, Wanted};
use crate::{REQUESTS, Root, pack, trees};

/// A root with what the store lacks.
pub(crate) struct ChangedTree<'a> {
    pub(crate) first: bool,
    pub(crate) root: &'a Root,
    pub(crate) tree: Tree,
    /// For each entry whether the store has it.
    pub(crate) old: Vec<bool>,
}

impl ChangedTree<'_> {
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> + Clone {
        self.tree
            .entries()
            .zip(&self.old)
            .filter(|(_, old)| !**old)
            .map(|(entry, _)| entry)
    }
}

/// Regular files and their bytes, each once however many names it has.
pub(crate) fn amount<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Copied {
    let mut known = HashSet::new();
    let files = entries.filter(|entry| {
        let meta = entry.meta();
        meta.kind == Kind::File && (meta.links == 1 || known.insert(meta.inode))
    });
    files.fold(Copied::default(), |all, entry| Copied {
        files: all.files + 1,
        bytes: all.bytes + entry.meta().size,
    })
}

/// Removes from the store what rsync may have been led to; how much it is.
pub(crate) fn take_back_what_moved(
    place: &Path,
    changed: &ChangedTree<'_>,
) -> anyhow::Result<usize> {
    let copied = changed
        .entries()
        .filter(|entry| entry.meta().kind != Kind::Directory);
    // Nothing else has been looked into: what is beside the way there is not listed again.
    let mut ways: HashSet<PathBuf> = HashSet::new();
    for entry in copied.clone() {
        let mut above = std::iter::successors(entry.parent(), Entry::parent);
        while above
            .next()
            .is_some_and(|directory| ways.insert(directory.path()))
        {}
    }
    let again = Tree::local(&changed.root.path, &|entry| match entry.meta().kind {
        Kind::Directory if !ways.contains(&entry.path()) => Wanted::No,
        Kind::File | Kind::Directory | Kind::Link | Kind::Special => Wanted::Yes,
    })?;
    let moved = moved(copied, &again);
    at_once(&moved, |entry| {
        let path = place.join(entry.path());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    })?;
    Ok(moved.len())
}

/// Gives the directories that are new, or into which something new was put, their modes and times.
pub(crate) fn finish_directories(place: &Path, changed: &ChangedTree<'_>) -> anyhow::Result<()> {
    let mut touched: BTreeMap<u32, Entry<'_>> = BTreeMap::new();
    for entry in changed.entries() {
        let own = Some(entry).filter(|entry| entry.meta().kind == Kind::Directory);
        for directory in own.into_iter().chain(entry.parent()) {
            touched.insert(directory.index(), directory);
        }
    }
    let touched: Vec<Entry<'_>> = touched.into_values().collect();
    at_once(&touched, |entry| {
        let (path, meta) = (place.join(entry.path()), entry.meta());
        if meta.mode != 0o755 {
            let mode = Mode::from_raw_mode(u32::from(meta.mode));
            chmodat(CWD, &path, mode, AtFlags::empty())
                .with_context(|| format!("cannot change {}", path.display()))?;
        }
        // Another user's directory keeps its time.
        utimensat(
            CWD,
            &path,
            &pack::times(meta.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .ok();
        Ok(())
    })
}

/// Does something with each entry, as many at once as the store answers; the last error.
fn at_once(
    entries: &[Entry<'_>],
    act: impl Fn(&Entry<'_>) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Ok(())));
    let work = || {
        while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = act(entry) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
            }
        }
    };
    std::thread::scope(|scope| {
        // A fast store has answered everything before many threads have begun.
        for _ in 0..REQUESTS {
            if next.load(Ordering::Relaxed) >= entries.len() {
                break;
            }
            scope.spawn(work);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the directories that are new, level by level.
pub(crate) fn make_directories(place: &Path, changed: &ChangedTree<'_>) -> anyhow::Result<()> {
    let mut levels: Vec<Vec<Entry<'_>>> = Vec::new();
    let directories = changed
        .entries()
        .filter(|entry| entry.meta().kind == Kind::Directory);
    for entry in directories {
        let level = trees::depth_of(&entry);
        levels.resize_with(levels.len().max(level + 1), Vec::new);
        levels[level].push(entry);
    }
    levels.iter().try_for_each(|level| {
        at_once(level, |entry| {
            trees::make_directory(&place.join(entry.path()))
        })
    })
}
