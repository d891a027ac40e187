//! Dividing files among rsyncs that work side by side.
//!
//! Owns how many they are. An rsync waits for the store most of the time, so many of them get more
//! done; but each costs as much as a hundred files do, which a store that answers at once never
//! gives back.

use std::time::{Duration, Instant};

use crate::rsync::{ARGUMENTS, Shard};
use crate::tree::{Entry, Kind};

/// What a file costs beside its bytes, in bytes: it is opened, read and closed, each a round trip.
const COST: u64 = 1 << 20;
/// The processor's time for a file, and for an rsync without any.
const WORK: Duration = Duration::from_micros(40);
const START: Duration = Duration::from_millis(6);
/// How often is measured what a store takes.
pub(crate) const LOOKS: usize = 3;

/// How many rsyncs copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// How long a file waits for the store.
    pub(crate) wait: Duration,
    pub(crate) processors: usize,
    /// They are never more; each takes memory.
    pub(crate) most: usize,
}

/// What something takes, of a few times the middle one: one answer may be late, another may come
/// from memory.
pub(crate) fn usual(mut act: impl FnMut(usize)) -> Duration {
    middle(std::array::from_fn(|turn| {
        let begin = Instant::now();
        act(turn);
        begin.elapsed()
    }))
}

fn middle(mut times: [Duration; LOOKS]) -> Duration {
    times.sort_unstable();
    times[LOOKS / 2]
}

impl Crowd {
    /// How many are the fastest for files that weigh so much together: more than keep the
    /// processors busy never are, nor those that cost more than they save of the waiting.
    fn size(self, weight: u64) -> usize {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (processors, wait, work) = (self.processors as u64, micros(self.wait), micros(WORK));
        // The processes of one rsync wait for each other half of the time.
        let busy = (2 * processors).saturating_mul(work.saturating_add(wait)) / work;
        // n of them take waiting ÷ n + n × START ÷ processors.
        let waiting = (weight / COST).saturating_mul(wait);
        let worth = (waiting.saturating_mul(processors) / micros(START)).isqrt();
        usize::try_from(busy.min(worth)).map_or(self.most, |size| size.clamp(1, self.most))
    }
}

/// Divides files, links among them, into parts that take about equally long, for as many rsyncs as
/// are the fastest; into more when the names do not fit. Neighbours stay together. So do the names
/// of one file, of which rsync makes hard links again; but not more of them than fit. Also how
/// many of the parts should be copied at a time.
pub(crate) fn divide<'a>(
    files: impl Iterator<Item = Entry<'a>>,
    crowd: Crowd,
) -> (Vec<Shard>, usize) {
    let (mut special, plain): (Vec<_>, Vec<_>) = files.partition(is_special);
    let all: u64 = special.iter().chain(&plain).map(weight).sum();
    let parts = crowd.size(all);
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
    // At its end an rsync sleeps twice: another one may begin meanwhile.
    (shards.shards, (2 * parts).min(crowd.most))
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

    fn crowd(wait: Duration) -> Crowd {
        Crowd {
            wait,
            processors: 2,
            most: 48,
        }
    }

    #[test]
    fn a_slow_store_has_many_rsyncs_and_a_fast_one_two_for_each_processor() {
        let size = |files: u64, micros| crowd(Duration::from_micros(micros)).size(files * COST);
        let sizes = [1, 100, 1000, 10_000, 160_000].map(|files| size(files, 2000));
        assert_eq!(sizes, [1, 8, 25, 48, 48]);
        let sizes = [1, 100, 1000, 10_000, 160_000].map(|files| size(files, 5));
        assert_eq!(sizes, [1, 1, 1, 4, 4]);
        assert_eq!(crowd(Duration::MAX).size(u64::MAX), 48);
    }

    #[test]
    fn one_late_answer_says_as_little_of_a_store_as_one_from_memory() {
        let times = |micros: [u64; LOOKS]| middle(micros.map(Duration::from_micros));
        assert_eq!(times([15, 60_000_000, 14]), Duration::from_micros(15));
        assert_eq!(times([2000, 1, 2100]), Duration::from_micros(2000));
    }

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
        let (shards, at_once) = divide(files(), crowd(Duration::ZERO));
        assert_eq!(at_once, 2);
        assert!(shards.len() > 2);
        assert!(shards.iter().all(|shard| shard.arguments <= ARGUMENTS));
        let all: Vec<String> = shards.iter().flat_map(names).collect();
        let expected: Vec<String> = files()
            .map(|entry| entry.path().display().to_string())
            .collect();
        assert_eq!(all, expected);
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
        let (shards, _) = divide(tree.entries(), crowd(Duration::from_millis(3)));
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
