//! A listing of a directory tree, compact enough for hundreds of thousands of files.
//!
//! Owns reading directories: by handles, without following a symbolic link, so that nobody who
//! changes the tree meanwhile can lead us out of it. One thread for local trees, many for a store,
//! where each directory costs a round trip.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::Scope;

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, openat, statat};
use rustix::io::Errno;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    /// A device, a pipe or a socket.
    Special,
}

/// What is known of an entry. Two equal ones are the same content, as far as a look can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) kind: Kind,
    /// The permissions; neither setuid nor setgid nor sticky.
    pub(crate) mode: u16,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    pub(crate) inode: u64,
    pub(crate) links: u32,
    /// It takes less room than its size.
    pub(crate) sparse: bool,
}

/// Nanoseconds since 1970.
pub(crate) type Time = i64;

/// An entry of a [`Tree`].
#[derive(Clone, Copy, Debug)]
struct Record {
    directory: u32,
    name: (u32, u16),
    meta: Meta,
}

/// The listing. Directories come before what is in them.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    records: Vec<Record>,
    names: Vec<u8>,
    /// The record of each directory; the top is none.
    directories: Vec<Option<u32>>,
}

/// One entry, borrowed from its tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    tree: &'a Tree,
    index: u32,
}

/// What a look decides about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    /// It, and nothing below it.
    Itself,
    /// Neither it nor anything below it.
    No,
}

impl Meta {
    fn of(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Kind::Special,
        };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        let time = |seconds: i64, nanos: u64| {
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::try_from(nanos).unwrap_or(0))
        };
        Self {
            kind,
            mode: u16::try_from(stat.st_mode & 0o777).unwrap_or(0),
            size,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            sparse: kind == Kind::File && size >= 64 * 1024 && blocks * 512 + 4096 < size,
        }
    }

    /// The metadata of an open file.
    pub(crate) fn of_open(file: &OwnedFd) -> rustix::io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(file)?))
    }
}

impl<'a> Entry<'a> {
    fn record(&self) -> &'a Record {
        &self.tree.records[self.index as usize]
    }

    pub(crate) fn meta(&self) -> &'a Meta {
        &self.record().meta
    }

    /// Its place in the listing.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn name(&self) -> &'a [u8] {
        let (start, length) = self.record().name;
        &self.tree.names[start as usize..start as usize + usize::from(length)]
    }

    /// Its path below the top.
    pub(crate) fn path(&self) -> PathBuf {
        let mut bytes = Vec::new();
        self.push_path(&mut bytes);
        PathBuf::from(OsStr::from_bytes(&bytes))
    }

    /// Adds its path below the top to `bytes`.
    pub(crate) fn push_path(&self, bytes: &mut Vec<u8>) {
        if let Some(parent) = self.parent() {
            parent.push_path(bytes);
            bytes.push(b'/');
        }
        bytes.extend_from_slice(self.name());
    }

    pub(crate) fn parent(&self) -> Option<Self> {
        let index = self.tree.directories[self.record().directory as usize]?;
        Some(self.tree.entry(index))
    }
}

impl Tree {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn entry(&self, index: u32) -> Entry<'_> {
        Entry { tree: self, index }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> + Clone {
        (0..number(self.records.len())).map(|index| self.entry(index))
    }

    /// What two listings of the same tree have in common only if nothing changed between them.
    pub(crate) fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        // The order of entries is the file system's and may differ: the sum does not.
        let mut path = Vec::new();
        self.entries().fold(0, |sum: u64, entry| {
            path.clear();
            entry.push_path(&mut path);
            let mut hasher = DefaultHasher::new();
            let meta = entry.meta();
            (&path, meta.size, meta.mtime, meta.ctime, meta.inode).hash(&mut hasher);
            sum.wrapping_add(hasher.finish())
        })
    }

    fn add_directory(&mut self, record: Option<u32>) -> u32 {
        self.directories.push(record);
        number(self.directories.len() - 1)
    }

    fn add(&mut self, directory: u32, name: &[u8], meta: Meta) -> u32 {
        let start = number(self.names.len());
        self.names.extend_from_slice(name);
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.records.push(Record {
            directory,
            name: (start, length),
            meta,
        });
        number(self.records.len() - 1)
    }

    /// Lists a local tree. A top that does not exist is empty.
    pub(crate) fn local(top: &Path, wanted: &dyn Fn(&Entry<'_>) -> Wanted) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        let top_index = tree.add_directory(None);
        let handle = match open_directory(CWD, top) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(tree),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", top.display()));
            }
        };
        tree.list(handle, top_index, wanted)
            .with_context(|| format!("cannot read {}", top.display()))?;
        Ok(tree)
    }

    fn list(
        &mut self,
        handle: OwnedFd,
        directory: u32,
        wanted: &dyn Fn(&Entry<'_>) -> Wanted,
    ) -> anyhow::Result<()> {
        let read = read_directory(&handle)?;
        let mut below = Vec::new();
        for (name, meta) in read {
            let index = self.add(directory, &name, meta);
            match wanted(&self.entry(index)) {
                Wanted::No => {
                    self.records.pop();
                }
                Wanted::Yes if meta.kind == Kind::Directory => below.push((name, index)),
                Wanted::Yes | Wanted::Itself => {}
            }
        }
        for (name, index) in below {
            let directory = self.add_directory(Some(index));
            match open_directory(&handle, Path::new(OsStr::from_bytes(&name))) {
                Ok(handle) => self.list(handle, directory, wanted)?,
                // It went away meanwhile, or became something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot read {}", self.entry(index).path().display())
                    });
                }
            }
        }
        Ok(())
    }

    /// Lists a tree in the store with many threads: each waits for an answer of its own.
    pub(crate) fn remote(
        top: &Path,
        wanted: &(dyn Fn(&Entry<'_>) -> Wanted + Sync),
        threads: usize,
    ) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        let top_index = tree.add_directory(None);
        let scan = Scan {
            top,
            wanted,
            state: Mutex::new(State {
                tree,
                waiting: vec![top_index],
                busy: 0,
                threads: 1,
                failed: None,
            }),
            change: Condvar::new(),
            most: threads,
        };
        std::thread::scope(|scope| scan.work(scope));
        let state = scan
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        state.failed.map_or(Ok(state.tree), Err)
    }
}

/// A parallel listing under way.
struct Scan<'a> {
    top: &'a Path,
    wanted: &'a (dyn Fn(&Entry<'_>) -> Wanted + Sync),
    state: Mutex<State>,
    change: Condvar,
    /// Threads.
    most: usize,
}

struct State {
    tree: Tree,
    waiting: Vec<u32>,
    busy: usize,
    threads: usize,
    failed: Option<anyhow::Error>,
}

impl Scan<'_> {
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(directory) = state.waiting.pop().filter(|_| state.failed.is_none()) else {
                if state.busy == 0 || state.failed.is_some() {
                    return;
                }
                state = self
                    .change
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let path = match state.tree.directories[directory as usize] {
                Some(index) => self.top.join(state.tree.entry(index).path()),
                None => self.top.to_owned(),
            };
            state.busy += 1;
            drop(state);
            let read = open_directory(CWD, &path).and_then(|handle| read_directory(&handle));
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.busy -= 1;
            let before = state.waiting.len();
            match read {
                Ok(read) => self.take(&mut state, directory, read),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    state.failed =
                        Some(error.context(format!("CACHE_STORE: cannot read {}", path.display())));
                }
            }
            let is_over = state.busy == 0 && state.waiting.is_empty();
            if is_over || state.failed.is_some() {
                self.change.notify_all();
            } else {
                // This thread takes one of them itself.
                for _ in before + 1..state.waiting.len() {
                    self.change.notify_one();
                }
                // A small tree, or a fast store, is listed before many threads have begun.
                let idle = state.threads - state.busy - 1;
                if state.waiting.len() > 1 + idle && state.threads < self.most {
                    state.threads += 1;
                    scope.spawn(|| self.work(scope));
                }
            }
        }
    }

    fn take(&self, state: &mut State, directory: u32, read: Vec<(Vec<u8>, Meta)>) {
        for (name, meta) in read {
            let index = state.tree.add(directory, &name, meta);
            match (self.wanted)(&state.tree.entry(index)) {
                Wanted::No => {
                    state.tree.records.pop();
                }
                Wanted::Yes if meta.kind == Kind::Directory => {
                    let below = state.tree.add_directory(Some(index));
                    state.waiting.push(below);
                }
                Wanted::Yes | Wanted::Itself => {}
            }
        }
    }
}

fn open_directory(at: impl std::os::fd::AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// Names and metadata of a directory, in the order of the names.
fn read_directory(handle: &OwnedFd) -> rustix::io::Result<Vec<(Vec<u8>, Meta)>> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut names = Vec::new();
    let mut entries = RawDir::new(handle, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    let mut read = Vec::with_capacity(names.len());
    for name in names {
        match statat(handle, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => read.push((name, Meta::of(&stat))),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// An index. A tree of four thousand million entries does not fit elsewhere first.
fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
