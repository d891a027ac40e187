//! Local disk → store: new units as packs, and what changed in the loose trees.
//!
//! Owns what is new. A unit that was there before the job is never published, whatever became of
//! it; one that is in the store already stays as it is.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use init::{Children, Deadline};
use serde::{Deserialize, Serialize};

use crate::changed::{
    ChangedTree, amount, finish_directories, make_directories, take_back_what_moved,
};
use crate::memory::{Memory, content_mark};
use crate::pack::{self, Changed};
use crate::problems::Problems;
use crate::progress::Progress;
use crate::rsync::{self, Copied, Sharded};
use crate::shard::{Crowd, divide};
use crate::stop::Stop;
use crate::store::{Placed, Store, make_directory};
use crate::tree::{Kind, Tree, Wanted};
use crate::trees::{self, first_failure, loose};
use crate::unit::{Unit, scan};
use crate::{Caches, Event, REQUESTS, Root};

/// Rsyncs side by side: writing costs more round trips than reading, but there is less of it.
const RSYNCS: usize = 24;
/// Units up to this size are packed side by side; a larger one keeps all processors busy alone.
const SMALL: u64 = 8 << 20;
/// As many threads pack at once, each with a frame and its compressed form in memory.
const PACKERS: usize = 4;

/// Under which circumstances is published.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Condition {
    /// Units that were there before the job: what it did to them is not published.
    pub known: BTreeSet<Unit>,
    /// The job was cut short: a unit that changed after its marker is left out.
    pub interrupted: bool,
    /// Nothing is written; what would be is told.
    pub dry_run: bool,
    /// Who publishes, for people.
    pub by: String,
    /// Begins the names of what is being written. What another publication with the same beginning
    /// left is removed; none removes nothing.
    #[serde(default)]
    pub drafts: String,
}

/// What was published.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Published {
    /// Units that are new in the store, or would be.
    pub units: Vec<String>,
    /// Units that another publisher had put there meanwhile.
    pub lost_races: Vec<String>,
    /// Files that are new in the store.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What did not fit in the time.
    pub left_out: Vec<String>,
    /// What could not be published and why, one line each.
    pub problems: Vec<String>,
    /// The store belongs to somebody else; see [`crate::hand_over`].
    pub denied: bool,
}

impl Published {
    /// Counts a unit that is new in the store, or would be.
    pub fn count(&mut self, unit: &Unit, files: u64, bytes: u64) {
        self.units.push(unit.to_string());
        self.add(Copied { files, bytes });
    }

    fn add(&mut self, copied: Copied) {
        self.files += copied.files;
        self.bytes += copied.bytes;
    }
}

/// What a publication works with.
struct Work<'a> {
    caches: &'a Caches,
    condition: &'a Condition,
    children: &'a Children,
    stop: &'a Stop,
    progress: &'a Progress,
    tell: &'a (dyn Fn(Event) + Sync),
    problems: Mutex<Problems>,
}

/// A unit that is new here.
#[derive(Debug)]
struct New {
    unit: Unit,
    files: u64,
    bytes: u64,
}

/// Puts what is new into the store, as far as the time allows. `memory` is what the restore left.
pub fn publish(
    caches: &Caches,
    condition: &Condition,
    (children, memory): (&Children, &File),
    (stop, progress): (&Stop, &Progress),
    tell: &(dyn Fn(Event) + Sync),
) -> Published {
    let mut published = Published::default();
    let work = Work {
        caches,
        condition,
        children,
        stop,
        progress,
        tell,
        problems: Mutex::new(Problems::of_writing_to(caches.store.clone())),
    };
    if let Err(error) = work.publish(Memory::read(memory, caches), &mut published) {
        work.problems().end(&error);
    }
    let problems = std::mem::take(&mut *work.problems());
    published.denied = problems.is_denied();
    (published.left_out, published.problems) = problems.told();
    published
}

impl Work<'_> {
    fn problems(&self) -> MutexGuard<'_, Problems> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, memory: Option<Memory>, published: &mut Published) -> anyhow::Result<()> {
        let root = self.caches.tools();
        let local = scan(root)?;
        let units: HashSet<Unit> = local.iter().cloned().collect();
        let mut new = Vec::new();
        for unit in local {
            let doubtful = self.condition.interrupted && unit.is_in_doubt(root);
            let stored = memory.as_ref().is_some_and(|memory| memory.has_unit(&unit));
            if !doubtful
                && !stored
                && !self.condition.known.contains(&unit)
                && !self.caches.roots.first().is_some_and(|root| root.read_only)
            {
                new.push(New::of(unit, root)?);
            }
        }
        let mut changed = Vec::new();
        for (index, root) in self
            .caches
            .roots
            .iter()
            .enumerate()
            .filter(|(_, root)| !root.read_only)
        {
            changed.push(self.changed((index, root), &units, memory.as_ref())?);
        }
        // A store that is not asked cannot hang, and most jobs add nothing.
        if new.is_empty()
            && changed
                .iter()
                .all(|changed| changed.entries().next().is_none())
        {
            return Ok(());
        }
        let store = if self.condition.dry_run {
            match Store::open(&self.caches.store)? {
                Some(store) => store,
                None => {
                    for changed in &changed {
                        published.add(amount(changed.entries()));
                    }
                    return self.report(new, published);
                }
            }
        } else {
            Store::open_to_publish(&self.caches.store, &self.condition.drafts)?
        };
        self.publish_units(&store, new, published)?;
        for changed in changed {
            let name = changed.root.path.display().to_string();
            if self.problems().is_hopeless() {
                if changed.entries().next().is_some() {
                    self.problems().give_up(&name);
                }
            } else if let Err(error) = self.publish_tree(&store, &changed, published) {
                self.problems().add(&name, &error);
            }
        }
        Ok(())
    }

    fn report(&self, new: Vec<New>, published: &mut Published) -> anyhow::Result<()> {
        for new in new {
            published.count(&new.unit, new.files, new.bytes);
        }
        Ok(())
    }

    fn publish_units(
        &self,
        store: &Store,
        mut new: Vec<New>,
        published: &mut Published,
    ) -> anyhow::Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let there: HashSet<Unit> = store.packs()?.into_iter().map(|pack| pack.unit).collect();
        new.retain(|new| !there.contains(&new.unit));
        if new.is_empty() {
            return Ok(());
        }
        let plain = trees::plain_units(store, self.caches, &|unit| {
            !new.iter().any(|new| new.unit == *unit)
        })?;
        new.retain(|new| !plain.units.contains(&new.unit));
        if self.condition.dry_run {
            return self.report(new, published);
        }
        // Small before large: what does not fit in the time is little.
        new.sort_by_key(|new| new.bytes);
        self.progress
            .expect(0, new.iter().map(|new| new.bytes).sum());
        let split = new.partition_point(|new| new.bytes <= SMALL);
        self.publish_many(store, &new[..split], PACKERS, published);
        self.publish_many(store, &new[split..], 1, published);
        Ok(())
    }

    fn publish_many(
        &self,
        store: &Store,
        units: &[New],
        at_once: usize,
        published: &mut Published,
    ) {
        let at_once = at_once.min(units.len()).max(1);
        let packers = (crate::processors().min(PACKERS) / at_once).max(1);
        let next = AtomicUsize::new(0);
        let results = Mutex::new(published);
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    let counter = self.progress.counter();
                    while let Some(new) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let name = new.unit.to_string();
                        if self.problems().is_hopeless() {
                            self.problems().give_up(&name);
                            continue;
                        }
                        let outcome = publish_unit(
                            (self.caches.tools(), &new.unit),
                            (store, self.condition),
                            (self.stop, packers),
                        );
                        let mut published = results.lock().unwrap_or_else(PoisonError::into_inner);
                        match outcome {
                            Ok((Placed::Published, built)) => {
                                counter.add(built.files, built.bytes);
                                published.count(&new.unit, built.files, built.bytes);
                                (self.tell)(built.published(new.unit.clone()));
                            }
                            Ok((Placed::LostRace, _)) => published.lost_races.push(name),
                            Err(error) => self.problems().add(&name, &error),
                        }
                    }
                });
            }
        });
    }

    fn changed<'b>(
        &self,
        (index, root): (usize, &'b Root),
        units: &HashSet<Unit>,
        memory: Option<&Memory>,
    ) -> anyhow::Result<ChangedTree<'b>> {
        let wanted = loose(root, index == 0, units);
        let memory = memory.filter(|memory| memory.has_compared(index));
        let tree = Tree::local(&root.path, &|entry| match entry.meta().kind {
            Kind::Special => Wanted::No,
            Kind::File | Kind::Directory | Kind::Link => wanted(entry),
        })?;
        let mut path = Vec::new();
        let mut old: Vec<bool> = tree
            .entries()
            .map(|entry| memory.is_some_and(|memory| memory.has(index, &entry, &mut path)))
            .collect();
        if memory.is_none() && tree.len() > 0 {
            // Nobody remembers what the store has: it is asked.
            let stored = match Store::open(&self.caches.store)? {
                Some(store) => Tree::remote(&store.tree(root, index == 0), &wanted, REQUESTS)?,
                None => Tree::default(),
            };
            let stored: HashSet<u64> = stored
                .entries()
                .map(|entry| content_mark(&entry, &mut path))
                .collect();
            for (old, entry) in old.iter_mut().zip(tree.entries()) {
                *old = stored.contains(&content_mark(&entry, &mut path));
            }
        }
        if index == 0 {
            for index in trees::of_units_only(&tree) {
                old[index as usize] = true;
            }
        }
        Ok(ChangedTree {
            first: index == 0,
            root,
            tree,
            old,
        })
    }

    fn publish_tree(
        &self,
        store: &Store,
        changed: &ChangedTree<'_>,
        published: &mut Published,
    ) -> anyhow::Result<()> {
        let files = || {
            changed
                .entries()
                .filter(|entry| entry.meta().kind != Kind::Directory)
        };
        let (count, bytes) = files().fold((0, 0), |(count, bytes), entry| {
            (count + 1, bytes + entry.meta().size)
        });
        if self.condition.dry_run {
            published.add(amount(changed.entries()));
            return Ok(());
        }
        if changed.entries().next().is_none() {
            return Ok(());
        }
        self.stop.check()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(rsync::check(
            self.children,
            Deadline::within(Duration::from_secs(10)),
        ))?;
        let place = store.tree(changed.root, changed.first);
        make_directory(&place)?;
        make_directories(&place, changed)?;
        if count == 0 {
            return finish_directories(&place, changed);
        }
        self.progress.expect(count, bytes);
        let crowd = Crowd {
            wait: store.wait_of_writing()?,
            processors: crate::processors(),
            most: RSYNCS,
        };
        let (shards, at_once) = divide(files(), crowd);
        let copy = Sharded {
            from: &changed.root.path,
            to: &place,
            shards,
            at_once,
        };
        let outcomes = copy.run(self.children, self.stop, self.progress)?;
        let moved = take_back_what_moved(&place, changed)?;
        finish_directories(&place, changed)?;
        for outcome in &outcomes {
            if let rsync::Outcome::Complete(copied) = outcome {
                published.add(*copied);
            }
        }
        first_failure(outcomes).map_or(Ok(()), Err)?;
        anyhow::ensure!(moved == 0, "{moved} entries changed while they were copied");
        Ok(())
    }
}

/// Publishes one unit.
pub(crate) fn publish_unit(
    (root, unit): (&Path, &Unit),
    (store, condition): (&Store, &Condition),
    (stop, packers): (&Stop, usize),
) -> anyhow::Result<(Placed, pack::Built)> {
    stop.check()?;
    let mut draft = store.draft()?;
    let built = pack::build(
        (root, unit),
        (&mut draft.file, &condition.by),
        (stop, packers),
    );
    let built = match built {
        Err(error) if error.is::<Changed>() => return Err(error),
        other => other.with_context(|| format!("cannot pack {unit}"))?,
    };
    Ok((draft.place(&store.pack(unit))?, built))
}

impl New {
    fn of(unit: Unit, root: &Path) -> anyhow::Result<Self> {
        let tree = Tree::local(&unit.directory(root), &|_| Wanted::Yes)?;
        let Copied { files, bytes } = amount(tree.entries());
        Ok(Self { unit, files, bytes })
    }
}
