//! What a version of a store says about itself.
//!
//! Owns the manifest's format and its reading. A version's name ends with the checksum of its
//! manifest, and the manifest has the checksums of everything else: so the name vouches for all.

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::checksum;

/// The newest format that this program reads, and the one that it writes.
pub const FORMAT: u32 = 1;

/// How much of the manifest's checksum is in a version's name.
const CHECKSUM_IN_NAME: usize = 16;

/// The manifest of one version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Manifest {
    pub format: u32,
    /// Seconds since 1970.
    pub created: i64,
    pub storage_driver: String,
    /// The engine that has unpacked the images, as far as it is known.
    pub engine: Option<String>,
    pub images: Vec<Image>,
    /// Every layer of the images, once, parents before children.
    pub layers: Vec<Layer>,
    /// The first has the metadata, the others have the files of layers.
    pub files: Vec<ErofsFile>,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// `name:tag`.
    pub references: Vec<String>,
    /// `name@sha256:…`: what a registry calls it.
    pub digests: Vec<String>,
    /// Chain ids, the lowest layer first.
    pub layers: Vec<String>,
    pub bytes: u64,
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Layer {
    /// What identifies it together with all layers below it.
    pub chain_id: String,
    /// The checksum of its tar stream; layers that share it share their files.
    pub diff_id: String,
    /// Its directory below `overlay2`.
    pub cache_id: String,
    pub bytes: u64,
    /// Which of the manifest's files has its tree.
    pub file: usize,
}

/// An EROFS image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ErofsFile {
    pub sha256: String,
    /// Its size on disk.
    pub bytes: u64,
    /// Of the files in it, before they were compressed.
    pub content_bytes: u64,
    /// Is in the image as well, so that a mounted one can be recognised.
    pub uuid: String,
}

#[derive(Deserialize)]
struct Header {
    format: u32,
}

impl Manifest {
    /// Reads the manifest of the version `name`.
    pub(crate) fn read(name: &str, text: &[u8]) -> Result<Self> {
        let header: Header = serde_json::from_slice(text).context("it is no manifest")?;
        ensure!(
            header.format <= FORMAT,
            "it has format {}, and this program knows formats up to {FORMAT}: use a newer dindd",
            header.format
        );
        let (_, checksum) = name.rsplit_once('-').context("its name has no checksum")?;
        ensure!(
            checksum::of_bytes(text)[..CHECKSUM_IN_NAME] == *checksum,
            "it was changed or is damaged: its checksum is not the one in its name"
        );
        let manifest: Self = serde_json::from_slice(text)?;
        if manifest.files.is_empty()
            || manifest
                .layers
                .iter()
                .any(|layer| layer.file == 0 || layer.file >= manifest.files.len())
        {
            bail!("it does not say where its layers are");
        }
        Ok(manifest)
    }

    /// The manifest as text, and the version's name that goes with it.
    pub(crate) fn write(&self) -> Result<(String, Vec<u8>)> {
        let text = serde_json::to_vec_pretty(self)?;
        let time = Timestamp::from_second(self.created)?.strftime("%Y%m%dT%H%M%SZ");
        let checksum = checksum::of_bytes(&text);
        Ok((format!("{time}-{}", &checksum[..CHECKSUM_IN_NAME]), text))
    }

    /// What it takes on disk if it shares nothing with another version.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether a data-root that is attached to the other one has the same images.
    pub(crate) fn offers_the_same_as(&self, other: &Self) -> bool {
        let layers = |manifest: &Self| -> Vec<(String, String)> {
            let pairs = manifest.layers.iter();
            pairs
                .map(|layer| (layer.chain_id.clone(), layer.cache_id.clone()))
                .collect()
        };
        self.images == other.images && layers(self) == layers(other)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Manifest {
        let file = |number: u64| ErofsFile {
            sha256: checksum::of_bytes(&[u8::try_from(number).unwrap()]),
            bytes: number,
            content_bytes: number,
            uuid: format!("uuid-{number}"),
        };
        Manifest {
            format: FORMAT,
            created: 1_795_264_500,
            storage_driver: crate::STORAGE_DRIVER.into(),
            engine: Some("26.1.5".into()),
            images: Vec::new(),
            layers: Vec::new(),
            files: vec![file(1), file(2)],
        }
    }

    #[test]
    fn a_manifest_is_read_under_the_name_that_it_was_written_under_and_no_other() {
        let manifest = example();
        let (name, text) = manifest.write().unwrap();
        assert!(name.starts_with("20261121T123500Z-"), "{name}");
        assert_eq!(Manifest::read(&name, &text).unwrap(), manifest);
        let mut changed = text.clone();
        let at = changed.iter().position(|&byte| byte == b'6').unwrap();
        changed[at] = b'7';
        for (name, text) in [
            (&name[..], &changed),
            ("20261121T123500Z-00", &text),
            ("x", &text),
        ] {
            Manifest::read(name, text).unwrap_err();
        }
    }

    #[test]
    fn a_newer_format_is_told_apart_from_damage() {
        let newer = Manifest {
            format: FORMAT + 1,
            ..example()
        };
        let (name, text) = newer.write().unwrap();
        let error = Manifest::read(&name, &text).unwrap_err().to_string();
        assert!(error.contains("use a newer dindd"), "{error}");
    }
}
