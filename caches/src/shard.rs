//! Dividing files among rsyncs that work side by side.

use crate::rsync::Shard;
use crate::tree::{Entry, Kind};

/// What a file costs beside its bytes, in bytes: it is opened, read and closed, each a round trip.
const COST: u64 = 1 << 20;
/// Fewer files than this are not worth a process.
const LEAST: usize = 8;

/// Divides files, links among them, into at most `most` parts that take about equally long.
/// Neighbours stay together, hard links always.
pub(crate) fn divide<'a>(
    files: impl Iterator<Item = Entry<'a>> + Clone,
    most: usize,
) -> Vec<Shard> {
    let weight = |entry: &Entry<'_>| COST + entry.meta().size;
    let count = files.clone().count();
    let all: u64 = files.clone().map(|entry| weight(&entry)).sum();
    let parts = most.min(count.div_ceil(LEAST)).max(1);
    let share = all / parts as u64 + 1;
    let mut shards: Vec<Shard> = Vec::with_capacity(parts + 1);
    let mut special = Shard {
        special: true,
        ..Shard::default()
    };
    let mut filled = u64::MAX;
    for entry in files {
        let meta = entry.meta();
        let shard = if meta.kind == Kind::File && (meta.links > 1 || meta.sparse) {
            &mut special
        } else {
            if filled >= share {
                shards.push(Shard::default());
                filled = 0;
            }
            filled += weight(&entry);
            let Some(last) = shards.last_mut() else {
                continue;
            };
            last
        };
        entry.push_path(&mut shard.list);
        shard.list.push(0);
        shard.files += 1;
    }
    if special.files > 0 {
        shards.push(special);
    }
    shards
}
