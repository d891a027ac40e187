//! Store → local disk: what matters most first, each unit whole or not at all.
//!
//! Owns the order and the work of many threads on many packs at once. A cache never fails a job:
//! what cannot be restored is left out and named.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use init::Children;
use serde::{Deserialize, Serialize};

use crate::filter::wildcard;
use crate::local::Stage;
use crate::memory::Memory;
use crate::pack::{Buffers, Damaged, Extraction, Pack};
use crate::problems::Problems;
use crate::progress::{Counter, Progress};
use crate::rsync::Copied;
use crate::stop::Stop;
use crate::store::{Listed, Store};
use crate::trees;
use crate::unit::{Unit, scan};
use crate::{Caches, Event};

/// More than processors, because each waits for the store now and then; few, because each holds a
/// frame.
const THREADS: usize = 8;
/// Units that are opened while their predecessors are unpacked.
const AHEAD: usize = 8;
const DAY: u64 = 24 * 3600;

/// What is wanted of a restore.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Order {
    /// Patterns of units that come before all others; then [`Event::Ready`] is told.
    pub first: Vec<String>,
    /// Nothing is written to the store, not even that a unit is in use.
    pub read_only: bool,
}

/// What a restore brought.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Restored {
    /// Units that are complete on the local disk now and were not before.
    pub units: usize,
    /// Files that arrived; none of a unit that did not.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What did not fit in the time.
    pub left_out: Vec<String>,
    /// What could not be restored and why, one line each.
    pub problems: Vec<String>,
}

impl Restored {
    pub(crate) fn count(&mut self, arrived: Copied) {
        self.files += arrived.files;
        self.bytes += arrived.bytes;
    }
}

/// Everything that one restore shares.
pub(crate) struct Work<'a> {
    pub(crate) caches: &'a Caches,
    pub(crate) children: &'a Children,
    pub(crate) stop: &'a Stop,
    pub(crate) progress: &'a Progress,
    pub(crate) tell: &'a (dyn Fn(Event) + Sync),
    pub(crate) read_only: bool,
    problems: Mutex<Problems>,
}

/// Brings the local directories up to the store, as far as the time allows. `memory` gets what
/// need not be published later.
pub fn restore(
    caches: &Caches,
    order: &Order,
    (children, memory): (&Children, &File),
    (stop, progress): (&Stop, &Progress),
    tell: &(dyn Fn(Event) + Sync),
) -> Restored {
    let mut restored = Restored::default();
    let work = Work {
        caches,
        children,
        stop,
        progress,
        tell,
        read_only: order.read_only,
        problems: Mutex::default(),
    };
    let mut known = Memory::of(caches);
    match work.restore(order, &mut known, &mut restored) {
        Ok(()) => {
            if let Err(error) = known.write(memory) {
                restored
                    .problems
                    .push(format!("cannot keep what was restored: {error:#}"));
            }
        }
        Err(error) => work.problems().end(&error),
    }
    let (left_out, problems) = std::mem::take(&mut *work.problems()).told();
    restored.left_out = left_out;
    restored.problems.extend(problems);
    restored
}

impl Work<'_> {
    fn restore(
        &self,
        order: &Order,
        known: &mut Memory,
        restored: &mut Restored,
    ) -> anyhow::Result<()> {
        let tools = self.caches.tools();
        let local: HashSet<Unit> = scan(tools)?.into_iter().collect();
        (self.tell)(Event::Known(local.iter().cloned().collect()));
        let store = Store::existing(&self.caches.store)?;
        let mut packs = store.packs()?;
        let mut plain = trees::plain_units(&store, self.caches, &|unit| {
            local.contains(unit) || packs.iter().any(|pack| pack.unit == *unit)
        })?;
        let all = packs
            .iter()
            .map(|pack| &pack.unit)
            .chain(plain.units.iter());
        let mut units: HashSet<Unit> = all.cloned().collect();
        (self.tell)(Event::Known(units.iter().cloned().collect()));
        known.add_units(units.iter());
        units.extend(local.iter().cloned());
        if !self.read_only {
            self.note_use(&store, &packs);
        }
        packs.retain(|pack| !local.contains(&pack.unit));
        sort(&mut packs, &order.first, SystemTime::now());
        let urgent = packs
            .iter()
            .take_while(|pack| is_first(&pack.unit, &order.first))
            .count();
        if !packs.is_empty() || !plain.units.is_empty() {
            let stage = Stage::make(tools)?;
            // Nobody else installs tools until the runner starts.
            self.unpack(&store, &stage, (&packs[..urgent], true), restored)?;
            if urgent > 0 {
                let Restored { files, bytes, .. } = *restored;
                (self.tell)(Event::Ready { files, bytes });
            }
            self.unpack(&store, &stage, (&packs[urgent..], urgent == 0), restored)?;
            trees::restore_plain(self, &stage, &mut plain, (urgent == 0, restored))?;
        }
        trees::restore_loose(self, (&store, &units), (known, restored))
    }

    fn note_use(&self, store: &Store, packs: &[Listed]) {
        std::thread::scope(|scope| {
            for part in packs.chunks(packs.len().div_ceil(16).max(1)) {
                scope.spawn(|| part.iter().for_each(|pack| store.note_use(pack)));
            }
        });
    }

    fn unpack(
        &self,
        store: &Store,
        stage: &Stage,
        (packs, displace): (&[Listed], bool),
        restored: &mut Restored,
    ) -> anyhow::Result<()> {
        let unpacking = Unpacking {
            work: self,
            store,
            stage,
            packs,
            displace,
            queue: Mutex::new(Queue {
                next: 0,
                frames: VecDeque::new(),
                open: 0,
            }),
            change: Condvar::new(),
            results: Mutex::default(),
        };
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(packs.len() * 4) {
                scope.spawn(|| unpacking.work());
            }
        });
        let results = unpacking
            .results
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for (unit, outcome) in results {
            match outcome {
                Ok(made) => {
                    restored.units += 1;
                    restored.count(made);
                }
                Err(error) => self.problems().add(&unit.to_string(), &error),
            }
        }
        Ok(())
    }

    pub(crate) fn problems(&self) -> MutexGuard<'_, Problems> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_first(unit: &Unit, first: &[String]) -> bool {
    let name = unit.to_string();
    first.iter().any(|pattern| {
        wildcard(pattern.as_bytes(), name.as_bytes())
            || wildcard(format!("{pattern}/*").as_bytes(), name.as_bytes())
    })
}

/// Wanted first, then by the day of the last use, small before large.
fn sort(packs: &mut [Listed], first: &[String], now: SystemTime) {
    packs.sort_by_key(|pack| {
        let days = crate::age(now, pack.used).as_secs() / DAY;
        (!is_first(&pack.unit, first), days, pack.size)
    });
}

/// Many threads at many packs.
struct Unpacking<'a> {
    work: &'a Work<'a>,
    store: &'a Store,
    stage: &'a Stage,
    packs: &'a [Listed],
    displace: bool,
    queue: Mutex<Queue<'a>>,
    change: Condvar,
    results: Mutex<Vec<(Unit, anyhow::Result<Copied>)>>,
}

struct Queue<'a> {
    /// The next pack to be opened.
    next: usize,
    frames: VecDeque<(Arc<Making<'a>>, usize)>,
    /// Packs that are being opened or unpacked.
    open: usize,
}

/// A unit that is being made.
struct Making<'a> {
    extraction: Extraction<'a>,
    left: AtomicUsize,
    failed: AtomicBool,
    error: Mutex<Option<anyhow::Error>>,
}

enum Task<'a> {
    Open(&'a Listed),
    Frame(Arc<Making<'a>>, usize),
}

/// A pack that was opened.
enum Opened<'a> {
    /// There are frames to be unpacked.
    Frames(Arc<Making<'a>>),
    /// It has no files, and its unit is there.
    Whole(Copied),
}

impl<'a> Unpacking<'a> {
    fn work(&self) {
        let counter = self.work.progress.counter();
        let mut buffers = match Buffers::new() {
            Ok(buffers) => buffers,
            Err(error) => return self.failed_thread(&error),
        };
        while let Some(task) = self.next() {
            match task {
                Task::Open(listed) => match self.open(listed, &mut buffers, &counter) {
                    Ok(Opened::Frames(making)) => self.add_frames(making),
                    Ok(Opened::Whole(made)) => self.done(&listed.unit, Ok(made)),
                    Err(error) => self.done(&listed.unit, Err(error)),
                },
                Task::Frame(making, index) => {
                    if !making.failed.load(Ordering::Relaxed)
                        && let Err(error) = self.frame(&making, index, (&mut buffers, &counter))
                    {
                        making.failed.store(true, Ordering::Relaxed);
                        *making.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                    if making.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                        self.end(&making, &mut buffers);
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<'a>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Task<'a>> {
        let mut queue = self.lock();
        loop {
            if let Some((making, index)) = queue.frames.pop_front() {
                return Some(Task::Frame(making, index));
            }
            if let Some(listed) = self.packs.get(queue.next).filter(|_| queue.open < AHEAD) {
                queue.next += 1;
                queue.open += 1;
                return Some(Task::Open(listed));
            }
            if queue.open == 0 {
                self.change.notify_all();
                return None;
            }
            queue = self
                .change
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads the manifest and makes the directories.
    fn open(
        &self,
        listed: &Listed,
        buffers: &mut Buffers,
        counter: &Counter,
    ) -> anyhow::Result<Opened<'a>> {
        self.work.stop.check()?;
        let pack = match Pack::open(&self.store.pack(&listed.unit), &listed.unit) {
            Err(error) if error.is::<Damaged>() => {
                self.quarantine(&listed.unit, inode_of(&self.store.pack(&listed.unit)));
                return Err(error);
            }
            other => other?,
        };
        anyhow::ensure!(
            pack.manifest.arch == std::env::consts::ARCH,
            "it belongs to {}",
            pack.manifest.arch
        );
        self.work
            .progress
            .expect(pack.manifest.files, pack.manifest.bytes);
        let making = Making {
            left: AtomicUsize::new(pack.manifest.frames.len().saturating_sub(2)),
            extraction: Extraction::new(pack, &self.stage.handle),
            failed: AtomicBool::new(false),
            error: Mutex::default(),
        };
        if let Err(error) = self.frame(&making, 0, (buffers, counter)) {
            self.quarantine_if_damaged(&making, &error);
            return Err(error);
        }
        if making.left.load(Ordering::Relaxed) == 0 {
            return Ok(Opened::Whole(self.commit(&making, buffers)?));
        }
        Ok(Opened::Frames(Arc::new(making)))
    }

    fn frame(
        &self,
        making: &Making<'_>,
        index: usize,
        (buffers, counter): (&mut Buffers, &Counter),
    ) -> anyhow::Result<()> {
        self.work.stop.check()?;
        let made = making.extraction.frame(index, buffers)?;
        counter.add(made.files, made.bytes);
        Ok(())
    }

    fn add_frames(&self, making: Arc<Making<'a>>) {
        let count = making.left.load(Ordering::Relaxed);
        let mut queue = self.lock();
        queue
            .frames
            .extend((1..=count).map(|index| (Arc::clone(&making), index)));
        self.change.notify_all();
    }

    fn end(&self, making: &Making<'_>, buffers: &mut Buffers) {
        let error = making
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let outcome = match error {
            Some(error) => Err(error),
            None => self.commit(making, buffers),
        };
        if let Err(error) = &outcome {
            self.quarantine_if_damaged(making, error);
        }
        self.done(&making.extraction.pack.manifest.unit, outcome);
    }

    fn commit(&self, making: &Making<'_>, buffers: &mut Buffers) -> anyhow::Result<Copied> {
        self.work.stop.check()?;
        let pack = &making.extraction.pack;
        making
            .extraction
            .frame(pack.manifest.frames.len() - 1, buffers)?;
        let marker = making.extraction.finish()?;
        self.stage
            .commit(&pack.manifest.unit, marker, self.displace)?;
        Ok(Copied {
            files: pack.manifest.files,
            bytes: pack.manifest.bytes,
        })
    }

    fn done(&self, unit: &Unit, outcome: anyhow::Result<Copied>) {
        if outcome.is_ok() {
            (self.work.tell)(Event::Restored(unit.clone()));
        }
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.push((unit.clone(), outcome));
        drop(results);
        self.lock().open -= 1;
        self.change.notify_all();
    }

    fn quarantine_if_damaged(&self, making: &Making<'_>, error: &anyhow::Error) {
        if error.is::<Damaged>() {
            let pack = &making.extraction.pack;
            self.quarantine(&pack.manifest.unit, Some(pack.inode));
        }
    }

    fn quarantine(&self, unit: &Unit, inode: Option<u64>) {
        if let (false, Some(inode)) = (self.work.read_only, inode) {
            // Who may not write leaves it to others.
            self.store.quarantine(unit, inode).ok();
        }
    }

    /// Without a thread its share of the packs must not be waited for.
    fn failed_thread(&self, error: &anyhow::Error) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue = self.lock();
        while let Some(listed) = self.packs.get(queue.next) {
            queue.next += 1;
            results.push((listed.unit.clone(), Err(anyhow::anyhow!("{error:#}"))));
        }
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|meta| meta.ino())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_wanted_comes_first_then_the_recently_used_then_the_small() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * DAY);
        let listed = |name: &str, size, days: u64| Listed {
            unit: name.parse().unwrap(),
            size,
            used: now - Duration::from_secs(days * DAY),
        };
        let mut packs = vec![
            listed("old/1/x64", 1, 9),
            listed("large/1/x64", 9, 0),
            listed("small/1/x64", 2, 0),
            listed("node/22.1.0/x64", 99, 50),
        ];
        sort(&mut packs, &["node/22*".to_owned()], now);
        let names: Vec<String> = packs.iter().map(|pack| pack.unit.to_string()).collect();
        assert_eq!(
            names,
            ["node/22.1.0/x64", "small/1/x64", "large/1/x64", "old/1/x64"]
        );
        let unit = "node/22.1.0/x64".parse().unwrap();
        for (pattern, is) in [
            ("node", true),
            ("node/22", false),
            ("no", false),
            ("*", true),
        ] {
            assert_eq!(is_first(&unit, &[pattern.to_owned()]), is, "{pattern}");
        }
    }
}
