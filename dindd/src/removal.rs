//! Removes a directory tree that a job has left, however odd it is.
//!
//! Owns the walk: it never follows a symbolic link, never enters a mount (`openat2` with
//! `RESOLVE_NO_XDEV`, and a look at `st_dev` where a filter denies that call), holds few
//! descriptors however deep the tree is, and uses several threads, because removing is bound by
//! one inode at a time. The trick for the last two: a directory can be renamed up to the top of
//! the tree, where it waits for any thread as a tree of its own.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How deep a thread descends before it renames what is below to the top.
const DEEPEST: usize = 24;
/// More threads than this gain nothing: they wait for the filesystem's log.
const MOST_THREADS: usize = 8;
/// What renamed directories are called at the top.
const MOVED: &str = ".moved-";

/// How far a removal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    Whole,
    /// The time was over before the end.
    Partly,
}

/// Removes `parent/name` with all that is in it; the file `last` at its top goes last. `over`
/// says when to stop. That it is not there is no error, and neither is it when somebody else
/// removes it at the same time.
///
/// # Errors
/// When something cannot be removed; everything else is removed all the same.
pub(crate) fn remove(
    parent: &Path,
    name: &str,
    last: &str,
    over: &(dyn Fn() -> bool + Sync),
) -> Result<Removed> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent_fd = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Removed::Whole),
        other => other.with_context(|| format!("cannot open {}", parent.display()))?,
    };
    let path = parent.join(name);
    let c_name = CString::new(name)?;
    let device = device_of(parent_fd.as_fd())?;
    let top = match open_directory(parent_fd.as_fd(), &c_name, device) {
        Err(Errno::NOENT) => return Ok(Removed::Whole),
        other => other.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let removal = Removal {
        top,
        last: OsStr::new(last).as_bytes().to_vec(),
        device,
        over,
        queue: Mutex::default(),
        changed: Condvar::new(),
        hungry: AtomicUsize::new(0),
        moved: AtomicU64::new(0),
    };
    removal
        .run()
        .with_context(|| format!("cannot remove all of {}", path.display()))?;
    if over() && !removal.is_bare()? {
        return Ok(Removed::Partly);
    }
    for (folder, entry, flags) in [
        (removal.top.as_fd(), CString::new(last)?, AtFlags::empty()),
        (parent_fd.as_fd(), c_name, AtFlags::REMOVEDIR),
    ] {
        match rustix::fs::unlinkat(folder, &entry, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
    }
    Ok(Removed::Whole)
}

/// One removal, shared by its threads.
struct Removal<'a> {
    top: OwnedFd,
    last: Vec<u8>,
    device: u64,
    over: &'a (dyn Fn() -> bool + Sync),
    queue: Mutex<Queue>,
    changed: Condvar,
    /// How many threads have nothing to do.
    hungry: AtomicUsize,
    /// How many directories were renamed to the top.
    moved: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// Directories at the top that nobody has taken yet.
    waiting: Vec<CString>,
    /// Threads that are at work and may add to it.
    busy: usize,
    /// The first thing that could not be removed.
    trouble: Option<String>,
}

impl Removal<'_> {
    fn run(&self) -> Result<()> {
        self.empty_top()?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 1..threads.min(MOST_THREADS) {
                scope.spawn(|| self.work());
            }
            self.work();
        });
        match self.queue().trouble.take() {
            Some(trouble) => bail!(trouble),
            None => Ok(()),
        }
    }

    /// Files at the top go, directories there are queued.
    fn empty_top(&self) -> Result<()> {
        for entry in Dir::read_from(&self.top)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) || name.to_bytes() == self.last {
                continue;
            }
            match rustix::fs::unlinkat(&self.top, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(_) => self.queue().waiting.push(name.to_owned()),
            }
        }
        Ok(())
    }

    /// Whether nothing is left but the file that goes last.
    fn is_bare(&self) -> Result<bool> {
        for entry in Dir::read_from(&self.top)? {
            let entry = entry?;
            if !is_dots(entry.file_name()) && entry.file_name().to_bytes() != self.last {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn work(&self) {
        while let Some(name) = self.next() {
            self.remove_directory(self.top.as_fd(), &name, 0);
            self.queue().busy -= 1;
            self.changed.notify_all();
        }
    }

    /// The next directory at the top; `None` when there is nothing and nobody who may add to it.
    fn next(&self) -> Option<CString> {
        let mut queue = self.queue();
        self.hungry.fetch_add(1, Ordering::Relaxed);
        let next = loop {
            if (self.over)() {
                break None;
            }
            if let Some(name) = queue.waiting.pop() {
                queue.busy += 1;
                break Some(name);
            }
            if queue.busy == 0 {
                break None;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.hungry.fetch_sub(1, Ordering::Relaxed);
        next
    }

    fn remove_directory(&self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) {
        let removed = open_directory(parent, name, self.device)
            .and_then(|folder| self.empty(folder.as_fd(), depth))
            .and_then(|()| match (self.over)() {
                true => Ok(()),
                false => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
            });
        self.note(name, removed);
    }

    fn empty(&self, folder: BorrowedFd<'_>, depth: usize) -> rustix::io::Result<()> {
        for entry in Dir::read_from(folder)? {
            if (self.over)() {
                return Ok(());
            }
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            if entry.file_type() != FileType::Directory {
                match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                    // A filesystem that does not tell types.
                    Err(Errno::ISDIR) => {}
                    other => {
                        self.note(name, other);
                        continue;
                    }
                }
            }
            let share = depth >= DEEPEST || self.hungry.load(Ordering::Relaxed) > 0;
            if !(share && self.move_to_top(folder, name)) {
                self.remove_directory(folder, name, depth + 1);
            }
        }
        Ok(())
    }

    /// Makes a directory a tree of its own that any thread may take.
    fn move_to_top(&self, folder: BorrowedFd<'_>, name: &CStr) -> bool {
        let number = self.moved.fetch_add(1, Ordering::Relaxed);
        let Ok(new) = CString::new(format!("{MOVED}{}-{number}", std::process::id())) else {
            return false;
        };
        if rustix::fs::renameat(folder, name, &self.top, &new).is_err() {
            return false;
        }
        self.queue().waiting.push(new);
        self.changed.notify_one();
        true
    }

    fn note(&self, name: &CStr, result: rustix::io::Result<()>) {
        match result {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                let trouble = format!("{}: {error}", name.to_string_lossy());
                self.queue().trouble.get_or_insert(trouble);
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a directory below `parent`, unless it is a link or a mount.
fn open_directory(parent: BorrowedFd<'_>, name: &CStr, device: u64) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => {
            let folder = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            match device_of(folder.as_fd())? == device {
                true => Ok(folder),
                false => Err(Errno::XDEV),
            }
        }
        other => other,
    }
}

fn device_of(folder: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    Ok(rustix::fs::fstat(folder)?.st_dev)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn remove_whole(parent: &Path) -> Removed {
        remove(parent, "tree", "lock", &|| false).unwrap()
    }

    #[test]
    fn a_tree_with_links_out_of_it_is_removed_and_what_they_name_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let kept = parent.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        let tree = parent.path().join("tree");
        for folder in ["a/b/c", "d", "e"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        for link in ["link", "a/link", "a/b/c/link"] {
            symlink(&kept, tree.join(link)).unwrap();
        }
        fs::write(tree.join("lock"), "").unwrap();
        assert_eq!(remove_whole(parent.path()), Removed::Whole);
        assert!(!tree.exists());
        assert!(kept.join("file").exists());
    }

    #[test]
    fn a_tree_deeper_than_a_path_can_be_long_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("tree")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut folder =
            rustix::fs::open(parent.path().join("tree"), flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&folder, "deeper", Mode::RWXU).unwrap();
            folder = rustix::fs::openat(&folder, "deeper", flags, Mode::empty()).unwrap();
        }
        drop(folder);
        assert_eq!(remove_whole(parent.path()), Removed::Whole);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_removals_of_the_same_tree_do_not_disturb_each_other() {
        let parent = tempfile::tempdir().unwrap();
        for folder in 0..50 {
            let folder = parent.path().join(format!("tree/{folder}/x"));
            fs::create_dir_all(&folder).unwrap();
            for file in 0..50 {
                fs::write(folder.join(file.to_string()), "").unwrap();
            }
        }
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| remove_whole(parent.path()));
            }
        });
        assert_eq!(remove_whole(parent.path()), Removed::Whole);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_there_need_not_be_removed() {
        let parent = tempfile::tempdir().unwrap();
        assert_eq!(remove_whole(parent.path()), Removed::Whole);
        assert_eq!(remove_whole(&parent.path().join("nowhere")), Removed::Whole);
    }
}
