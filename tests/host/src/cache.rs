//! Owns the cache folder: names, locks, and what is removed from it.
//!
//! ```text
//! lock               held while a disk is made, so that a second preparation waits
//! root-<key>.img     a root filesystem, before Docker ran on it
//! base-<key>-*.tar   the files of another suite's base image
//! disk-<key>.img     what hosts are cloned from; locked (shared) by every driver that uses it
//! *.partial          a disk in the making
//! ```

use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::interrupt;
use crate::process::until;

/// The demo's, the tests' (each target may have one) and those of another branch, so that they do
/// not take turns making them.
const KEPT_DISKS: usize = 6;
/// The base images of the engines that are tested, of this branch and of another one.
const KEPT_BASES: usize = 4;

/// The folder `testhost` in cargo's target folder, where the driver's executable is.
pub(crate) fn default_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    // Cargo marks its target folder with this file (bford.info/cachedir).
    let target = executable
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists());
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    target.unwrap_or(&checkout).join("testhost")
}

/// Waits for the folder's lock, which is held as long as the file lives.
pub(crate) fn lock(folder: &Path, progress: &dyn Fn(&str)) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let mut told = false;
    let mut failed = None;
    until(Duration::MAX, || match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => {
            if !std::mem::replace(&mut told, true) {
                progress("another preparation is under way; waiting for it");
            }
            interrupt::interrupted()
        }
        Err(TryLockError::Error(error)) => {
            failed = Some(error);
            true
        }
    });
    interrupt::check()?;
    match failed {
        Some(error) => Err(error).with_context(|| format!("lock {}", path.display())),
        None => Ok(file),
    }
}

/// Opens an image, keeps it from being removed, and notes that it is used; none when there is none.
pub(crate) fn open_image(path: &Path) -> Result<Option<File>> {
    let Ok(file) = File::options().read(true).write(true).open(path) else {
        return Ok(None);
    };
    let open = || {
        file.lock_shared()?;
        file.set_modified(SystemTime::now())?;
        file.metadata()
    };
    let opened = open().with_context(|| format!("lock {}", path.display()))?;
    // Between opening and locking it may have been removed.
    let kept = fs::metadata(path).is_ok_and(|now| now.ino() == opened.ino());
    Ok(kept.then_some(file))
}

/// Removes partial images, other roots than `root`, and all but the disks and base images used
/// last, unless a driver uses them. The caller holds the folder's lock.
pub(crate) fn remove_old(folder: &Path, root: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut old = Vec::new();
    let mut disks = Vec::new();
    let mut bases = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().display().to_string();
        let used = entry.metadata().and_then(|metadata| metadata.modified());
        let aged = (used.unwrap_or(SystemTime::UNIX_EPOCH), entry.path());
        if name.ends_with(".partial") {
            old.push(aged.1);
        } else if name.starts_with("disk-") {
            disks.push(aged);
        } else if name.starts_with("base-") {
            bases.push(aged);
        } else if name.ends_with(".img") && entry.path() != root {
            old.push(aged.1);
        }
    }
    for (mut images, kept) in [(disks, KEPT_DISKS), (bases, KEPT_BASES)] {
        images.sort();
        let surplus = images.len().saturating_sub(kept);
        old.extend(images.into_iter().take(surplus).map(|(_, path)| path));
    }
    for path in old {
        let unused = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if unused {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Feeds a file, or every file below a folder with its name, to `hasher`.
pub(crate) fn hash_path(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    if !path.is_dir() {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        bytes.hash(hasher);
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    names.sort();
    for name in names {
        name.file_name().hash(hasher);
        hash_path(&name, hasher)?;
    }
    Ok(())
}

/// A key as it stands in a file's name.
pub(crate) fn key(hasher: &DefaultHasher) -> String {
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn old_images_go_unless_they_are_in_use_or_among_the_last_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["root-1.img", "root-2.img", "disk-x.partial", "lock"] {
            File::create(path(name)).unwrap();
        }
        let age = |name: &str, age: usize| {
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64);
            File::create(path(name))
                .unwrap()
                .set_modified(used)
                .unwrap();
        };
        for number in 0..=KEPT_DISKS {
            age(&format!("disk-{number}.img"), number);
        }
        for number in 0..=KEPT_BASES {
            age(&format!("base-{number}-sid.tar"), number);
        }
        let in_use = File::open(path("disk-0.img")).unwrap();
        in_use.lock_shared().unwrap();
        let mut last: Vec<String> = (1..=KEPT_BASES)
            .map(|number| format!("base-{number}-sid.tar"))
            .chain((1..=KEPT_DISKS).map(|number| format!("disk-{number}.img")))
            .collect();
        last.extend(["lock".to_owned(), "root-2.img".to_owned()]);
        remove_old(folder.path(), &path("root-2.img")).unwrap();
        let mut and_in_use = last.clone();
        and_in_use.insert(KEPT_BASES, "disk-0.img".into());
        assert_eq!(names(folder.path()), and_in_use);
        drop(in_use);
        remove_old(folder.path(), &path("root-2.img")).unwrap();
        assert_eq!(names(folder.path()), last);
    }

    #[test]
    fn using_an_image_makes_it_the_last_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk-a.img");
        assert!(open_image(&path).unwrap().is_none());
        File::create(&path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        let image = open_image(&path).unwrap().unwrap();
        assert!(image.metadata().unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn a_second_preparation_says_that_it_waits_and_then_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path(), &|_| ()).unwrap();
        let (say, said) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lock(folder.path(), &move |text| {
                    say.send(text.to_owned()).unwrap()
                })
            });
            assert!(said.recv().unwrap().contains("another preparation"));
            drop(first);
        });
    }

    #[test]
    fn a_folders_hash_changes_with_a_files_name_and_content() {
        let folder = tempfile::tempdir().unwrap();
        let hash = || {
            let mut hasher = DefaultHasher::new();
            hash_path(folder.path(), &mut hasher).unwrap();
            key(&hasher)
        };
        fs::write(folder.path().join("a"), "1").unwrap();
        let first = hash();
        fs::write(folder.path().join("a"), "2").unwrap();
        let second = hash();
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert!(first != second && second != hash());
    }
}
