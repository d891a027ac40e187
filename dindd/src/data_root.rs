//! One task's directory on the storage volume: random name, lock held while we live.
//!
//! ```text
//! <storage>/<32 hex digits>/lock        flock(2) held by its dindd; the kernel frees it
//!                           task.json   for people who find it
//!                           data/       dockerd's data-root
//!                           exec/       dockerd's exec-root
//!                           root/       what is changed in dockerd's root filesystem besides
//! <storage>/.new-<32 hex digits>/       one that is being made
//! <storage>/.trash/<32 hex digits>/     one that is being removed
//! ```
//!
//! Owns names, making and retiring. The lock is held before the final name appears, and whoever
//! makes one holds the volume shared, so that [`crate::reap`] never meets a living root without
//! a held lock. Does not remove trees itself; see [`crate::removal`].

use std::cell::OnceCell;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::quota;
use crate::removal::{self, Removed};

/// Where retired roots wait for their removal.
pub(crate) const TRASH: &str = ".trash";
/// What the name of an unfinished root begins with.
pub(crate) const UNFINISHED: &str = ".new-";
/// The file whose lock says that the owner lives.
pub(crate) const LOCK: &str = "lock";

/// Directories that userns-remapped daemons must pass through, and nobody may list.
const MODE: u32 = 0o711;

/// What `task.json` tells.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Task {
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The container's host name; on ECS part of its task's id.
    pub(crate) hostname: String,
    /// dindd's version.
    pub(crate) dindd: String,
}

/// A task's directory. It is chosen before it is made, so that the duty to remove it can be
/// recorded first.
#[derive(Debug)]
pub(crate) struct DataRoot {
    storage: PathBuf,
    name: String,
    /// Empty until [`DataRoot::make`] has taken the lock.
    lock: OnceCell<File>,
}

impl DataRoot {
    /// A directory with a name that nobody can guess.
    pub(crate) fn choose(storage: &Path) -> Self {
        Self {
            storage: storage.to_owned(),
            name: format!("{:032x}", rand::random::<u128>()),
            lock: OnceCell::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.storage.join(&self.name)
    }

    /// dockerd's data-root.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// dockerd's exec-root.
    pub(crate) fn exec(&self) -> PathBuf {
        self.path().join("exec")
    }

    /// What is changed in dockerd's root filesystem.
    pub(crate) fn changes(&self) -> PathBuf {
        self.path().join("root")
    }

    /// Makes the directory and holds its lock from before it can be seen.
    ///
    /// # Errors
    /// When the volume cannot be written.
    pub(crate) fn make(&self) -> Result<()> {
        let unfinished = self.storage.join(format!("{UNFINISHED}{}", self.name));
        let volume = File::open(&self.storage)
            .with_context(|| format!("cannot open {}", self.storage.display()))?;
        // A reaper that finds an unfinished root removes it only while nobody holds this.
        flock(&volume, FlockOperation::LockShared).context("cannot lock the storage volume")?;
        make_directory(&unfinished).with_context(|| {
            format!(
                "cannot write to the storage volume {}; it must be writable and have space",
                self.storage.display()
            )
        })?;
        let lock = open_lock(&unfinished, true)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("cannot lock {}", unfinished.display()))?;
        self.lock.set(lock).ok();
        for folder in ["data", "exec", "exec/bin", "root"] {
            let path = unfinished.join(folder);
            make_directory(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let task = serde_json::to_vec_pretty(&Task::current())?;
        let file = unfinished.join("task.json");
        fs::write(&file, task).with_context(|| format!("cannot write {}", file.display()))?;
        fs::rename(&unfinished, self.path())
            .with_context(|| format!("cannot rename {}", unfinished.display()))
    }

    /// Renames the directory into the trash, which frees its name at once, and removes it as far
    /// as `over` allows. That it is not there is no error.
    ///
    /// # Errors
    /// When it cannot be moved, or something in it cannot be removed.
    pub(crate) fn retire(
        storage: &Path,
        name: &str,
        over: &(dyn Fn() -> bool + Sync),
    ) -> Result<Removed> {
        for candidate in [name.to_owned(), format!("{UNFINISHED}{name}")] {
            throw_away(storage, &candidate, name)?;
        }
        remove_trash(storage, name, over)
    }

    pub(crate) fn storage(&self) -> &Path {
        &self.storage
    }
}

impl Task {
    fn current() -> Self {
        let hostname = nix::unistd::gethostname().ok();
        Self {
            created: seconds_since_1970(),
            hostname: hostname.map_or_else(String::new, |name| name.to_string_lossy().into()),
            dindd: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// What a root's `task.json` tells, if it can be read.
    pub(crate) fn of(root: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(root.join("task.json")).ok()?).ok()
    }
}

/// Whether `name` is one that [`DataRoot::choose`] gives.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() == 32
        && name
            .bytes()
            .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// Moves `candidate` into the trash as `name`; that it is not there is no error.
pub(crate) fn throw_away(storage: &Path, candidate: &str, name: &str) -> Result<()> {
    let from = storage.join(candidate);
    let to = storage.join(TRASH).join(name);
    // Whoever empties the trash removes the directory, so it may vanish between the two steps.
    for _ in 0..100 {
        if !from.exists() {
            return Ok(());
        }
        match make_directory(&storage.join(TRASH)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {TRASH}"));
            }
            Ok(()) | Err(_) => {}
        }
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => {
                return other.with_context(|| {
                    format!("cannot rename {} to {}", from.display(), to.display())
                });
            }
        }
    }
    anyhow::bail!(
        "cannot rename {} into the trash: it is removed all the time",
        from.display()
    )
}

/// Removes one entry of the trash, and the trash when it is empty then.
pub(crate) fn remove_trash(
    storage: &Path,
    name: &str,
    over: &(dyn Fn() -> bool + Sync),
) -> Result<Removed> {
    let trash = storage.join(TRASH);
    let project = quota::project_of(&trash.join(name));
    let removed = removal::remove(&trash, name, LOCK, over)?;
    if let (Removed::Whole, Some(project)) = (removed, project) {
        quota::free(storage, project);
    }
    // It is not empty when somebody else's root is in it.
    fs::remove_dir(trash).ok();
    Ok(removed)
}

/// Opens the lock file of a root.
///
/// # Errors
/// When it is not there (unless it is to be made) or is no plain file.
pub(crate) fn open_lock(root: &Path, make: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(make)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(root.join(LOCK))
}

pub(crate) fn seconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(MODE).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_visible_only_with_its_lock_held_and_is_gone_after_it_was_retired() {
        let storage = tempfile::tempdir().unwrap();
        let root = DataRoot::choose(storage.path());
        root.make().unwrap();
        assert!(is_name(root.name()));
        assert!(root.data().is_dir() && root.exec().is_dir());
        assert_eq!(
            Task::of(&root.path()).unwrap().dindd,
            env!("CARGO_PKG_VERSION")
        );
        let again = open_lock(&root.path(), false).unwrap();
        flock(&again, FlockOperation::NonBlockingLockExclusive).unwrap_err();

        let removed = DataRoot::retire(storage.path(), root.name(), &|| false).unwrap();
        assert_eq!(removed, Removed::Whole);
        assert_eq!(fs::read_dir(storage.path()).unwrap().count(), 0);
        // A second SIGTERM performs the duty again.
        DataRoot::retire(storage.path(), root.name(), &|| false).unwrap();
    }

    #[test]
    fn without_time_a_root_is_at_least_renamed_into_the_trash() {
        let storage = tempfile::tempdir().unwrap();
        let root = DataRoot::choose(storage.path());
        root.make().unwrap();
        let removed = DataRoot::retire(storage.path(), root.name(), &|| true).unwrap();
        assert_eq!(removed, Removed::Partly);
        assert!(!root.path().exists());
        let trash = storage.path().join(TRASH).join(root.name());
        assert!(trash.join(LOCK).exists(), "the lock is the last to go");
    }

    #[test]
    fn two_roots_never_have_the_same_name() {
        let storage = Path::new("/x");
        assert_ne!(
            DataRoot::choose(storage).name(),
            DataRoot::choose(storage).name()
        );
    }
}
