//! House-keeping in a store while others use it.
//!
//! What is thrown away is renamed first and removed when nobody can be reading it any more; what
//! killed publishers left is removed when nobody can be writing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::filter::is_leftover;
use crate::pack::Pack;
use crate::store::{Listed, Store};
use crate::tree::{Tree, Wanted};
use crate::{Caches, REQUESTS, age};

/// What goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Units that no restore has used for so long.
    pub unused: Option<Duration>,
    /// Units that were published so long ago.
    pub older: Option<Duration>,
    /// The least recently used units, until the rest is no larger.
    pub max_bytes: Option<u64>,
    /// How long a restore or a publication can take at most: until then nothing that one may be
    /// using is removed.
    pub grace: Duration,
    /// Nothing is changed; what would be is told.
    pub dry_run: bool,
}

/// What went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pruned {
    /// Units that no restore finds any more.
    pub units: Vec<String>,
    /// Why each of them went, for people.
    pub why: Vec<String>,
    /// The size of their packs.
    pub bytes: u64,
    /// Things that were left behind, or thrown away long enough ago, and are removed now.
    pub leftovers: u64,
    /// What could not be removed and why, one line each.
    pub problems: Vec<String>,
}

/// Removes what the rules name and what nobody needs.
///
/// # Errors
/// When the store is not there, or cannot be read or written.
pub fn prune(caches: &Caches, rules: &Rules) -> anyhow::Result<Pruned> {
    let store = Store::existing(&caches.store)?;
    let mut pruned = Pruned::default();
    let now = if rules.dry_run {
        SystemTime::now()
    } else {
        Store::open_to_publish(&caches.store, "")?.now()?
    };
    for (pack, why) in chosen(&store, rules, now)? {
        pruned.bytes += pack.size;
        pruned.units.push(pack.unit.to_string());
        pruned.why.push(why);
        if !rules.dry_run
            && let Err(error) = store.discard(&store.pack(&pack.unit))
        {
            pruned.problems.push(format!("{}: {error:#}", pack.unit));
        }
    }
    let mut gone = store
        .rubbish()
        .iter()
        .flat_map(|directory| left_in(directory))
        .collect::<Vec<_>>();
    for (index, root) in caches.roots.iter().enumerate() {
        let tree = store.tree(root, index == 0);
        gone.extend(left_in_tree(&tree)?);
    }
    for (path, since) in gone {
        if age(now, since) < rules.grace {
            continue;
        }
        pruned.leftovers += 1;
        if !rules.dry_run
            && let Err(error) = remove(&path)
        {
            pruned.problems.push(format!("{}: {error}", path.display()));
        }
    }
    Ok(pruned)
}

/// The packs that the rules name, and why.
fn chosen(store: &Store, rules: &Rules, now: SystemTime) -> anyhow::Result<Vec<(Listed, String)>> {
    let mut packs = store.packs()?;
    packs.sort_by_key(|pack| std::cmp::Reverse(pack.used));
    let mut kept = 0;
    let mut chosen = Vec::new();
    for pack in packs {
        let unused = age(now, pack.used);
        let why = if rules.unused.is_some_and(|limit| unused > limit) {
            Some(format!("not restored for {} days", days(unused)))
        } else if let Some(age) = age_beyond(rules.older, (store, &pack), now) {
            Some(format!("published {} days ago", days(age)))
        } else {
            kept += pack.size;
            let too_much = rules.max_bytes.is_some_and(|most| kept > most);
            too_much.then(|| "the least recently used of too much".to_owned())
        };
        chosen.extend(why.map(|why| (pack, why)));
    }
    Ok(chosen)
}

/// How long ago a unit was published, if that is too long.
fn age_beyond(
    limit: Option<Duration>,
    (store, pack): (&Store, &Listed),
    now: SystemTime,
) -> Option<Duration> {
    let limit = limit?;
    // One that cannot be read has no age; verify deals with it.
    let opened = Pack::open(&store.pack(&pack.unit), &pack.unit).ok()?;
    let published = SystemTime::UNIX_EPOCH + Duration::from_secs(opened.manifest.published);
    Some(age(now, published)).filter(|age| *age > limit)
}

fn days(time: Duration) -> u64 {
    time.as_secs() / (24 * 3600)
}

fn left_in(directory: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let timed =
        entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.modified().ok()?)));
    timed.collect()
}

/// What killed rsyncs left among the loose files.
fn left_in_tree(place: &Path) -> anyhow::Result<Vec<(PathBuf, SystemTime)>> {
    let tree = Tree::remote(place, &|_| Wanted::Yes, REQUESTS)?;
    let left = tree.entries().filter(is_leftover).map(|entry| {
        let nanos = u64::try_from(entry.meta().ctime).unwrap_or(0);
        (
            place.join(entry.path()),
            SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos),
        )
    });
    Ok(left.collect())
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => crate::remove_tree(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
