//! Dividing files among rsyncs that work side by side.

use crate::rsync::{ARGUMENTS, Shard};
use crate::tree::{Entry, Kind};

/// What a file costs beside its bytes, in bytes: it is opened, read and closed, each a round trip.
const COST: u64 = 1 << 20;
/// Fewer files than this are not worth a process.
const LEAST: usize = 8;

/// Divides files, links among them, into about `most` parts that take about equally long, or into
/// more when the names do not fit. Neighbours stay together. So do the names of one file, of which
/// rsync makes hard links again; but not more of them than fit.
pub(crate) fn divide<'a>(files: impl Iterator<Item = Entry<'a>>, most: usize) -> Vec<Shard> {
    let (mut special, plain): (Vec<_>, Vec<_>) = files.partition(is_special);
    let all: u64 = special.iter().chain(&plain).map(weight).sum();
    let count = special.len() + plain.len();
    let parts = most.min(count.div_ceil(LEAST)).max(1);
    let mut shards = Shards {
        share: all / parts as u64 + 1,
        shards: Vec::with_capacity(parts + 2),
        filled: u64::MAX,
    };
    for entry in &plain {
        shards.add(std::slice::from_ref(entry), false);
    }
    shards.filled = u64::MAX;
    special.sort_by_key(|entry| entry.meta().inode);
    for names in special.chunk_by(|one, other| one.meta().inode == other.meta().inode) {
        shards.add(names, true);
    }
    shards.shards
}

/// A file with other names, or with holes.
fn is_special(entry: &Entry<'_>) -> bool {
    let meta = entry.meta();
    meta.kind == Kind::File && (meta.links > 1 || meta.sparse)
}

fn weight(entry: &Entry<'_>) -> u64 {
    COST + entry.meta().size
}

/// Parts that are being filled, the last one at this moment.
struct Shards {
    share: u64,
    shards: Vec<Shard>,
    filled: u64,
}

impl Shards {
    /// Adds the names of one file.
    fn add(&mut self, names: &[Entry<'_>], special: bool) {
        let room: usize = names.iter().map(room).sum();
        if self.filled >= self.share || !self.has(room) {
            self.begin(special);
        }
        for entry in names {
            if !self.has(self::room(entry)) {
                self.begin(special);
            }
            self.filled += weight(entry);
            if let Some(shard) = self.shards.last_mut() {
                entry.push_path(&mut shard.list);
                shard.list.push(0);
                shard.arguments += self::room(entry);
            }
        }
    }

    fn has(&self, room: usize) -> bool {
        self.shards
            .last()
            .is_some_and(|shard| shard.arguments + room <= ARGUMENTS)
    }

    fn begin(&mut self, special: bool) {
        self.filled = 0;
        self.shards.push(Shard {
            special,
            ..Shard::default()
        });
    }
}

/// What an argument takes: the path after a dot and a slash, its end, and its address.
fn room(entry: &Entry<'_>) -> usize {
    let above = std::iter::successors(Some(*entry), Entry::parent);
    above.map(|one| one.name().len() + 1).sum::<usize>() + 2 + size_of::<usize>()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tree::{Tree, Wanted};

    fn names(shard: &Shard) -> Vec<String> {
        let paths = shard
            .paths()
            .map(|path| path.to_string_lossy().into_owned());
        paths.collect()
    }

    #[test]
    fn every_file_is_in_one_part_and_no_part_has_more_names_than_fit() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        for number in 0..1200 {
            fs::write(deep.join(format!("{number:0200}")), "").unwrap();
        }
        let tree = Tree::local(top.path(), &|_| Wanted::Yes).unwrap();
        let files = || {
            tree.entries()
                .filter(|entry| entry.meta().kind == Kind::File)
        };
        let shards = divide(files(), 2);
        assert!(shards.len() > 2);
        assert!(shards.iter().all(|shard| shard.arguments <= ARGUMENTS));
        let all: Vec<String> = shards.iter().flat_map(names).collect();
        let expected: Vec<String> = files()
            .map(|entry| entry.path().display().to_string())
            .collect();
        assert_eq!(all, expected);
        assert_eq!(divide(files().take(20), 48).len(), 3);
    }

    #[test]
    fn the_names_of_one_file_stay_together() {
        let top = tempfile::tempdir().unwrap();
        for number in 0..100 {
            let file = top.path().join(format!("a{number}"));
            fs::write(&file, "").unwrap();
            fs::hard_link(&file, top.path().join(format!("z{number}"))).unwrap();
        }
        let tree = Tree::local(top.path(), &|_| Wanted::Yes).unwrap();
        let shards = divide(tree.entries(), 8);
        assert!(shards.len() > 4 && shards.iter().all(|shard| shard.special));
        for shard in &shards {
            let names = names(shard);
            for name in &names {
                let other = name.replace(['a', 'z'], if name.starts_with('a') { "z" } else { "a" });
                assert!(names.contains(&other), "{name} is alone in {names:?}");
            }
        }
    }
}
