//! What is moved by rsync: everything that is loose, and units that plain rsync brought to the
//! store.
//!
//! Owns comparing both sides. Each is listed once; what has the same number on both sides is the
//! same (see [`crate::memory`]), and only the rest is handed to rsync, in many parts.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use rustix::fs::{AtFlags, CWD, Mode, chmodat, utimensat};

use crate::changed::amount;
use crate::filter::Filter;
use crate::local::Stage;
use crate::memory::{Memory, content_mark};
use crate::moved::moved;
use crate::pack::times;
use crate::restore::{Restored, Work};
use crate::rsync::{Copied, Outcome, Sharded, all_copied};
use crate::shard::{Crowd, LOOKS, divide, usual};
use crate::store::{Store, is_ours};
use crate::tree::{Entry, Kind, Tree, Wanted};
use crate::unit::{MARKER, Unit, looks_like_arch};
use crate::{Caches, Event, REQUESTS, Root};

/// Rsyncs side by side.
const RSYNCS: usize = 48;

/// Units that lie in the store as ordinary directories.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    pub(crate) place: PathBuf,
    pub(crate) units: Vec<Unit>,
    tree: Tree,
}

/// Where in a tool cache an entry is.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// In a directory that is a unit's, complete or not, or its marker.
    Unit(String),
    Loose,
}

fn part_of(entry: &Entry<'_>, units: &HashSet<Unit>) -> Part {
    let mut names = Vec::new();
    let mut at = Some(*entry);
    while let Some(one) = at {
        names.push(one);
        at = one.parent();
    }
    names.reverse();
    let Some(third) = names.get(2) else {
        return Part::Loose;
    };
    let name = third.name();
    let arch = name.strip_suffix(MARKER.as_bytes()).unwrap_or(name);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let unit = format!(
        "{}/{}/{}",
        text(names[0].name()),
        text(names[1].name()),
        text(arch)
    );
    let is_unit = match third.meta().kind {
        Kind::File => arch.len() < name.len(),
        Kind::Directory => {
            looks_like_arch(arch) || unit.parse().is_ok_and(|unit: Unit| units.contains(&unit))
        }
        Kind::Link | Kind::Special => false,
    };
    if is_unit {
        Part::Unit(unit)
    } else {
        Part::Loose
    }
}

/// Finds the complete units among ordinary directories, without looking into those that `skip`
/// knows.
pub(crate) fn plain_units(
    store: &Store,
    caches: &Caches,
    skip: &(dyn Fn(&Unit) -> bool + Sync),
) -> anyhow::Result<Plain> {
    let Some(root) = caches.roots.first() else {
        return Ok(Plain::default());
    };
    let at_top = store.is_plain_tool_cache(root);
    let place = if at_top {
        store.path.clone()
    } else {
        store.tree(root, true)
    };
    // Three levels tell which units there are.
    let wanted = |entry: &Entry<'_>| {
        let depth = depth_of(entry);
        let hidden = entry.name().starts_with(b".");
        let ours = at_top && depth == 1 && str::from_utf8(entry.name()).is_ok_and(is_ours);
        match depth {
            _ if hidden || ours => Wanted::No,
            3 => Wanted::Itself,
            _ => Wanted::Yes,
        }
    };
    let look = Tree::remote(&place, &wanted, REQUESTS)?;
    let paths: HashSet<PathBuf> = look
        .entries()
        .filter(|entry| depth_of(entry) == 3)
        .map(|entry| entry.path())
        .collect();
    let mut units: Vec<Unit> = paths
        .iter()
        .filter_map(|path| path.to_str()?.strip_suffix(MARKER)?.parse().ok())
        .filter(|unit: &Unit| paths.contains(Path::new(&unit.to_string())) && !skip(unit))
        .collect();
    units.sort();
    let tree = list_units(&place, &units)?;
    Ok(Plain { place, units, tree })
}

/// What is in these units, with the directories above them.
fn list_units(place: &Path, units: &[Unit]) -> anyhow::Result<Tree> {
    if units.is_empty() {
        return Ok(Tree::default());
    }
    let names: BTreeSet<String> = units.iter().map(Unit::to_string).collect();
    let above: BTreeSet<String> = names
        .iter()
        .flat_map(|name| {
            Path::new(name)
                .ancestors()
                .skip(1)
                .map(|path| path.display().to_string())
        })
        .collect();
    let inside = |entry: &Entry<'_>| {
        let depth = depth_of(entry);
        let path = entry.path().display().to_string();
        let yes = depth > 3
            || if depth == 3 {
                names.contains(&path)
            } else {
                above.contains(&path)
            };
        if yes { Wanted::Yes } else { Wanted::No }
    };
    Tree::remote(place, &inside, REQUESTS)
}

pub(crate) fn depth_of(entry: &Entry<'_>) -> usize {
    std::iter::successors(Some(*entry), Entry::parent).count()
}

/// Brings units that lie in the store as ordinary directories.
pub(crate) fn restore_plain(
    work: &Work<'_>,
    stage: &Stage,
    plain: &mut Plain,
    (displace, restored): (bool, &mut Restored),
) -> anyhow::Result<()> {
    if plain.units.is_empty() {
        return Ok(());
    }
    let all: Vec<Entry<'_>> = plain.tree.entries().collect();
    let outcomes = copy(work, (&plain.place, &stage.path), (&plain.tree, &all))?;
    // Which unit has a hole rsync does not say: what arrived does.
    let arrived = Tree::local(&stage.path, &|_| Wanted::Yes)?;
    let arrived: HashSet<u64> = marks(&arrived).into_iter().collect();
    let mut holes = HashSet::new();
    let units: HashSet<Unit> = plain.units.iter().cloned().collect();
    let mut path = Vec::new();
    for entry in plain.tree.entries() {
        let is_there = entry.meta().kind == Kind::Special
            || arrived.contains(&content_mark(&entry, &mut path));
        if !is_there && let Part::Unit(unit) = part_of(&entry, &units) {
            holes.insert(unit);
        }
    }
    // Who removes a unit may have begun before it was listed: then it changes still.
    let again = list_units(&plain.place, &plain.units)?;
    for entry in moved(plain.tree.entries(), &again) {
        if let Part::Unit(unit) = part_of(&entry, &units) {
            holes.insert(unit);
        }
    }
    for unit in std::mem::take(&mut plain.units) {
        let outcome = if holes.contains(&unit.to_string()) {
            match work.stop.check() {
                Ok(()) => Err(anyhow::anyhow!("not all of it could be copied")),
                late => late,
            }
        } else {
            let marker = unit.marker(&plain.place);
            let time = marker_time(&marker);
            stage.commit(&unit, time, displace)
        };
        match outcome {
            Ok(()) => {
                restored.units += 1;
                (work.tell)(Event::Restored(unit));
            }
            Err(error) => {
                work.problems().add(&unit.to_string(), &error);
                holes.insert(unit.to_string());
            }
        }
    }
    restored.count(match all_copied(&outcomes) {
        Some(copied) if holes.is_empty() => copied,
        _ => amount(plain.tree.entries().filter(
            |entry| matches!(part_of(entry, &units), Part::Unit(unit) if !holes.contains(&unit)),
        )),
    });
    Ok(())
}

fn marker_time(marker: &Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(marker).map_or(0, |meta| meta.mtime() * 1_000_000_000 + meta.mtime_nsec())
}

/// In the order of the entries.
fn marks(tree: &Tree) -> Vec<u64> {
    let mut path = Vec::new();
    tree.entries()
        .map(|entry| content_mark(&entry, &mut path))
        .collect()
}

/// The directories of tools and versions in which nothing is loose: they come with their units.
pub(crate) fn of_units_only(tree: &Tree) -> Vec<u32> {
    let is_a_tools =
        |entry: &Entry<'_>| entry.meta().kind == Kind::Directory && depth_of(entry) <= 2;
    let mut needed = HashSet::new();
    for entry in tree.entries().filter(|entry| !is_a_tools(entry)) {
        let above = std::iter::successors(entry.parent(), Entry::parent);
        needed.extend(above.map(|above| above.index()));
    }
    let unneeded = tree
        .entries()
        .filter(|entry| is_a_tools(entry) && !needed.contains(&entry.index()));
    unneeded.map(|entry| entry.index()).collect()
}

/// What a root has beside units.
pub(crate) fn loose<'a>(
    root: &'a Root,
    first: bool,
    units: &'a HashSet<Unit>,
) -> impl Fn(&Entry<'_>) -> Wanted + Sync + 'a {
    let filter = Filter::of(root);
    move |entry| {
        if first && part_of(entry, units) != Part::Loose {
            return Wanted::No;
        }
        filter.look(entry)
    }
}

/// Brings everything that is loose, the smallest root first.
pub(crate) fn restore_loose(
    work: &Work<'_>,
    (store, units): (&Store, &HashSet<Unit>),
    (known, restored): (&mut Memory, &mut Restored),
) -> anyhow::Result<()> {
    let mut listed = Vec::new();
    for (index, root) in work.caches.roots.iter().enumerate() {
        let place = store.tree(root, index == 0);
        let wanted = loose(root, index == 0, units);
        match both_sides((&place, &root.path), &wanted) {
            Ok(trees) => {
                let bytes: u64 = trees.0.entries().map(|entry| entry.meta().size).sum();
                listed.push((bytes, index, root, place, trees));
            }
            Err(error) => work
                .problems()
                .add(&root.path.display().to_string(), &error),
        }
    }
    listed.sort_by_key(|(bytes, index, ..)| (*bytes, *index));
    for (_, index, root, place, trees) in listed {
        let (at, both) = ((index, root), (place.as_path(), trees));
        if let Err(error) = restore_root((work, units), at, both, (known, restored)) {
            work.problems()
                .add(&root.path.display().to_string(), &error);
        }
    }
    Ok(())
}

/// Lists a root in the store and here at the same time: the store lets wait.
fn both_sides(
    (place, here): (&Path, &Path),
    wanted: &(dyn Fn(&Entry<'_>) -> Wanted + Sync),
) -> anyhow::Result<(Tree, Tree)> {
    std::thread::scope(|scope| {
        let here = scope.spawn(|| Tree::local(here, wanted));
        let stored = Tree::remote(place, wanted, REQUESTS);
        let here = here
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((stored?, here?))
    })
}

fn restore_root(
    (work, units): (&Work<'_>, &HashSet<Unit>),
    (index, root): (usize, &Root),
    (place, (tree, mut local)): (&Path, (Tree, Tree)),
    (known, restored): (&mut Memory, &mut Restored),
) -> anyhow::Result<()> {
    if tree.len() == 0 {
        known.compared(index);
        return Ok(());
    }
    work.stop.check()?;
    let stored = marks(&tree);
    let mut there: HashSet<u64> = marks(&local).into_iter().collect();
    if index == 0 {
        let with_units = of_units_only(&tree).into_iter();
        there.extend(with_units.map(|index| stored[index as usize]));
    }
    let missing: Vec<Entry<'_>> = tree
        .entries()
        .zip(&stored)
        .filter(|(_, mark)| !there.contains(mark))
        .map(|(entry, _)| entry)
        .collect();
    drop(there);
    let stored: HashSet<u64> = stored.into_iter().collect();
    let mut failed = None;
    if !missing.is_empty() {
        // So many files are a burden while they are copied.
        drop(std::mem::take(&mut local));
        let outcomes = copy(work, (place, &root.path), (&tree, &missing))?;
        local = Tree::local(&root.path, &loose(root, index == 0, units))?;
        restored.count(all_copied(&outcomes).unwrap_or_else(|| arrived(&missing, &local)));
        failed = first_failure(outcomes);
    }
    // What is the same on both sides now need not be published.
    let mut path = Vec::new();
    for entry in local.entries() {
        if stored.contains(&content_mark(&entry, &mut path)) {
            known.add(index, &entry, &mut path);
        }
    }
    known.compared(index);
    failed.map_or(Ok(()), Err)
}

/// What of that which was `missing` is there now.
fn arrived(missing: &[Entry<'_>], local: &Tree) -> Copied {
    let there: HashSet<u64> = marks(local).into_iter().collect();
    let mut path = Vec::new();
    let is_there = |entry: &&Entry<'_>| there.contains(&content_mark(entry, &mut path));
    amount(missing.iter().filter(is_there).copied())
}

/// Copies what of `tree` is `missing`; how each part of it ended.
fn copy(
    work: &Work<'_>,
    (from, to): (&Path, &Path),
    (tree, missing): (&Tree, &[Entry<'_>]),
) -> anyhow::Result<Vec<Outcome>> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let directories = missing
        .iter()
        .filter(|entry| entry.meta().kind == Kind::Directory);
    for entry in directories.clone() {
        make_directory(&to.join(entry.path()))?;
    }
    let files = missing
        .iter()
        .copied()
        .filter(|entry| matches!(entry.meta().kind, Kind::File | Kind::Link));
    let (count, bytes) = files.clone().fold((0, 0), |(count, bytes), entry| {
        (count + 1, bytes + entry.meta().size)
    });
    work.progress.expect(count, bytes);
    let outcomes = if count == 0 {
        Vec::new()
    } else {
        let crowd = Crowd {
            wait: wait_of_reading(from, missing),
            processors: crate::processors(),
            most: RSYNCS,
        };
        let (shards, at_once) = divide(files, crowd);
        let copy = Sharded {
            from,
            to,
            shards,
            at_once,
        };
        copy.run(work.children, work.stop, work.progress)?
    };
    // Also those that were there: what was put into them changed their times.
    for entry in tree
        .entries()
        .filter(|entry| count > 0 && entry.meta().kind == Kind::Directory)
    {
        let (path, meta) = (to.join(entry.path()), entry.meta());
        let mode = Mode::from_raw_mode(u32::from(meta.mode));
        // One that is gone was removed by whoever uses it.
        chmodat(CWD, &path, mode, AtFlags::empty()).ok();
        utimensat(CWD, &path, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW).ok();
    }
    Ok(outcomes)
}

/// How long a file in the store has to be waited for: some from everywhere are looked into.
fn wait_of_reading(from: &Path, entries: &[Entry<'_>]) -> Duration {
    let is_file = |entry: &&Entry<'_>| entry.meta().kind == Kind::File;
    usual(|turn| {
        let part = entries.len() * turn / LOOKS;
        if let Some(entry) = entries[part..].iter().find(is_file) {
            // What cannot be read rsync will say.
            let opened = File::options()
                .read(true)
                .custom_flags(O_NOFOLLOW | O_NONBLOCK)
                .open(from.join(entry.path()));
            opened.and_then(|mut file| file.read(&mut [0])).ok();
        }
    })
}

/// Of many outcomes the one that says most.
pub(crate) fn first_failure(outcomes: Vec<Outcome>) -> Option<anyhow::Error> {
    let mut partial = None;
    for outcome in outcomes {
        match outcome {
            Outcome::Complete(_) => {}
            Outcome::Partial(reason) => partial = Some(anyhow::anyhow!(reason)),
            Outcome::Failed(reason) => return Some(anyhow::anyhow!(reason)),
        }
    }
    partial
}

/// Makes a directory; a link in its place, which could lead elsewhere, is removed first.
pub(crate) fn make_directory(path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot make {}", path.display());
    let make = || fs::DirBuilder::new().mode(0o755).create(path);
    match make() {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if !fs::symlink_metadata(path).with_context(cannot)?.is_dir() {
                fs::remove_file(path).with_context(cannot)?;
                make().with_context(cannot)?;
            }
            Ok(())
        }
        other => other.with_context(cannot),
    }
}
