//! The local side of a restore: a stage inside the cache, and units that move out of it whole.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock, futimens};

use crate::pack;
use crate::tree::Time;
use crate::unit::Unit;

const STAGE: &str = ".cache-restore-";
/// Between its making and its lock a stage looks like one that was left.
const YOUNG: Duration = Duration::from_secs(10);

/// A directory in the tool cache in which units are made. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) path: PathBuf,
    pub(crate) handle: OwnedFd,
    root: PathBuf,
    /// Units of one tool share directories.
    moving: Mutex<u32>,
}

impl Stage {
    /// Makes a stage and removes those of restores that were killed.
    pub(crate) fn make(root: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        remove_left(root).with_context(|| format!("cannot tidy {}", root.display()))?;
        let path = root.join(format!("{STAGE}{:016x}", rand::random::<u64>()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let handle = OwnedFd::from(File::open(&path)?);
        flock(&handle, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self {
            path,
            handle,
            root: root.to_owned(),
            moving: Mutex::new(0),
        })
    }

    /// Moves a complete unit to its place and marks it. What is there without a marker is
    /// unfinished and gives way, unless somebody may be writing it: then the unit is left out.
    pub(crate) fn commit(
        &self,
        unit: &Unit,
        marker_time: Time,
        displace: bool,
    ) -> anyhow::Result<()> {
        let mut moved = self
            .moving
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (place, marker) = (unit.directory(&self.root), unit.marker(&self.root));
        let cannot = || format!("cannot make {}", place.display());
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).with_context(cannot)?;
        }
        if fs::symlink_metadata(&place).is_ok() {
            anyhow::ensure!(displace, "a job makes it at this moment");
            *moved += 1;
            fs::rename(&place, self.path.join(format!(".old-{moved}"))).with_context(cannot)?;
        }
        match fs::remove_file(&marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(cannot);
            }
            _ => {}
        }
        fs::rename(unit.directory(&self.path), &place).with_context(cannot)?;
        let file = File::create_new(&marker)
            .with_context(|| format!("cannot make {}", marker.display()))?;
        futimens(&file, &pack::times(marker_time))?;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next restore.
        crate::remove_tree(&self.path).ok();
    }
}

fn remove_left(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(STAGE) {
            continue;
        }
        let young = entry.metadata().and_then(|meta| meta.modified());
        let Ok(handle) = File::open(entry.path()) else {
            continue;
        };
        if young.is_ok_and(|made| crate::age(SystemTime::now(), made) < YOUNG) {
            continue;
        }
        if flock(&handle, FlockOperation::NonBlockingLockExclusive).is_ok() {
            crate::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}
