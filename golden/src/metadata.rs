//! The metadata of a version: a tree that says what an attached data-root looks like.
//!
//! Owns the layout of that tree and the rule by which it becomes a part of a data-root:
//!
//! | in the tree | becomes |
//! |---|---|
//! | directory | a directory |
//! | symbolic link | the same symbolic link |
//! | file | a symbolic link to it, in the mounted metadata |
//! | `repositories.json` and empty files | a file with the same content |
//!
//! dockerd replaces files by renaming new ones over them, and so never writes through a link. It
//! makes files in the directories of layers (`committed`, `merged`), which therefore are real.

use std::fs::{self, DirBuilder};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::STORAGE_DRIVER;
use crate::catalogue::{Catalogue, FoundLayer, hex_of};
use crate::manifest::{Image, Layer};

/// The directory of a data-root below which a version's files are mounted, by their numbers.
pub(crate) const PLACE: &str = "golden";
/// The tree of the metadata file.
const ROOT: &str = "root";
/// The layers' trees in a file, by their diff ids.
pub(crate) const TREES: &str = "trees";
/// What dockerd needs to make the layers' tar streams again, in a file, by their diff ids.
pub(crate) const TAR_SPLITS: &str = "tar-splits";
const TAR_SPLIT: &str = "tar-split.json.gz";
const REPOSITORIES: &str = "repositories.json";
/// dockerd's own mode for the directories of a data-root.
const MODE: u32 = 0o710;

/// Where a layer's tree is, below the data-root.
pub(crate) fn tree_of(file: usize, diff_id: &str) -> Result<PathBuf> {
    Ok(Path::new(PLACE)
        .join(file.to_string())
        .join(TREES)
        .join(hex_of(diff_id)?))
}

/// Where a layer's `tar-split` is, below the directory where its file is mounted.
pub(crate) fn tar_split_of(diff_id: &str) -> Result<PathBuf> {
    Ok(Path::new(TAR_SPLITS).join(format!("{}.json.gz", hex_of(diff_id)?)))
}

/// The `tar-split` in a data-root's layer store.
pub(crate) fn tar_split_in(layer_folder: &Path) -> PathBuf {
    layer_folder.join(TAR_SPLIT)
}

/// Writes the metadata of images to `tree`. `layers` are the catalogue's, with their files.
pub(crate) fn write(tree: &Path, catalogue: &Catalogue, layers: &[Layer]) -> Result<()> {
    let root = Writer {
        root: tree.join(ROOT),
    };
    root.folder(&Path::new(STORAGE_DRIVER).join("l"))?;
    for (found, layer) in catalogue.layers.iter().zip(layers) {
        root.layer(found, layer)?;
    }
    let images = Path::new("image").join(STORAGE_DRIVER);
    for (found, layer) in catalogue.layers.iter().zip(layers) {
        root.layer_metadata(&images, found, layer)?;
    }
    for image in &catalogue.images {
        let hex = hex_of(&image.id)?;
        let content = fs::read(catalogue.content(&image.id)?)?;
        root.file(&images.join("imagedb/content/sha256").join(hex), &content)?;
        if let Some(time) = catalogue.last_updated(&image.id)? {
            let path = images
                .join("imagedb/metadata/sha256")
                .join(hex)
                .join("lastUpdated");
            root.file(&path, &time)?;
        }
    }
    for (path, text) in catalogue.distribution()? {
        root.file(&images.join("distribution").join(path), &text)?;
    }
    root.file(
        &images.join(REPOSITORIES),
        &repositories(&catalogue.images)?,
    )
}

struct Writer {
    root: PathBuf,
}

impl Writer {
    fn layer(&self, found: &FoundLayer, layer: &Layer) -> Result<()> {
        let driver = Path::new(STORAGE_DRIVER);
        let folder = driver.join(&layer.cache_id);
        self.file(&folder.join("link"), found.link.as_bytes())?;
        self.file(&folder.join("committed"), b"")?;
        if let Some(lower) = &found.lower {
            self.file(&folder.join("lower"), lower.as_bytes())?;
        }
        let tree = tree_of(layer.file, &layer.diff_id)?;
        self.link(&folder.join("diff"), &upwards(2).join(tree))?;
        let diff = Path::new("..").join(&layer.cache_id).join("diff");
        self.link(&driver.join("l").join(&found.link), &diff)
    }

    fn layer_metadata(&self, images: &Path, found: &FoundLayer, layer: &Layer) -> Result<()> {
        let folder = images.join("layerdb/sha256").join(hex_of(&layer.chain_id)?);
        self.file(&folder.join("cache-id"), layer.cache_id.as_bytes())?;
        self.file(&folder.join("diff"), layer.diff_id.as_bytes())?;
        self.file(&folder.join("size"), layer.bytes.to_string().as_bytes())?;
        if let Some(parent) = &found.parent {
            self.file(&folder.join("parent"), parent.as_bytes())?;
        }
        let mounted = Path::new(PLACE).join(layer.file.to_string());
        let tar_split = mounted.join(tar_split_of(&layer.diff_id)?);
        self.link(&folder.join(TAR_SPLIT), &upwards(5).join(tar_split))
    }

    fn folder(&self, path: &Path) -> Result<()> {
        let path = self.root.join(path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))
    }

    fn file(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.folder(path.parent().unwrap_or(path))?;
        let path = self.root.join(path);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    fn link(&self, path: &Path, target: &Path) -> Result<()> {
        self.folder(path.parent().unwrap_or(path))?;
        let path = self.root.join(path);
        symlink(target, &path).with_context(|| format!("cannot make {}", path.display()))
    }
}

fn upwards(levels: usize) -> PathBuf {
    std::iter::repeat_n("..", levels).collect()
}

/// `repositories.json` with these images and no others.
fn repositories(images: &[Image]) -> Result<Vec<u8>> {
    let mut repositories = Map::new();
    for image in images {
        for reference in image.references.iter().chain(&image.digests) {
            let name = reference.split('@').next().unwrap_or(reference);
            let name = match name.rsplit_once(':') {
                Some((name, tag)) if !tag.contains('/') => name,
                _ => name,
            };
            let entry = repositories
                .entry(name)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(references) = entry {
                references.insert(reference.clone(), image.id.clone().into());
            }
        }
    }
    Ok(serde_json::to_vec(
        &serde_json::json!({ "Repositories": repositories }),
    )?)
}

/// Makes the tree of the mounted metadata a part of the data-root.
pub(crate) fn replicate(data_root: &Path) -> Result<()> {
    let metadata = Path::new(PLACE).join("0").join(ROOT);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let from = data_root.join(&metadata).join(&folder);
        let to = data_root.join(&folder);
        let up = upwards(folder.components().count());
        for entry in
            fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))?
        {
            let entry = entry?;
            let (kind, name) = (entry.file_type()?, entry.file_name());
            let target = to.join(&name);
            let made = if kind.is_dir() {
                folders.push(folder.join(&name));
                DirBuilder::new().mode(MODE).create(&target)
            } else if kind.is_symlink() {
                fs::read_link(entry.path()).and_then(|link| symlink(link, &target))
            } else if is_copied(name.as_bytes()) {
                fs::read(entry.path()).and_then(|content| fs::write(&target, content))
            } else {
                symlink(up.join(&metadata).join(&folder).join(&name), &target)
            };
            made.with_context(|| format!("cannot make {}", target.display()))?;
        }
    }
    Ok(())
}

fn is_copied(name: &[u8]) -> bool {
    name == REPOSITORIES.as_bytes() || name == b"committed"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_filed_under_their_repository() {
        let image = |id: &str, references: &[&str], digests: &[&str]| Image {
            id: id.into(),
            references: references
                .iter()
                .map(|&reference| reference.into())
                .collect(),
            digests: digests.iter().map(|&digest| digest.into()).collect(),
            layers: Vec::new(),
            bytes: 0,
        };
        let images = [
            image(
                "sha256:1",
                &["host:5000/a:1", "b:2"],
                &["host:5000/a@sha256:9"],
            ),
            image("sha256:2", &["b:3"], &[]),
        ];
        let text = repositories(&images).unwrap();
        let expected = serde_json::json!({ "Repositories": {
            "host:5000/a": { "host:5000/a:1": "sha256:1", "host:5000/a@sha256:9": "sha256:1" },
            "b": { "b:2": "sha256:1", "b:3": "sha256:2" },
        }});
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), expected);
    }
}
