//! A store and cached directories in a temporary folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use caches::{Caches, Condition, Event, Order, Progress, Published, Restored, Root, Stop};
use init::Children;

/// Only one of a process may be the reaper.
pub(crate) fn children() -> &'static Children {
    static CHILDREN: OnceLock<Children> = OnceLock::new();
    CHILDREN.get_or_init(|| init::start().unwrap().0)
}

pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The caches of one machine: a tool cache and one other root.
    pub(crate) fn caches(&self, machine: &str) -> Caches {
        let root = |name: &str| Root {
            path: self.path(machine).join(name),
            read_only: false,
            exclude: Vec::new(),
        };
        let caches = Caches {
            store: self.store(),
            roots: vec![root("tools"), root("npm")],
        };
        for root in &caches.roots {
            fs::create_dir_all(&root.path).unwrap();
        }
        caches
    }

    pub(crate) fn publish(&self, machine: &str) -> Published {
        publish(&self.caches(machine), &Condition::default(), &empty())
    }

    pub(crate) fn restore(&self, machine: &str) -> Restored {
        restore(&self.caches(machine), &Order::default(), &empty())
    }

    /// The file of a unit's pack.
    pub(crate) fn pack(&self, unit: &str) -> PathBuf {
        self.store()
            .join("units")
            .join(format!("{}.tar.zst", unit.replace('/', "@")))
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut std::process::Command) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limit = init::Deadline::within(std::time::Duration::from_secs(120));
    runtime
        .block_on(children().run(command, limit))
        .unwrap()
        .checked()
        .unwrap()
}

pub(crate) fn empty() -> File {
    tempfile::tempfile().unwrap()
}

pub(crate) fn publish(caches: &Caches, condition: &Condition, memory: &File) -> Published {
    let stop = Stop::within(None);
    caches::publish(
        caches,
        condition,
        (children(), memory),
        (&stop, &Progress::default()),
        &quiet,
    )
}

pub(crate) fn restore(caches: &Caches, order: &Order, memory: &File) -> Restored {
    let stop = Stop::within(None);
    caches::restore(
        caches,
        order,
        (children(), memory),
        (&stop, &Progress::default()),
        &quiet,
    )
}

fn quiet(_: Event) {}

/// Makes a unit of one file, with its marker.
pub(crate) fn unit(root: &Path, name: &str, content: &str) {
    let directory = root.join(name);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("tool"), content).unwrap();
    fs::write(root.join(format!("{name}.complete")), "").unwrap();
}

/// What cannot be compressed.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

/// Everything about a tree that a copy must have too; hard links by which names share a file.
pub(crate) fn describe(top: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    look(top, &mut |path, meta| {
        let name = path
            .strip_prefix(top)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
        let content = if meta.is_symlink() {
            format!("{:?}", fs::read_link(path).unwrap())
        } else if meta.is_file() && meta.len() < 64 << 20 {
            digest(&fs::read(path).unwrap())
        } else if meta.is_file() {
            format!("{} bytes", meta.len())
        } else {
            String::new()
        };
        let first = inodes
            .entry(meta.ino())
            .or_insert_with(|| name.clone())
            .clone();
        let shared = if meta.is_file() && meta.nlink() > 1 {
            first
        } else {
            Vec::new()
        };
        let described = format!(
            "{:o} {}.{:09} {content} {shared:?}",
            meta.mode(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        all.insert(name, described);
    });
    all
}

/// Compares two descriptions and shows only what differs.
pub(crate) fn assert_same(here: &BTreeMap<Vec<u8>, String>, there: &BTreeMap<Vec<u8>, String>) {
    let names: std::collections::BTreeSet<&Vec<u8>> = here.keys().chain(there.keys()).collect();
    let differing: Vec<String> = names
        .into_iter()
        .filter(|name| here.get(*name) != there.get(*name))
        .map(|name| {
            let short = String::from_utf8_lossy(&name[..name.len().min(60)]).into_owned();
            format!("{short}: {:?} is not {:?}", here.get(name), there.get(name))
        })
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

fn look(path: &Path, each: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        let meta = fs::symlink_metadata(&entry).unwrap();
        each(&entry, &meta);
        if meta.is_dir() {
            look(&entry, each);
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{} bytes {:016x}", bytes.len(), hasher.finish())
}
