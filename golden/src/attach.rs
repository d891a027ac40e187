//! Attaches a version to a fresh data-root.
//!
//! Owns the steps and their undoing: an attempt that fails leaves the data-root as it was. The
//! files are mounted below the data-root's `golden/`, by whoever makes dockerd's view of it; they
//! are mounted here only as long as it takes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use init::Children;
use serde::{Deserialize, Serialize};

use crate::STORAGE_DRIVER;
use crate::checksum;
use crate::erofs::{self, Source};
use crate::manifest::Manifest;
use crate::metadata::{self, PLACE};
use crate::store::{Store, Version};

/// What attaching makes in a data-root.
const MADE: [&str; 3] = [STORAGE_DRIVER, "image", PLACE];

/// A mount that dockerd needs below its data-root.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Mount {
    source: Source,
    /// The number of the file in the manifest.
    number: usize,
}

/// A data-root with the images of a version, which stays in use as long as this value lives.
#[derive(Debug)]
pub struct Attached {
    version: Version,
    mounts: Vec<Mount>,
}

/// Files of a version that are mounted as long as this value lives.
#[derive(Debug)]
pub struct MountedFiles {
    places: Vec<PathBuf>,
}

impl Attached {
    /// The version.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The mounts that dockerd needs.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }
}

impl Mount {
    /// Mounts it below `data_root`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn perform(&self, data_root: &Path) -> Result<()> {
        self.source.mount(&self.place(data_root))
    }

    fn place(&self, data_root: &Path) -> PathBuf {
        data_root.join(PLACE).join(self.number.to_string())
    }
}

impl Drop for MountedFiles {
    fn drop(&mut self) {
        for place in self.places.drain(..).rev() {
            // It goes with the mount namespace at the latest.
            erofs::unmount(&place).ok();
        }
    }
}

impl Store {
    /// Attaches the current version to a data-root on which no dockerd has run.
    ///
    /// # Errors
    /// The store is missing, damaged, too new or of another storage driver, or cannot be mounted.
    /// The data-root is as it was then.
    pub fn attach(&self, data_root: &Path) -> Result<Attached> {
        let (attached, _mounted) = self.attach_mounted(data_root)?;
        Ok(attached)
    }

    /// As [`Store::attach`]; the files stay mounted in this mount namespace.
    ///
    /// # Errors
    /// As [`Store::attach`].
    pub fn attach_mounted(&self, data_root: &Path) -> Result<(Attached, MountedFiles)> {
        let version = self.lease_current()?;
        let manifest = version.manifest();
        ensure!(
            manifest.storage_driver == STORAGE_DRIVER,
            "the golden store {} is for the storage driver {}",
            self.dir().display(),
            manifest.storage_driver
        );
        for name in MADE {
            let path = data_root.join(name);
            ensure!(
                !path.exists(),
                "{} is there: the data-root is not fresh",
                path.display()
            );
        }
        match populate(self, manifest, data_root) {
            Ok((mounts, mounted)) => Ok((Attached { version, mounts }, mounted)),
            Err(cause) => {
                for name in MADE {
                    remove_what_was_made(&data_root.join(name))?;
                }
                Err(cause)
            }
        }
    }

    /// Mounts all files of the current version where [`Store::attach`] finds them, for a host: all
    /// its tasks share their page cache then. The paths that are new.
    ///
    /// # Errors
    /// There is no version that can be used, or the kernel refuses.
    pub async fn mount_current(&self, children: &Children) -> Result<Vec<PathBuf>> {
        let version = self.lease_current()?;
        let mut mounted = Vec::new();
        for file in &version.manifest().files {
            let source = erofs::source(self, file)?;
            if matches!(source, Source::Mounted(_)) {
                continue;
            }
            let place = self.mounted(file);
            fs::create_dir_all(&place)
                .with_context(|| format!("cannot make {}", place.display()))?;
            source.mount_on_host(children, &place).await?;
            erofs::require_mark(&place, file)?;
            mounted.push(place);
        }
        Ok(mounted)
    }
}

impl Version {
    /// Mounts the version's files below `folder`'s `golden/`, by their numbers.
    pub(crate) fn mount_below(&self, folder: &Path) -> Result<MountedFiles> {
        mount_files(self.store(), self.manifest(), folder).map(|(_, mounted)| mounted)
    }
}

fn populate(
    store: &Store,
    manifest: &Manifest,
    data_root: &Path,
) -> Result<(Vec<Mount>, MountedFiles)> {
    let path = store.path_of(&manifest.files[0]);
    // The metadata is small, and dockerd trusts it.
    ensure!(
        checksum::of_file(&path)? == manifest.files[0].sha256,
        "{} is damaged: its checksum is not the one in the manifest",
        path.display()
    );
    let (mounts, mounted) = mount_files(store, manifest, data_root)?;
    for layer in &manifest.layers {
        let tree = data_root.join(metadata::tree_of(layer.file, &layer.diff_id)?);
        let is_there = fs::symlink_metadata(&tree).is_ok_and(|tree| tree.is_dir());
        ensure!(
            is_there,
            "the golden store is damaged: it has no files of {}",
            layer.diff_id
        );
    }
    metadata::replicate(data_root)?;
    Ok((mounts, mounted))
}

fn mount_files(
    store: &Store,
    manifest: &Manifest,
    folder: &Path,
) -> Result<(Vec<Mount>, MountedFiles)> {
    let mut mounted = MountedFiles { places: Vec::new() };
    let mut mounts = Vec::new();
    for (number, file) in manifest.files.iter().enumerate() {
        let mount = Mount {
            source: erofs::source(store, file)?,
            number,
        };
        let place = mount.place(folder);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        mount.perform(folder)?;
        mounted.places.push(place.clone());
        erofs::require_mark(&place, file)?;
        mounts.push(mount);
    }
    Ok((mounts, mounted))
}

/// Nothing is mounted below it any more.
fn remove_what_was_made(path: &Path) -> Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "made by this process a moment ago, and no mount is left in it"
    )]
    let removed = fs::remove_dir_all(path);
    match removed {
        Err(cause) if path.exists() => {
            Err(cause).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
