//! What somebody moved or removed while rsync read it.
//!
//! rsync is given paths, and whoever puts a link in the place of a directory on the way leads it
//! elsewhere. That shows afterwards: who renames something, or brings it back, changes its time
//! of change, which nobody can set. So does the directory from which something is removed.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::tree::{Entry, Tree};

/// Of the entries of a listing those that are not in another listing as they were, or below a
/// directory that is not.
pub(crate) fn moved<'a>(entries: impl Iterator<Item = Entry<'a>>, again: &Tree) -> Vec<Entry<'a>> {
    let mut path = Vec::new();
    let unmoved: HashSet<u64> = again
        .entries()
        .map(|entry| mark(&entry, &mut path))
        .collect();
    let is_unmoved = |entry: &Entry<'a>, path: &mut Vec<u8>| {
        let mut way = std::iter::successors(Some(*entry), Entry::parent);
        way.all(|entry| unmoved.contains(&mark(&entry, path)))
    };
    entries
        .filter(|entry| !is_unmoved(entry, &mut path))
        .collect()
}

fn mark(entry: &Entry<'_>, path: &mut Vec<u8>) -> u64 {
    path.clear();
    entry.push_path(path);
    let mut hasher = DefaultHasher::new();
    let meta = entry.meta();
    (path, meta.kind as u8, meta.inode).hash(&mut hasher);
    (meta.size, meta.mtime, meta.ctime).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::tree::Wanted;

    fn list(top: &Path) -> Tree {
        Tree::local(top, &|_| Wanted::Yes).unwrap()
    }

    /// The clock by which files are dated goes in steps.
    fn wait_for_the_next_tick(path: &Path) {
        let time = || fs::metadata(path).unwrap().modified().unwrap();
        let before = std::time::SystemTime::now();
        while time() <= before {
            let probe = path.join("probe");
            fs::write(&probe, "").unwrap();
            fs::remove_file(&probe).unwrap();
        }
    }

    #[test]
    fn what_was_moved_away_and_back_has_been_moved() {
        let top = tempfile::tempdir().unwrap();
        for name in ["still/file", "moved/deep/file"] {
            let path = top.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let before = list(top.path());
        assert!(moved(before.entries(), &list(top.path())).is_empty());
        let probe = tempfile::tempdir().unwrap();
        wait_for_the_next_tick(probe.path());
        let (place, away) = (top.path().join("moved"), top.path().join("away"));
        fs::rename(&place, &away).unwrap();
        symlink("still", &place).unwrap();
        fs::remove_file(&place).unwrap();
        fs::rename(&away, &place).unwrap();
        let mut names: Vec<String> = moved(before.entries(), &list(top.path()))
            .iter()
            .map(|entry| entry.path().display().to_string())
            .collect();
        names.sort();
        assert_eq!(names, ["moved", "moved/deep", "moved/deep/file"]);
    }
}
