//! A sealed unit as one file: what is in it and in which order.
//!
//! ```text
//! zstd frames        together a tar archive: directories, files, links, the marker last
//! a skippable frame  the manifest, as one line of JSON, and a last line that seals it
//! ```
//!
//! Every frame can be decompressed by itself and has its place, size and SHA-256 in the manifest,
//! so that many can be read and unpacked at once. A file that is larger than a frame has a frame
//! with its header and others with pieces of its content. `tar --zstd` reads the whole as it reads
//! any archive, because zstd skips the manifest; `tail -n 2` shows it.

mod build;
mod extract;
mod open;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::unit::{Unit, escape, unescape};
pub(crate) use build::{Built, Changed, build};
pub(crate) use extract::{Buffers, Extraction, times};
pub(crate) use open::{Damaged, Pack};

/// The version of what is described above.
pub(crate) const FORMAT: u32 = 1;
/// How much content a frame has at most; a larger file is cut into pieces.
pub(crate) const FRAME: usize = 2 << 20;
/// The magic number of zstd's first skippable frame (zstd_compression_format.md).
const SKIPPABLE: u32 = 0x184D_2A50;
const SKIPPABLE_HEADER: u64 = 8;
const SEAL_PREFIX: &str = "#cache-pack";
/// The last line: prefix, format, the manifest's length and its SHA-256.
const SEAL: usize = 1 + SEAL_PREFIX.len() + 1 + 4 + 1 + 16 + 1 + 64 + 1;
/// A block of a tar archive.
const BLOCK: usize = 512;

/// What is in a pack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) unit: Unit,
    pub(crate) arch: String,
    /// Different for every publication, also of the same unit.
    pub(crate) publication: String,
    /// Seconds since 1970.
    pub(crate) published: u64,
    /// Who published it, for people.
    pub(crate) by: String,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) frames: Vec<Frame>,
}

/// One zstd frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Frame {
    #[serde(flatten)]
    pub(crate) content: Content,
    /// Its size in the pack.
    pub(crate) packed: u32,
    /// Its size when decompressed.
    pub(crate) size: u32,
    /// Of its bytes in the pack.
    pub(crate) sha256: String,
}

/// What a frame has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "content", rename_all = "lowercase")]
pub(crate) enum Content {
    /// The entries of all directories.
    Directories,
    /// Entries with their content.
    Files,
    /// The header of one large file, whose pieces follow.
    Large,
    /// Content of a large file.
    Piece {
        path: Name,
        offset: u64,
        length: u32,
    },
    /// Entries of links, and the marker.
    Links,
}

/// A path of any bytes as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Name(pub(crate) Vec<u8>);

impl From<Name> for String {
    fn from(name: Name) -> Self {
        escape(&name.0)
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        unescape(&text)
            .map(Self)
            .ok_or("a path is not escaped as it should be")
    }
}

impl Manifest {
    /// The end of a pack: a skippable frame with the manifest and its seal.
    fn seal(&self) -> anyhow::Result<Vec<u8>> {
        let json = serde_json::to_vec(self).context("cannot write the manifest")?;
        let seal = format!(
            "\n{SEAL_PREFIX} {:04} {:016x} {}\n",
            self.format,
            json.len(),
            sha256(&json)
        );
        let size = u32::try_from(json.len() + seal.len()).context("the manifest is too large")?;
        let mut end = Vec::with_capacity(json.len() + seal.len() + 8);
        end.extend(SKIPPABLE.to_le_bytes());
        end.extend(size.to_le_bytes());
        end.extend(json);
        end.extend(seal.bytes());
        Ok(end)
    }
}

/// What a seal says.
struct Seal {
    format: u32,
    length: u64,
    sha256: String,
}

impl Seal {
    fn read(line: &[u8]) -> anyhow::Result<Self> {
        let text = str::from_utf8(line).context("it has no seal")?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [prefix, format, length, sha256] = words.as_slice() else {
            anyhow::bail!("it has no seal");
        };
        ensure!(*prefix == SEAL_PREFIX, "it has no seal");
        Ok(Self {
            format: format.parse().context("its seal has no format")?,
            length: u64::from_str_radix(length, 16).context("its seal has no length")?,
            sha256: (*sha256).to_owned(),
        })
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut text = String::with_capacity(64);
    for byte in digest.as_ref() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
