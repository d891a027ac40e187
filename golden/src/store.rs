//! The directory of a store: its versions, which one is current, who uses which.
//!
//! Owns paths, names, the `current` link and the locks. A version that was published is never
//! changed. Users hold a shared lock on the version's `lease`: it works through a read-only mount,
//! from any container of the host, and the kernel frees it when the user dies.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::manifest::{ErofsFile, Manifest};

const CURRENT: &str = "current";
pub(crate) const VERSIONS: &str = "versions";
pub(crate) const FILES: &str = "files";
pub(crate) const MOUNTED: &str = "mounted";
const LOCK: &str = "lock";
const MANIFEST: &str = "manifest.json";
const LEASE: &str = "lease";
/// What is not complete yet, or not any more, has a name that begins so.
pub(crate) const UNFINISHED: &str = ".";

/// How often a lease is tried while versions are removed.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// A store, which may not exist.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// The right to change the store; one at a time.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A version that stays as long as this value lives.
#[derive(Debug)]
pub struct Version {
    store: Store,
    name: String,
    manifest: Manifest,
    _lease: File,
}

impl Store {
    /// The store at `dir`.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the directories of a store where they are missing, and locks it.
    ///
    /// # Errors
    /// It cannot be written, or somebody else builds or collects.
    pub fn lock_or_make(&self) -> Result<Lock> {
        for folder in ["", VERSIONS, FILES, MOUNTED] {
            let path = self.dir.join(folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&path)
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        let path = self.dir.join(LOCK);
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(Errno::WOULDBLOCK) => bail!(
                "the store {} is being changed by another dindd golden; wait for it",
                self.dir.display()
            ),
            Err(cause) => Err(cause).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Locks a store that exists.
    ///
    /// # Errors
    /// It does not exist, or somebody else builds or collects.
    pub fn lock(&self) -> Result<Lock> {
        self.require()?;
        self.lock_or_make()
    }

    /// Refuses a directory that is no store.
    ///
    /// # Errors
    /// It has no versions.
    pub fn require(&self) -> Result<()> {
        ensure!(
            self.dir.join(VERSIONS).is_dir(),
            "{} is no golden store; `dindd golden build` makes one",
            self.dir.display()
        );
        Ok(())
    }

    /// The name of the current version.
    ///
    /// # Errors
    /// There is none, or the link makes no sense.
    pub fn current(&self) -> Result<String> {
        let link = self.dir.join(CURRENT);
        let target = fs::read_link(&link).with_context(|| {
            format!(
                "the golden store {} has no current version (`dindd golden build` makes one)",
                self.dir.display()
            )
        })?;
        let name = target.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} leads nowhere", link.display()))?;
        Ok(name.to_owned())
    }

    /// All versions, the oldest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn versions(&self) -> Result<Vec<String>> {
        let names = self.names_in(VERSIONS)?;
        Ok(names
            .into_iter()
            .filter(|name| !name.starts_with(UNFINISHED))
            .collect())
    }

    pub(crate) fn names_in(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.dir.join(folder);
        let entries =
            fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }

    /// Reads the manifest of a version.
    ///
    /// # Errors
    /// It is not there, is damaged or too new.
    pub fn manifest(&self, name: &str) -> Result<Manifest> {
        let path = self.dir.join(VERSIONS).join(name).join(MANIFEST);
        let read = || Manifest::read(name, &fs::read(&path)?);
        read().with_context(|| format!("cannot use {}", path.display()))
    }

    /// Takes the current version into use.
    ///
    /// # Errors
    /// There is none, or it is damaged or too new.
    pub fn lease_current(&self) -> Result<Version> {
        for _ in 0..TRIES {
            let name = self.current()?;
            if let Some(lease) = self.lease(&name)? {
                let manifest = self.manifest(&name)?;
                return Ok(Version {
                    store: self.clone(),
                    name,
                    manifest,
                    _lease: lease,
                });
            }
            std::thread::sleep(PAUSE);
        }
        bail!(
            "the current version of {} is being removed all the time",
            self.dir.display()
        )
    }

    /// The shared lock of a version, unless somebody removes it at this moment.
    fn lease(&self, name: &str) -> Result<Option<File>> {
        let path = self.lease_path(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.current()? != name => {
                return Ok(None);
            }
            other => other.with_context(|| format!("cannot open {}", path.display()))?,
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(cause) => {
                return Err(cause).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // It may have been removed between the two steps.
        let there = fs::metadata(&path).is_ok_and(|there| {
            file.metadata()
                .is_ok_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
        });
        Ok(there.then_some(file))
    }

    pub(crate) fn lease_path(&self, name: &str) -> PathBuf {
        self.dir.join(VERSIONS).join(name).join(LEASE)
    }

    /// Whether a living process uses the version.
    ///
    /// # Errors
    /// That cannot be told.
    pub fn is_in_use(&self, name: &str) -> Result<bool> {
        let path = self.lease_path(name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(cause) => Err(cause).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Where a file of a version is.
    #[must_use]
    pub fn path_of(&self, file: &ErofsFile) -> PathBuf {
        self.dir.join(FILES).join(format!("{}.erofs", file.sha256))
    }

    /// Where the host has mounted it, if it has.
    #[must_use]
    pub fn mounted(&self, file: &ErofsFile) -> PathBuf {
        self.dir.join(MOUNTED).join(&file.sha256)
    }

    /// Adds a version, whose files are in place, and makes it the current one.
    pub(crate) fn publish(&self, manifest: &Manifest) -> Result<String> {
        let (name, text) = manifest.write()?;
        let versions = self.dir.join(VERSIONS);
        let unfinished = versions.join(format!("{UNFINISHED}{name}"));
        let write = || -> Result<()> {
            self.remove_version_at(&unfinished)?;
            fs::create_dir(&unfinished)?;
            write_synced(&unfinished.join(MANIFEST), &text)?;
            write_synced(&unfinished.join(LEASE), b"")?;
            sync_directory(&unfinished)?;
            sync_directory(&self.dir.join(FILES))?;
            fs::rename(&unfinished, versions.join(&name))?;
            sync_directory(&versions)
        };
        write().with_context(|| format!("cannot write {}", unfinished.display()))?;
        self.make_current(&name)?;
        Ok(name)
    }

    /// Makes a version the one that new users get.
    ///
    /// # Errors
    /// It is not there, is damaged or too new, or the link cannot be replaced.
    pub fn make_current(&self, name: &str) -> Result<()> {
        self.manifest(name)?;
        let new = self.dir.join(format!("{UNFINISHED}{CURRENT}"));
        let replace = || -> Result<()> {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
            symlink(Path::new(VERSIONS).join(name), &new)?;
            fs::rename(&new, self.dir.join(CURRENT))?;
            sync_directory(&self.dir)
        };
        replace().with_context(|| format!("cannot replace {}/{CURRENT}", self.dir.display()))
    }

    /// Takes a version away that nobody uses.
    pub(crate) fn remove_version(&self, name: &str) -> Result<()> {
        let versions = self.dir.join(VERSIONS);
        let gone = versions.join(format!("{UNFINISHED}{name}"));
        fs::rename(versions.join(name), &gone)
            .with_context(|| format!("cannot rename the version {name}"))?;
        self.remove_version_at(&gone)
    }

    pub(crate) fn remove_version_at(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        for file in [MANIFEST, LEASE] {
            match fs::remove_file(path.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot empty {}", path.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        fs::remove_dir(path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

impl Version {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is in it.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create_new(path)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::example;

    fn store(folder: &tempfile::TempDir) -> (Store, Lock) {
        let store = Store::at(&folder.path().join("store"));
        let lock = store.lock_or_make().unwrap();
        (store, lock)
    }

    #[test]
    fn what_is_published_is_current_and_an_older_version_can_be_made_current_again() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _lock) = store(&folder);
        store.lease_current().unwrap_err();
        let old = store.publish(&example()).unwrap();
        let newer = Manifest {
            created: example().created + 1,
            ..example()
        };
        let new = store.publish(&newer).unwrap();
        assert_eq!(store.versions().unwrap(), [old.clone(), new.clone()]);
        let leased = store.lease_current().unwrap();
        assert_eq!((leased.name(), leased.manifest()), (&new[..], &newer));
        assert!(store.is_in_use(&new).unwrap());
        assert!(!store.is_in_use(&old).unwrap());
        store.make_current(&old).unwrap();
        assert_eq!(store.current().unwrap(), old);
        store
            .make_current("20261121T123500Z-0000000000000000")
            .unwrap_err();
        assert_eq!(store.current().unwrap(), old);
    }

    #[test]
    fn a_store_is_changed_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (store, lock) = store(&folder);
        store.lock().unwrap_err();
        drop(lock);
        store.lock().unwrap();
    }

    #[test]
    fn a_directory_without_versions_is_no_store_and_does_not_become_one() {
        let folder = tempfile::tempdir().unwrap();
        Store::at(folder.path()).lock().unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
