//! Reads a data-root: which images and layers it has.
//!
//! Owns what is known of a data-root's files. Facts: moby `image/fs.go`, `reference/store.go`,
//! `layer/filestore.go`, `daemon/graphdriver/overlay2/overlay.go`; the same from 20.10 to 28.5.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Deserialize;

use crate::STORAGE_DRIVER;
use crate::checksum;
use crate::manifest::Image;

/// Databases that a dockerd holds locked while it lives.
const DATABASES: [&str; 2] = [
    "network/files/local-kv.db",
    "containerd/daemon/io.containerd.metadata.v1.bolt/meta.db",
];

/// Which images of a data-root are meant.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Every one that has a tag.
    Tagged,
    /// These, by `name:tag` as dockerd writes it, and by id.
    These {
        references: BTreeSet<String>,
        ids: BTreeSet<String>,
    },
}

/// A reference as dockerd writes it down: without Docker Hub's name, with a tag.
#[must_use]
pub fn familiar(reference: &str) -> String {
    let mut short = reference;
    for prefix in ["docker.io/", "index.docker.io/", "library/"] {
        short = short.strip_prefix(prefix).unwrap_or(short);
    }
    let name = short.rsplit('/').next().unwrap_or(short);
    if name.contains([':', '@']) {
        short.to_owned()
    } else {
        format!("{short}:latest")
    }
}

/// What a data-root has of the wanted images.
#[derive(Debug)]
pub(crate) struct Catalogue {
    root: PathBuf,
    pub(crate) images: Vec<Image>,
    /// Each once, parents before children.
    pub(crate) layers: Vec<FoundLayer>,
}

/// What an image is called: its `name:tag`s and its `name@digest`s.
type Names = (Vec<String>, Vec<String>);

/// A layer in a data-root.
#[derive(Debug)]
pub(crate) struct FoundLayer {
    pub(crate) chain_id: String,
    pub(crate) parent: Option<String>,
    pub(crate) diff_id: String,
    pub(crate) cache_id: String,
    pub(crate) bytes: u64,
    /// Its short name below `l`.
    pub(crate) link: String,
    /// The short names of the layers below it.
    pub(crate) lower: Option<String>,
}

#[derive(Default, Deserialize)]
struct Repositories {
    #[serde(rename = "Repositories")]
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// The part after `sha256:`.
pub(crate) fn hex_of(digest: &str) -> Result<&str> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .with_context(|| format!("{digest} is no SHA-256 digest"))
}

/// Refuses a data-root on which a dockerd runs: it could be read half written.
pub(crate) fn require_unused(data_root: &Path) -> Result<()> {
    for database in DATABASES {
        let Ok(file) = File::open(data_root.join(database)) else {
            continue;
        };
        if flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
            bail!("a dockerd runs on {}; stop it first", data_root.display());
        }
    }
    Ok(())
}

impl Catalogue {
    /// Reads what `wanted` means.
    pub(crate) fn read(data_root: &Path, wanted: &Wanted) -> Result<Self> {
        let root = data_root.join("image").join(STORAGE_DRIVER);
        ensure!(
            root.is_dir(),
            "{} has no images of the storage driver {STORAGE_DRIVER}; take `docker save` archives \
             of images that another storage driver or the containerd image store has",
            data_root.display()
        );
        let mut catalogue = Self {
            root,
            images: Vec::new(),
            layers: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        for (id, (references, digests)) in catalogue.wanted(wanted)? {
            let mut read = || catalogue.read_image(&id, data_root, &mut seen);
            let (chain, layers) = read().with_context(|| format!("cannot read the image {id}"))?;
            catalogue.layers.extend(layers);
            let bytes = chain.iter().filter_map(|chain| catalogue.layer(chain));
            let bytes = bytes.map(|layer| layer.bytes).sum();
            catalogue.images.push(Image {
                id,
                references,
                digests,
                layers: chain,
                bytes,
            });
        }
        ensure!(
            !catalogue.images.is_empty(),
            "{} has no images",
            data_root.display()
        );
        Ok(catalogue)
    }

    fn layer(&self, chain_id: &str) -> Option<&FoundLayer> {
        self.layers.iter().find(|layer| layer.chain_id == chain_id)
    }

    /// Ids of images, each with its names.
    fn wanted(&self, wanted: &Wanted) -> Result<BTreeMap<String, Names>> {
        let path = self.root.join("repositories.json");
        let repositories: Repositories = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("cannot read {}", path.display()))?,
            Err(_) => Repositories::default(),
        };
        let mut images: BTreeMap<String, Names> = BTreeMap::new();
        if let Wanted::These { ids, .. } = wanted {
            images.extend(ids.iter().map(|id| (id.clone(), Names::default())));
        }
        let all = || repositories.repositories.values().flatten();
        for (reference, id) in all().filter(|(reference, _)| !reference.contains('@')) {
            let is_wanted = match wanted {
                Wanted::Tagged => true,
                Wanted::These { references, .. } => references.contains(reference),
            };
            if is_wanted {
                images
                    .entry(id.clone())
                    .or_default()
                    .0
                    .push(reference.clone());
            }
        }
        for (name, references) in &repositories.repositories {
            for (digest, id) in references
                .iter()
                .filter(|(reference, _)| reference.contains('@'))
            {
                let asked = match wanted {
                    Wanted::Tagged => false,
                    Wanted::These { references, .. } => references.contains(digest),
                };
                if asked {
                    images.entry(id.clone()).or_default();
                }
                if let Some((tags, digests)) = images.get_mut(id) {
                    let of_this_name = |tag: &String| {
                        tag.strip_prefix(name.as_str())
                            .is_some_and(|rest| rest.starts_with(':'))
                    };
                    if asked || tags.iter().any(of_this_name) {
                        digests.push(digest.clone());
                    }
                }
            }
        }
        Ok(images)
    }

    /// The image's chain ids, and those of its layers that were not seen before.
    fn read_image(
        &self,
        id: &str,
        data_root: &Path,
        seen: &mut BTreeSet<String>,
    ) -> Result<(Vec<String>, Vec<FoundLayer>)> {
        let text = fs::read(self.content(id)?)?;
        ensure!(
            checksum::of_bytes(&text) == hex_of(id)?,
            "its configuration is damaged"
        );
        let configuration: Configuration = serde_json::from_slice(&text)?;
        let mut chain: Vec<String> = Vec::new();
        let mut layers = Vec::new();
        for diff_id in configuration.rootfs.diff_ids {
            let parent = chain.last().cloned();
            let chain_id = match &parent {
                None => diff_id,
                Some(parent) => {
                    format!(
                        "sha256:{}",
                        checksum::of_bytes(format!("{parent} {diff_id}").as_bytes())
                    )
                }
            };
            if seen.insert(chain_id.clone()) {
                let layer = self.read_layer(data_root, &chain_id, parent);
                layers.push(layer.with_context(|| format!("cannot read the layer {chain_id}"))?);
            }
            chain.push(chain_id);
        }
        Ok((chain, layers))
    }

    fn read_layer(
        &self,
        data_root: &Path,
        chain_id: &str,
        parent: Option<String>,
    ) -> Result<FoundLayer> {
        let folder = self.layer_folder(chain_id)?;
        let text = |path: PathBuf| {
            fs::read_to_string(&path)
                .map(|text| text.trim().to_owned())
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let cache_id = text(folder.join("cache-id"))?;
        ensure!(
            !cache_id.is_empty() && !cache_id.contains('/'),
            "its cache-id makes no sense"
        );
        let driver = data_root.join(STORAGE_DRIVER).join(&cache_id);
        let lower = driver.join("lower");
        Ok(FoundLayer {
            diff_id: text(folder.join("diff"))?,
            bytes: text(folder.join("size"))?.parse()?,
            link: text(driver.join("link"))?,
            lower: lower.exists().then(|| text(lower)).transpose()?,
            chain_id: chain_id.to_owned(),
            parent,
            cache_id,
        })
    }

    /// The image's configuration.
    pub(crate) fn content(&self, id: &str) -> Result<PathBuf> {
        Ok(self.root.join("imagedb/content/sha256").join(hex_of(id)?))
    }

    /// When the image was tagged last, as dockerd has written it, if it has.
    pub(crate) fn last_updated(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let folder = self.root.join("imagedb/metadata/sha256").join(hex_of(id)?);
        Ok(fs::read(folder.join("lastUpdated")).ok())
    }

    /// The layer's files in the layer store.
    pub(crate) fn layer_folder(&self, chain_id: &str) -> Result<PathBuf> {
        Ok(self.root.join("layerdb/sha256").join(hex_of(chain_id)?))
    }

    /// Under which digests registries have the layers: paths below `distribution`, with their
    /// content. dockerd needs it to know a layer before it has pulled it.
    pub(crate) fn distribution(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let place = self.root.join("distribution");
        let wanted: BTreeSet<&str> = self.layers.iter().map(|layer| &layer.diff_id[..]).collect();
        let mut found = Vec::new();
        for diff_id in &wanted {
            let path = Path::new("v2metadata-by-diffid/sha256").join(hex_of(diff_id)?);
            if let Ok(text) = fs::read(place.join(&path)) {
                found.push((path, text));
            }
        }
        let by_digest = Path::new("diffid-by-digest/sha256");
        for entry in fs::read_dir(place.join(by_digest)).into_iter().flatten() {
            let entry = entry?;
            let text = fs::read(entry.path())?;
            if std::str::from_utf8(&text).is_ok_and(|diff_id| wanted.contains(diff_id.trim())) {
                found.push((by_digest.join(entry.file_name()), text));
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_written_as_dockerd_writes_them() {
        for (given, written) in [
            ("alpine", "alpine:latest"),
            ("docker.io/library/alpine:3", "alpine:3"),
            ("docker.io/owner/name", "owner/name:latest"),
            ("registry:5000/name", "registry:5000/name:latest"),
            ("registry:5000/name:1", "registry:5000/name:1"),
            ("name@sha256:00", "name@sha256:00"),
        ] {
            assert_eq!(familiar(given), written);
        }
    }

    #[test]
    fn a_data_root_of_another_storage_driver_is_refused_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("image/vfs")).unwrap();
        let error = Catalogue::read(folder.path(), &Wanted::Tagged)
            .unwrap_err()
            .to_string();
        assert!(error.contains("docker save"), "{error}");
    }

    #[test]
    fn a_data_root_with_a_living_dockerd_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        require_unused(folder.path()).unwrap();
        let path = folder.path().join(DATABASES[0]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let database = File::create(path).unwrap();
        require_unused(folder.path()).unwrap();
        flock(&database, FlockOperation::LockExclusive).unwrap();
        let error = require_unused(folder.path()).unwrap_err().to_string();
        assert!(error.contains("stop it first"), "{error}");
    }
}
