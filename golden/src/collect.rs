//! Removes versions that nobody uses, and the files that no version has any more.
//!
//! Owns the judgement what may go. The current version stays; another one stays while somebody
//! holds its lease.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;

use crate::store::{FILES, Lock, MOUNTED, Store, UNFINISHED, VERSIONS};

/// Whether versions in use are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// They stay.
    None,
    /// Until the last user of each is gone.
    Endless,
}

/// What was found and done.
#[derive(Debug, Default, Serialize)]
pub struct Collected {
    /// Versions that were removed.
    pub removed: Vec<String>,
    /// Versions that stay because somebody uses them.
    pub in_use: Vec<String>,
    /// Versions that stay because they are current, or were asked to stay.
    pub kept: Vec<String>,
    /// Of the files that were removed.
    pub freed_bytes: u64,
}

impl Store {
    /// Removes what is not needed, except the `keep` newest versions that are not current.
    ///
    /// # Errors
    /// Something cannot be removed, or a version that stays cannot be read: then no file is
    /// removed, because it may be that version's.
    pub fn collect(&self, _lock: &Lock, keep: usize, patience: Patience) -> Result<Collected> {
        let mut collected = Collected::default();
        let current = self.current().ok();
        let mut left = keep;
        for name in self.versions()?.into_iter().rev() {
            if Some(&name) == current.as_ref() {
                collected.kept.push(name);
            } else if left > 0 {
                left -= 1;
                collected.kept.push(name);
            } else if let Some(_alone) = self.lock_version(&name, patience)? {
                self.remove_version(&name)?;
                collected.removed.push(name);
            } else {
                collected.in_use.push(name);
            }
        }
        for name in self.names_in(VERSIONS)? {
            if name.starts_with(UNFINISHED) {
                self.remove_version_at(&self.dir().join(VERSIONS).join(name))?;
            }
        }
        let mut needed = BTreeSet::new();
        for name in self.versions()? {
            let manifest = self.manifest(&name)?;
            needed.extend(manifest.files.into_iter().map(|file| file.sha256));
        }
        self.remove_mount_points(&needed)?;
        collected.freed_bytes = self.remove_files(&needed)?;
        Ok(collected)
    }

    /// The exclusive lock of a version, when nobody has a shared one.
    fn lock_version(&self, name: &str, patience: Patience) -> Result<Option<File>> {
        let path = self.lease_path(name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let operation = match patience {
            Patience::None => FlockOperation::NonBlockingLockExclusive,
            Patience::Endless => FlockOperation::LockExclusive,
        };
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(file)),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(cause) => {
                    return Err(cause).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    fn remove_mount_points(&self, needed: &BTreeSet<String>) -> Result<()> {
        for name in self.names_in(MOUNTED)? {
            if needed.contains(&name) {
                continue;
            }
            let path = self.dir().join(MOUNTED).join(name);
            // Tasks have mounts of their own; this is only the host's.
            if let Err(cause) = umount2(&path, MntFlags::MNT_DETACH)
                && cause != nix::errno::Errno::EINVAL
            {
                return Err(cause).with_context(|| format!("cannot unmount {}", path.display()));
            }
            fs::remove_dir(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    fn remove_files(&self, needed: &BTreeSet<String>) -> Result<u64> {
        let mut freed = 0;
        for name in self.names_in(FILES)? {
            if name
                .strip_suffix(".erofs")
                .is_some_and(|sum| needed.contains(sum))
            {
                continue;
            }
            let path = self.dir().join(FILES).join(name);
            freed +=
                remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(freed)
    }
}

fn remove_file(path: &Path) -> io::Result<u64> {
    let bytes = fs::metadata(path)?.len();
    fs::remove_file(path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::example;
    use crate::manifest::{ErofsFile, Manifest};

    struct World {
        store: Store,
        lock: Lock,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::at(folder.path());
            let lock = store.lock_or_make().unwrap();
            Self {
                store,
                lock,
                _folder: folder,
            }
        }

        /// A version whose second file is its own, and whose first is everybody's.
        fn publish(&self, number: i64) -> String {
            let mut manifest = example();
            manifest.created += number;
            manifest.files[1].sha256 = format!("own-{number}");
            for file in &manifest.files {
                fs::write(self.store.path_of(file), "12345678").unwrap();
            }
            self.store.publish(&manifest).unwrap()
        }

        fn files(&self) -> Vec<String> {
            self.store.names_in(FILES).unwrap()
        }
    }

    #[test]
    fn what_nobody_uses_is_removed_and_what_is_shared_stays() {
        let world = World::new();
        let old = world.publish(1);
        let current = world.publish(2);
        fs::write(
            world.store.dir().join("files/.making"),
            "rest of a dead build",
        )
        .unwrap();
        let collected = world.store.collect(&world.lock, 0, Patience::None).unwrap();
        assert_eq!(
            (collected.removed, collected.kept),
            (vec![old], vec![current.clone()])
        );
        assert_eq!(collected.freed_bytes, 8 + 20);
        assert_eq!(world.store.versions().unwrap(), [current]);
        let shared = format!("{}.erofs", example().files[0].sha256);
        assert_eq!(world.files(), [shared, "own-2.erofs".into()]);
    }

    #[test]
    fn what_is_in_use_stays_until_its_user_is_gone() {
        let world = World::new();
        let old = world.publish(1);
        let user = world.store.lease_current().unwrap();
        world.publish(2);
        let collected = world.store.collect(&world.lock, 0, Patience::None).unwrap();
        assert_eq!(collected.in_use, std::slice::from_ref(&old));
        assert!(world.files().contains(&"own-1.erofs".into()));

        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                world
                    .store
                    .collect(&world.lock, 0, Patience::Endless)
                    .unwrap()
            });
            drop(user);
            assert_eq!(waiting.join().unwrap().removed, [old]);
        });
        assert!(!world.files().contains(&"own-1.erofs".into()));
    }

    #[test]
    fn as_many_older_versions_stay_as_were_asked_for() {
        let world = World::new();
        let versions = [1, 2, 3].map(|number| world.publish(number));
        let collected = world.store.collect(&world.lock, 1, Patience::None).unwrap();
        assert_eq!(collected.removed, [versions[0].clone()]);
    }

    #[test]
    fn no_file_goes_while_a_version_cannot_be_read() {
        let world = World::new();
        world.publish(1);
        let manifest = Manifest {
            format: crate::FORMAT + 1,
            ..example()
        };
        let unreadable = world.store.publish(&manifest);
        assert!(
            unreadable.is_err(),
            "a link to a newer format is refused: {unreadable:?}"
        );
        let extra = ErofsFile {
            sha256: "newer".into(),
            ..example().files[0].clone()
        };
        fs::write(world.store.path_of(&extra), "x").unwrap();
        // Somebody who knows the format uses it.
        let (name, _) = manifest.write().unwrap();
        let lease = File::open(world.store.lease_path(&name)).unwrap();
        flock(&lease, FlockOperation::LockShared).unwrap();
        world
            .store
            .collect(&world.lock, 0, Patience::None)
            .unwrap_err();
        assert!(world.files().contains(&"newer.erofs".into()));
    }
}
