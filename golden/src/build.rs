//! Makes a new version from a data-root.
//!
//! Owns the decision which files of the previous version are used again, and the stages of the
//! others. A file is kept while half of it is still needed; the rest of its layers, and those that
//! are new, get one new file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use init::Children;
use jiff::Timestamp;
use nix::mount::{MsFlags, mount};

use crate::catalogue::{self, Catalogue, FoundLayer, Wanted};
use crate::erofs;
use crate::manifest::{ErofsFile, FORMAT, Layer, Manifest};
use crate::metadata::{self, TAR_SPLITS, TREES};
use crate::store::{Lock, Store, Version};
use crate::{MountedFiles, STORAGE_DRIVER};

/// Each file is a mount in every task.
const MOST_FILES: usize = 8;

/// What a version is made from. The calling process must be in a mount namespace of its own.
#[derive(Debug)]
pub struct Build<'a> {
    pub store: &'a Store,
    /// A data-root on which no dockerd runs.
    pub data_root: &'a Path,
    pub wanted: Wanted,
    /// The version of the engine that has unpacked the images.
    pub engine: Option<String>,
    /// The version whose files are used again.
    pub previous: Option<&'a Version>,
    /// An empty directory of the caller's.
    pub work: &'a Path,
}

/// What has become of it.
#[derive(Debug)]
pub enum Built {
    /// There is a new version, which is current now.
    Published {
        version: String,
        manifest: Manifest,
        /// What was written to disk for it.
        new_bytes: u64,
    },
    /// The current version has the same images already.
    Unchanged { version: String },
}

impl Build<'_> {
    /// Makes the version; `progress` gets a line per step.
    ///
    /// # Errors
    /// The data-root cannot be read or is in use, `mkfs.erofs` is missing or fails, the store
    /// cannot be written. The store's current version is what it was then.
    pub async fn run(
        self,
        _lock: &Lock,
        children: &Children,
        progress: &dyn Fn(&str),
    ) -> Result<Built> {
        catalogue::require_unused(self.data_root)?;
        let catalogue = Catalogue::read(self.data_root, &self.wanted)?;
        let reuse = Reuse::of(self.previous.map(Version::manifest), &catalogue);
        let fresh: Vec<&FoundLayer> = reuse.fresh(&catalogue);
        let mut files: Vec<ErofsFile> = reuse.files.clone();
        let mut new_bytes = 0;
        if !fresh.is_empty() {
            let bytes = fresh.iter().map(|layer| layer.bytes).sum();
            progress(&format!(
                "packing {} layers, {} MB",
                fresh.len(),
                bytes / 1_000_000
            ));
            let file = self.pack(children, &catalogue, &fresh, bytes).await?;
            new_bytes += file.bytes;
            files.push(file);
        }
        let layers = reuse.layers(&catalogue, files.len());
        let mut manifest = Manifest {
            format: FORMAT,
            created: Timestamp::now().as_second(),
            storage_driver: STORAGE_DRIVER.into(),
            engine: self.engine,
            images: catalogue.images.clone(),
            layers,
            files,
        };
        if let Some(previous) = self.previous
            && fresh.is_empty()
            && manifest.files[..] == previous.manifest().files[1..]
            && manifest.offers_the_same_as(previous.manifest())
        {
            return Ok(Built::Unchanged {
                version: previous.name().to_owned(),
            });
        }
        progress("writing the metadata");
        let tree = new_folder(&self.work.join("metadata"))?;
        metadata::write(&tree, &catalogue, &manifest.layers)?;
        let file = erofs::make(self.store, children, &tree, 0).await?;
        new_bytes += file.bytes;
        manifest.files.insert(0, file);
        let version = self.store.publish(&manifest)?;
        Ok(Built::Published {
            version,
            manifest,
            new_bytes,
        })
    }

    /// One file with the trees of `layers`.
    async fn pack(
        &self,
        children: &Children,
        catalogue: &Catalogue,
        layers: &[&FoundLayer],
        bytes: u64,
    ) -> Result<ErofsFile> {
        let stage = new_folder(&self.work.join("layers"))?;
        new_folder(&stage.join(TREES))?;
        new_folder(&stage.join(TAR_SPLITS))?;
        let previous = self.work.join("previous");
        let _mounted: Option<MountedFiles> = self
            .previous
            .map(|version| version.mount_below(&previous))
            .transpose()?;
        let mut bound = Bound { places: Vec::new() };
        for layer in layers {
            let (tree, tar_split) = self.source_of(catalogue, layer, &previous)?;
            let place = new_folder(&stage.join(TREES).join(catalogue::hex_of(&layer.diff_id)?))?;
            bound.bind(&tree, place)?;
            let copy = stage.join(metadata::tar_split_of(&layer.diff_id)?);
            fs::copy(&tar_split, copy)
                .with_context(|| format!("cannot copy {}", tar_split.display()))?;
        }
        erofs::make(self.store, children, &stage, bytes).await
    }

    /// A layer's tree and `tar-split`: in the previous version, or else in the data-root.
    fn source_of(
        &self,
        catalogue: &Catalogue,
        layer: &FoundLayer,
        previous: &Path,
    ) -> Result<(PathBuf, PathBuf)> {
        let older = self.previous.map(Version::manifest).and_then(|manifest| {
            manifest
                .layers
                .iter()
                .find(|older| older.diff_id == layer.diff_id)
        });
        if let Some(older) = older {
            let tree = previous.join(metadata::tree_of(older.file, &older.diff_id)?);
            let file = previous.join(metadata::PLACE).join(older.file.to_string());
            return Ok((tree, file.join(metadata::tar_split_of(&older.diff_id)?)));
        }
        let tree = self
            .data_root
            .join(STORAGE_DRIVER)
            .join(&layer.cache_id)
            .join("diff");
        let tar_split = metadata::tar_split_in(&catalogue.layer_folder(&layer.chain_id)?);
        Ok((tree, tar_split))
    }
}

/// Bind mounts that go with this value.
struct Bound {
    places: Vec<PathBuf>,
}

impl Bound {
    fn bind(&mut self, from: &Path, to: PathBuf) -> Result<()> {
        mount(
            Some(from),
            &to,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("cannot bind {}; SYS_ADMIN is needed", from.display()))?;
        self.places.push(to);
        Ok(())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        for place in self.places.drain(..) {
            // It goes with the mount namespace at the latest.
            erofs::unmount(&place).ok();
        }
    }
}

/// Which files of the previous version are kept, and what is in them.
#[derive(Debug, Default)]
struct Reuse {
    files: Vec<ErofsFile>,
    /// Diff ids, with the number that the file gets in the new version.
    known: BTreeMap<String, usize>,
}

impl Reuse {
    fn of(previous: Option<&Manifest>, catalogue: &Catalogue) -> Self {
        let Some(previous) = previous else {
            return Self::default();
        };
        let wanted: BTreeSet<&str> = catalogue
            .layers
            .iter()
            .map(|layer| &layer.diff_id[..])
            .collect();
        let mut worth: Vec<(usize, u64)> = Vec::new();
        for (number, file) in previous.files.iter().enumerate().skip(1) {
            let needed: BTreeMap<&str, u64> = previous
                .layers
                .iter()
                .filter(|layer| layer.file == number && wanted.contains(&layer.diff_id[..]))
                .map(|layer| (&layer.diff_id[..], layer.bytes))
                .collect();
            let bytes: u64 = needed.values().sum();
            if !needed.is_empty() && bytes * 2 >= file.content_bytes {
                worth.push((number, bytes));
            }
        }
        // One number is the metadata's, one is the new file's.
        worth.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        worth.truncate(MOST_FILES - 2);
        worth.sort_unstable();
        let mut reuse = Self::default();
        for (number, _) in worth {
            reuse.files.push(previous.files[number].clone());
            let here = previous.layers.iter().filter(|layer| layer.file == number);
            reuse
                .known
                .extend(here.map(|layer| (layer.diff_id.clone(), reuse.files.len())));
        }
        reuse
    }

    /// The layers that no kept file has, each diff id once.
    fn fresh<'a>(&self, catalogue: &'a Catalogue) -> Vec<&'a FoundLayer> {
        let mut seen = BTreeSet::new();
        let layers = catalogue.layers.iter();
        layers
            .filter(|layer| !self.known.contains_key(&layer.diff_id) && seen.insert(&layer.diff_id))
            .collect()
    }

    /// The manifest's layers; what no kept file has is in the file `fresh`.
    fn layers(&self, catalogue: &Catalogue, fresh: usize) -> Vec<Layer> {
        let layers = catalogue.layers.iter();
        layers
            .map(|layer| Layer {
                chain_id: layer.chain_id.clone(),
                diff_id: layer.diff_id.clone(),
                cache_id: layer.cache_id.clone(),
                bytes: layer.bytes,
                file: self.known.get(&layer.diff_id).copied().unwrap_or(fresh),
            })
            .collect()
    }
}

/// Only root may look into layers while they are packed; the image's root keeps that mode.
fn new_folder(path: &Path) -> Result<PathBuf> {
    DirBuilder::new()
        .recursive(true)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.to_owned())
}
