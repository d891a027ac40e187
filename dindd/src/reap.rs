//! Removes data-roots whose owner is gone, and trash; at start, and as `dindd reap` for a host
//! timer.
//!
//! Owns the judgement who lives: an owner holds its root's lock, and the kernel frees it when the
//! owner dies, however it dies. Process ids mean nothing across containers, and age means nothing
//! at all. Any number of reapers may run at once: who has the lock removes, the others pass on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use init::exit_code;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use tracing::{error, warn};

use crate::data_root::{self, TRASH, Task, UNFINISHED};
use crate::removal::Removed;

/// What a reaper found on the volume and did about it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Reaped {
    /// Whether it only looked.
    dry_run: bool,
    /// Roots whose owner lives.
    live: Vec<Entry>,
    /// Roots and trash that were removed, or would be.
    removed: Vec<Entry>,
    /// Roots and trash that are still there, wholly or partly.
    left: Vec<Entry>,
}

impl Reaped {
    pub(crate) fn removed(&self) -> usize {
        self.removed.len()
    }

    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }
}

/// One thing on the volume.
#[derive(Debug, Serialize)]
struct Entry {
    /// Its path below the volume.
    path: String,
    /// Seconds since its making, where it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    /// The host name of its owner, where it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    /// Why it is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Who has a root.
enum Owner {
    Alive,
    /// Nobody else can take it while this is held.
    Gone(Option<File>),
    /// It is not there any more: another reaper has taken it away and removes it.
    Taken,
}

/// `dindd reap`; the code to exit with.
pub(crate) fn run(storage: &Path, dry_run: bool, json: bool) -> u8 {
    let reaped = match reap(storage, dry_run, &|| false) {
        Ok(reaped) => reaped,
        Err(cause) => {
            error!("nothing was removed; DINDD_STORAGE or --storage names the volume: {cause:#}");
            return exit_code::UNAVAILABLE;
        }
    };
    let mut out = io::stdout().lock();
    let told = if json {
        serde_json::to_writer_pretty(&mut out, &reaped)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        tell(&mut out, &reaped)
    };
    if let Err(cause) = told {
        error!("cannot write to standard output: {cause}");
        return exit_code::UNEXPECTED;
    }
    if reaped.left.is_empty() {
        exit_code::DONE
    } else {
        exit_code::UNEXPECTED
    }
}

/// Removes what nobody owns, until `over` says that it is enough.
///
/// # Errors
/// When the volume cannot be read. What cannot be removed is told in the result.
pub(crate) fn reap(
    storage: &Path,
    dry_run: bool,
    over: &(dyn Fn() -> bool + Sync),
) -> Result<Reaped> {
    let mut reaped = Reaped {
        dry_run,
        ..Reaped::default()
    };
    for name in names_in(storage)? {
        if over() {
            break;
        }
        let owner = if data_root::is_name(&name) {
            owner_of(&storage.join(&name))
        } else if let Some(hex) = name.strip_prefix(UNFINISHED)
            && data_root::is_name(hex)
        {
            owner_of_unfinished(storage)
        } else {
            // Not ours.
            continue;
        };
        reaped.judge(storage, &name, owner, over);
    }
    // What was an orphan a moment ago is gone or counted; the rest is what others have left.
    for name in names_in(&storage.join(TRASH)).unwrap_or_default() {
        let path = format!("{TRASH}/{name}");
        if over() || reaped.has(&name) {
            continue;
        }
        let owner = owner_of(&storage.join(&path));
        reaped.judge(storage, &path, owner, over);
    }
    Ok(reaped)
}

impl Reaped {
    /// Removes one thing if its owner is gone, and notes what became of it.
    fn judge(
        &mut self,
        storage: &Path,
        path: &str,
        owner: io::Result<Owner>,
        over: &(dyn Fn() -> bool + Sync),
    ) {
        let mut entry = Entry::new(storage, path);
        // Held to the end: others must not start on what is being removed.
        let _lock = match owner {
            Ok(Owner::Alive) => {
                self.live.push(entry);
                return;
            }
            Ok(Owner::Gone(lock)) => lock,
            Ok(Owner::Taken) => return,
            Err(cause) => {
                entry.error = Some(cause.to_string());
                self.left.push(entry);
                return;
            }
        };
        if self.dry_run {
            self.removed.push(entry);
            return;
        }
        match remove(storage, path, over) {
            Ok(Removed::Whole) => self.removed.push(entry),
            Ok(Removed::Partly) => {
                entry.error = Some("the time was over".into());
                self.left.push(entry);
            }
            Err(cause) => {
                warn!("cannot remove {path}: {cause:#}");
                entry.error = Some(format!("{cause:#}"));
                self.left.push(entry);
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        let all = self.removed.iter().chain(&self.left);
        all.map(|entry| entry.path.trim_start_matches(UNFINISHED))
            .any(|path| path == name)
    }
}

impl Entry {
    fn new(storage: &Path, path: &str) -> Self {
        let task = Task::of(&storage.join(path));
        let age = |task: &Task| data_root::seconds_since_1970().saturating_sub(task.created);
        Self {
            path: path.to_owned(),
            age_seconds: task.as_ref().map(age),
            hostname: task.map(|task| task.hostname),
            error: None,
        }
    }
}

fn remove(storage: &Path, path: &str, over: &(dyn Fn() -> bool + Sync)) -> Result<Removed> {
    let (_, last) = path.rsplit_once('/').unwrap_or(("", path));
    let name = last.trim_start_matches(UNFINISHED);
    if last == path {
        data_root::throw_away(storage, path, name)?;
    }
    data_root::remove_trash(storage, name, over)
}

/// Tries the lock of a finished root or of one in the trash. One without a lock file has no
/// owner: the lock is made before the root can be seen, and removed last.
fn owner_of(root: &Path) -> io::Result<Owner> {
    let lock = match data_root::open_lock(root, false) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return Ok(match root.exists() {
                true => Owner::Gone(None),
                false => Owner::Taken,
            });
        }
        other => other?,
    };
    try_lock(lock)
}

/// An unfinished root lives as long as somebody makes one: makers hold the volume shared.
fn owner_of_unfinished(storage: &Path) -> io::Result<Owner> {
    try_lock(File::open(storage)?)
}

fn try_lock(file: File) -> io::Result<Owner> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Owner::Gone(Some(file))),
        Err(Errno::WOULDBLOCK) => Ok(Owner::Alive),
        Err(cause) => Err(cause.into()),
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
    let mut names: Vec<String> = names
        .collect::<io::Result<_>>()
        .with_context(|| format!("cannot read {}", folder.display()))?;
    names.sort_unstable();
    Ok(names)
}

fn tell(out: &mut impl Write, reaped: &Reaped) -> io::Result<()> {
    let removed = if reaped.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let groups = [
        ("live", &reaped.live),
        (removed, &reaped.removed),
        ("left", &reaped.left),
    ];
    for (verb, entries) in groups {
        for entry in entries {
            let age = entry
                .age_seconds
                .map(|seconds| format!(", {seconds} s old"));
            let owner = entry.hostname.as_ref().map(|name| format!(", of {name}"));
            let error = entry.error.as_ref().map(|error| format!(": {error}"));
            let rest = [age, owner, error]
                .into_iter()
                .flatten()
                .collect::<String>();
            writeln!(out, "{verb} {}{rest}", entry.path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_root::DataRoot;

    fn paths(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.path.as_str()).collect()
    }

    #[test]
    fn an_orphan_and_trash_are_removed_and_a_living_root_and_foreign_files_are_not() {
        let storage = tempfile::tempdir().unwrap();
        let live = DataRoot::choose(storage.path());
        live.make().unwrap();
        let dead = DataRoot::choose(storage.path());
        dead.make().unwrap();
        let orphan = dead.name().to_owned();
        drop(dead);
        let unfinished = format!("{UNFINISHED}{:032x}", 7);
        for folder in [unfinished.as_str(), "somebodys", ".trash/old/x"] {
            fs::create_dir_all(storage.path().join(folder)).unwrap();
        }

        let dry = reap(storage.path(), true, &|| false).unwrap();
        assert_eq!(dry.removed.len(), 3);
        assert!(
            storage.path().join(&orphan).exists(),
            "a dry run removes nothing"
        );

        let reaped = reap(storage.path(), false, &|| false).unwrap();
        assert_eq!(paths(&reaped.live), [live.name()]);
        assert_eq!(paths(&reaped.removed), [&unfinished, &orphan, ".trash/old"]);
        assert!(reaped.left.is_empty(), "{:?}", reaped.left);
        assert_eq!(
            names_in(storage.path()).unwrap(),
            [live.name(), "somebodys"]
        );
    }

    #[test]
    fn what_another_reaper_has_taken_away_is_left_to_it() {
        let storage = tempfile::tempdir().unwrap();
        let root = DataRoot::choose(storage.path());
        // It was listed, and was renamed into the trash before its lock was looked for.
        assert!(matches!(owner_of(&root.path()).unwrap(), Owner::Taken));
        fs::create_dir(root.path()).unwrap();
        assert!(matches!(owner_of(&root.path()).unwrap(), Owner::Gone(None)));
    }

    #[test]
    fn an_unfinished_root_is_left_alone_while_anybody_makes_one() {
        let storage = tempfile::tempdir().unwrap();
        fs::create_dir(storage.path().join(format!("{UNFINISHED}{:032x}", 7))).unwrap();
        let maker = File::open(storage.path()).unwrap();
        flock(&maker, FlockOperation::LockShared).unwrap();
        assert_eq!(
            reap(storage.path(), false, &|| false).unwrap().live.len(),
            1
        );
        drop(maker);
        assert_eq!(
            reap(storage.path(), false, &|| false)
                .unwrap()
                .removed
                .len(),
            1
        );
    }

    #[test]
    fn many_reapers_and_makers_at_once_remove_every_orphan_and_nothing_live() {
        let storage = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            DataRoot::choose(storage.path()).make().unwrap();
        }
        let live: Vec<DataRoot> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..20)
                .map(|_| {
                    scope.spawn(|| {
                        let root = DataRoot::choose(storage.path());
                        root.make().unwrap();
                        let reaped = reap(storage.path(), false, &|| false).unwrap();
                        assert!(reaped.left.is_empty(), "{:?}", reaped.left);
                        root
                    })
                })
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        let mut expected: Vec<&str> = live.iter().map(DataRoot::name).collect();
        expected.sort_unstable();
        assert_eq!(names_in(storage.path()).unwrap(), expected);
    }
}
