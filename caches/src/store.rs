//! The store's layout, and the few acts by which its content changes.
//!
//! Every act is one operation that either happened or not: a pack appears by a hard link, which
//! fails when the name is taken, and disappears by a rename. All functions block as long as the
//! storage does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rustix::fs::{CWD, Dir, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Root;
use crate::shard::usual;
use crate::unit::Unit;

/// The version of the layout.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "cache-store.json";
const UNITS: &str = "units";
const TOOLS: &str = "toolcache";
const TREES: &str = "trees";
const TMP: &str = "tmp";
pub(crate) const TRASH: &str = "trash";
const QUARANTINE: &str = "quarantine";
/// A last use is noted once a day at most.
const NOTED: Duration = Duration::from_secs(24 * 3600);

/// No publication takes that long.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// What says whose store it is.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    arch: String,
}

/// A store that may be used.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) path: PathBuf,
    /// The names at its top.
    names: Vec<String>,
    /// Begins the names of drafts.
    drafts: String,
}

/// A pack in the store.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) unit: Unit,
    pub(crate) size: u64,
    /// The pack's modification time, which restores renew.
    pub(crate) used: SystemTime,
}

/// A file in the store that nobody sees yet. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) file: File,
    path: PathBuf,
}

/// How a publication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    Published,
    /// Somebody else was first; theirs stays.
    LostRace,
}

impl Store {
    /// Looks at a store; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or belongs to another architecture or a newer version.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Option<Self>> {
        let cannot = || format!("CACHE_STORE: cannot read {}", path.display());
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(cannot)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.with_context(cannot)?.file_name().into_string().ok());
        }
        if names.iter().any(|name| name == FORMAT_FILE) {
            check_format(path)?;
        }
        Ok(Some(Self {
            path: path.to_owned(),
            names,
            drafts: String::new(),
        }))
    }

    /// Looks at a store that has to be there.
    pub(crate) fn existing(path: &Path) -> anyhow::Result<Self> {
        Self::open(path)?.with_context(|| {
            format!(
                "CACHE_STORE: {} is not there; mount it, or let the first publication make it",
                path.display()
            )
        })
    }

    /// Opens a store to publish, and makes what is missing. What has a name that begins with
    /// `drafts`, as ours will, somebody wrote who was killed.
    pub(crate) fn open_to_publish(path: &Path, drafts: &str) -> anyhow::Result<Self> {
        if Self::open(path)?.is_none() {
            make_directory(path)?;
        }
        let mut store = Self::open(path)?.with_context(|| format!("{} is gone", path.display()))?;
        drafts.clone_into(&mut store.drafts);
        for name in [UNITS, TMP] {
            if !store.names.iter().any(|known| known == name) {
                make_directory(&path.join(name))?;
            }
        }
        if !store.names.iter().any(|name| name == FORMAT_FILE) {
            let format = Format {
                format: FORMAT,
                arch: std::env::consts::ARCH.to_owned(),
            };
            let mut draft = store.draft()?;
            writeln!(draft.file, "{}", serde_json::to_string(&format)?)
                .with_context(|| format!("CACHE_STORE: cannot write to {}", path.display()))?;
            draft.place(&path.join(FORMAT_FILE))?;
            check_format(path)?;
        }
        store.tidy();
        Ok(store)
    }

    /// Removes what publishers that were killed began: ours, and others long ago.
    fn tidy(&self) {
        let entries = fs::read_dir(self.path.join(TMP))
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            let name = entry.file_name();
            let ours = !self.drafts.is_empty() && name.to_string_lossy().starts_with(&self.drafts);
            let made = entry.metadata().and_then(|meta| meta.modified());
            if ours || made.is_ok_and(|made| crate::age(SystemTime::now(), made) > STALE) {
                // Another publisher may be at it too.
                fs::remove_file(entry.path()).ok();
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// The packs, in the order of their names.
    pub(crate) fn packs(&self) -> anyhow::Result<Vec<Listed>> {
        if !self.has(UNITS) {
            return Ok(Vec::new());
        }
        let directory = self.path.join(UNITS);
        let cannot = || format!("CACHE_STORE: cannot read {}", directory.display());
        let mut packs = Vec::new();
        for entry in fs::read_dir(&directory).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let name = entry.file_name();
            let Some(unit) = name.to_str().and_then(Unit::of_pack_name) else {
                continue;
            };
            match entry.metadata() {
                Ok(meta) if meta.is_file() => packs.push(Listed {
                    unit,
                    size: meta.len(),
                    used: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(cannot),
            }
        }
        packs.sort_by(|one, other| one.unit.cmp(&other.unit));
        Ok(packs)
    }

    pub(crate) fn pack(&self, unit: &Unit) -> PathBuf {
        self.path.join(UNITS).join(unit.pack_name())
    }

    /// Where it keeps what is loose in a root, `first` being the tool cache: where we put it or,
    /// in a store that was filled by plain rsync, under the root's own name.
    pub(crate) fn tree(&self, root: &Root, first: bool) -> PathBuf {
        let own = root.name();
        let ours = if first {
            self.path.join(TOOLS)
        } else {
            self.path.join(TREES).join(&own)
        };
        let taken = [FORMAT_FILE, UNITS, TREES, TMP, TRASH, QUARANTINE];
        let by_name = own
            .to_str()
            .is_some_and(|own| self.has(own) && !taken.contains(&own));
        let is_ours = if first {
            self.has(TOOLS)
        } else {
            self.has(TREES) && ours.is_dir()
        };
        if by_name && !is_ours {
            self.path.join(own)
        } else {
            ours
        }
    }

    /// Whether the tool cache was copied to the top itself, with the names there that are tools.
    pub(crate) fn is_plain_tool_cache(&self, root: &Root) -> bool {
        !self.has(TOOLS)
            && !root.name().to_str().is_some_and(|own| self.has(own))
            && self.names.iter().any(|name| !is_ours(name))
    }

    /// A new file that nobody sees yet.
    pub(crate) fn draft(&self) -> anyhow::Result<Draft> {
        let path =
            self.path
                .join(TMP)
                .join(format!("{}{:032x}", self.drafts, rand::random::<u128>()));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)
            .with_context(|| format!("CACHE_STORE: cannot write to {}", self.path.display()))?;
        Ok(Draft { file, path })
    }

    /// How long a file that is written has to be waited for.
    pub(crate) fn wait_of_writing(&self) -> anyhow::Result<Duration> {
        let mut failed = None;
        let wait = usual(|_| failed = failed.take().or(self.draft().err()));
        failed.map_or(Ok(wait), Err)
    }

    /// Notes that a unit is in use.
    pub(crate) fn note_use(&self, listed: &Listed) {
        let now = SystemTime::now();
        if now.duration_since(listed.used).is_ok_and(|age| age > NOTED) {
            // Not everybody may; then it looks older than it is.
            File::open(self.pack(&listed.unit))
                .and_then(|file| file.set_modified(now))
                .ok();
        }
    }

    /// Takes a damaged pack out of the way, if it is still the one that was read.
    pub(crate) fn quarantine(&self, unit: &Unit, inode: u64) -> anyhow::Result<()> {
        let place = self.path.join(QUARANTINE);
        make_directory(&place)?;
        let pack = self.pack(unit);
        if fs::symlink_metadata(&pack)?.ino() != inode {
            return Ok(());
        }
        let away = place.join(format!(
            "{}.{:016x}",
            unit.pack_name(),
            rand::random::<u64>()
        ));
        fs::rename(&pack, &away)?;
        // Somebody replaced it between the look and the act: it goes back.
        if fs::symlink_metadata(&away)?.ino() != inode {
            fs::hard_link(&away, &pack)?;
            fs::remove_file(&away)?;
        }
        Ok(())
    }

    /// Moves something of the store to the trash, where it stays for who reads it.
    pub(crate) fn discard(&self, what: &Path) -> anyhow::Result<()> {
        let place = self.path.join(TRASH);
        make_directory(&place)?;
        let name = what
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let away = place.join(format!("{name}.{:016x}", rand::random::<u64>()));
        match fs::rename(what, &away) {
            // Another one was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.with_context(|| format!("cannot move {}", what.display()))?,
        }
        // Its age in the trash is counted from now.
        File::open(&away)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .ok();
        Ok(())
    }

    /// The directories of things that are thrown away one day: drafts, trash, quarantine.
    pub(crate) fn rubbish(&self) -> Vec<PathBuf> {
        let names = [TMP, TRASH, QUARANTINE].into_iter();
        names
            .filter(|name| self.has(name))
            .map(|name| self.path.join(name))
            .collect()
    }

    /// What the storage calls now; clocks differ.
    pub(crate) fn now(&self) -> anyhow::Result<SystemTime> {
        Ok(self.draft()?.file.metadata()?.modified()?)
    }
}

impl Draft {
    /// Gives the file its name, unless the name is taken.
    pub(crate) fn place(self, to: &Path) -> anyhow::Result<Placed> {
        // A network storage reports here what it could not write.
        self.file
            .sync_all()
            .with_context(|| format!("cannot write {}", to.display()))?;
        let inode = self.file.metadata()?.ino();
        let linked = fs::hard_link(&self.path, to);
        // What is there decides, not the error: an answer may have been lost.
        match (fs::symlink_metadata(to), linked) {
            (Ok(meta), _) if meta.ino() == inode => Ok(Placed::Published),
            (Ok(_), _) => Ok(Placed::LostRace),
            (Err(_), Err(error)) => {
                Err(error).with_context(|| format!("cannot make {}", to.display()))
            }
            // It was discarded at once, or the storage is about to fail.
            (Err(error), Ok(())) => {
                Err(error).with_context(|| format!("cannot see {}", to.display()))
            }
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // A killed publisher's is removed by prune.
        fs::remove_file(&self.path).ok();
    }
}

/// Whether a name at the top of a store is one of ours.
pub(crate) fn is_ours(name: &str) -> bool {
    name.starts_with('.')
        || [FORMAT_FILE, UNITS, TOOLS, TREES, TMP, TRASH, QUARANTINE].contains(&name)
}

fn check_format(path: &Path) -> anyhow::Result<()> {
    let file = path.join(FORMAT_FILE);
    let text =
        fs::read(&file).with_context(|| format!("CACHE_STORE: cannot read {}", file.display()))?;
    let found: Format = serde_json::from_slice(&text)
        .with_context(|| format!("CACHE_STORE: {} is not what it should be", file.display()))?;
    if found.format > FORMAT {
        bail!(
            "CACHE_STORE: {} has format {}, and this version reads up to {FORMAT}; update the images or give another store",
            path.display(),
            found.format
        );
    }
    if found.arch != std::env::consts::ARCH {
        bail!(
            "CACHE_STORE: {} belongs to {}, and this is {}; give every architecture a store of its own",
            path.display(),
            found.arch,
            std::env::consts::ARCH
        );
    }
    Ok(())
}

/// Makes a store and its directories, and gives them and the tops of its trees to the user who
/// publishes. What is in them stays as it is.
///
/// # Errors
/// When a directory cannot be made or given away.
pub fn hand_over(path: &Path, uid: u32, gid: u32) -> anyhow::Result<()> {
    make_directory(path)?;
    // By handles and without following a link: others may write here while we are root.
    let give = |directory: &OwnedFd| {
        std::os::unix::fs::fchown(directory, Some(uid), Some(gid))
            .with_context(|| format!("CACHE_STORE: cannot give {} to user {uid}", path.display()))
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, path, flags, Mode::empty())
        .with_context(|| format!("CACHE_STORE: cannot open {}", path.display()))?;
    for name in [UNITS, TMP, TRASH, QUARANTINE, TREES, TOOLS] {
        let made = mkdirat(&top, name, Mode::from_raw_mode(0o755));
        anyhow::ensure!(
            matches!(made, Ok(()) | Err(Errno::EXIST)),
            "CACHE_STORE: cannot make {name}"
        );
        let directory = openat(&top, name, flags, Mode::empty())
            .with_context(|| format!("CACHE_STORE: cannot open {name}"))?;
        give(&directory)?;
        if name != TREES {
            continue;
        }
        for tree in Dir::read_from(&directory)? {
            let tree = tree?;
            if tree.file_name() != c".."
                && let Ok(tree) = openat(&directory, tree.file_name(), flags, Mode::empty())
            {
                give(&tree)?;
            }
        }
    }
    give(&top)
}

/// Makes a directory in the store that may be there already.
pub(crate) fn make_directory(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| format!("CACHE_STORE: cannot make {}", path.display()))
}
