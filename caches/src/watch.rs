//! Early publishing: a tool is packed when its marker appears, before a job changes it.
//!
//! Owns noticing: the kernel tells of new names in the few directories where tools and their
//! versions are. Everything else is publishing as at the end.

use std::collections::BTreeSet;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

use crate::problems::Problems;
use crate::publish::{Condition, Published, publish_unit};
use crate::stop::Stop;
use crate::store::{Placed, Store};
use crate::unit::{Unit, scan};
use crate::{Caches, Event};

/// How soon it is noticed that the watching is over: the end of a job waits for it.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// So many of them later is looked without a notice: one can be lost.
const TICKS: usize = 10;

/// Publishes each unit that becomes complete, until it is told to stop.
pub fn watch(
    caches: &Caches,
    condition: &Condition,
    stop: &Stop,
    tell: &(dyn Fn(Event) + Sync),
) -> Published {
    let mut published = Published::default();
    if let Err(error) = follow(caches, condition, (stop, tell), &mut published) {
        let mut problems = Problems::of_writing_to(caches.store.clone());
        problems.end(&error);
        published.denied = problems.is_denied();
        published.problems.extend(problems.told().1);
    }
    published
}

fn follow(
    caches: &Caches,
    condition: &Condition,
    (stop, tell): (&Stop, &(dyn Fn(Event) + Sync)),
    published: &mut Published,
) -> anyhow::Result<()> {
    // The job comes first.
    rustix::process::nice(10).ok();
    let root = caches.tools();
    let notices = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .context("cannot watch the tool cache")?;
    let mut seen = condition.known.clone();
    let mut store = None;
    while !stop.is_over() {
        // Before the look: what appears after it is noticed.
        observe(&notices, root)?;
        for unit in new_units(root, &mut seen)? {
            let opened = match &store {
                Some(store) => store,
                None => store.insert(open(&caches.store, &condition.drafts)?),
            };
            match publish_unit((root, &unit), (opened, condition), (stop, 1)) {
                Ok((Placed::Published, built)) => {
                    published.count(&unit, built.files, built.bytes);
                    tell(built.published(unit));
                }
                Ok((Placed::LostRace, _)) => published.lost_races.push(unit.to_string()),
                // A unit that the job changes already is not what was installed.
                Err(error) => published.problems.push(format!("{unit}: {error:#}")),
            }
        }
        wait(&notices, stop)?;
    }
    Ok(())
}

/// Opens a store if it can be written: what is known of a unit that cannot be published is less.
fn open(path: &Path, drafts: &str) -> anyhow::Result<Store> {
    let store = Store::open_to_publish(path, drafts)?;
    store.draft()?;
    Ok(store)
}

fn new_units(root: &Path, seen: &mut BTreeSet<Unit>) -> anyhow::Result<Vec<Unit>> {
    let mut units = scan(root)?;
    units.retain(|unit| seen.insert(unit.clone()));
    Ok(units)
}

/// Asks for notices of the root, the tools and their versions. Asking again changes nothing.
fn observe(notices: &OwnedFd, root: &Path) -> anyhow::Result<()> {
    let flags =
        WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
    let below = |path: &PathBuf| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let tools: Vec<PathBuf> = below(&root.to_owned()).collect();
    let versions: Vec<PathBuf> = tools.iter().flat_map(below).collect();
    add_watch(notices, root, flags).with_context(|| format!("cannot watch {}", root.display()))?;
    for path in tools.iter().chain(&versions) {
        // Files are none, and what is gone is not missed.
        add_watch(notices, path, flags).ok();
    }
    Ok(())
}

fn wait(notices: &OwnedFd, stop: &Stop) -> anyhow::Result<()> {
    let mut fds = [PollFd::new(notices, PollFlags::IN)];
    for _ in 0..TICKS {
        match poll(&mut fds, Some(&TICK)) {
            Ok(0) if !stop.is_over() => {}
            Err(rustix::io::Errno::INTR) | Ok(_) => break,
            Err(error) => return Err(error).context("cannot wait for notices"),
        }
    }
    // Which names they are is not asked: looking is cheap.
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(notices, &mut buffer);
    while reader.next().is_ok() {}
    Ok(())
}
