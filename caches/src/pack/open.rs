//! Reading a pack: its manifest first, then any frame by itself, each checked before it is used.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{Advice, fadvise};
use zstd::bulk::Decompressor;

use super::{FORMAT, FRAME, Manifest, SEAL, SKIPPABLE_HEADER, Seal, sha256};
use crate::unit::Unit;

/// What is read at once from a pack's end: the manifest of all but huge units, and small packs
/// as a whole.
const TAIL: u64 = 128 * 1024;
/// A frame is a little larger than its content: headers, and what cannot be compressed.
const LARGEST_FRAME: usize = FRAME * 4;

/// The pack is not what its publisher wrote. Everything else that goes wrong may be the storage.
#[derive(Debug)]
pub(crate) struct Damaged(String);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the pack is damaged: {}", self.0)
    }
}

impl std::error::Error for Damaged {}

/// An open pack.
#[derive(Debug)]
pub(crate) struct Pack {
    file: File,
    pub(crate) manifest: Manifest,
    /// Which file it is, whatever its name becomes.
    pub(crate) inode: u64,
    /// Where each frame begins.
    places: Vec<u64>,
    /// The end of the file, from `tail.0` on.
    tail: (u64, Vec<u8>),
}

impl Pack {
    /// Opens the pack of a unit and reads its manifest.
    pub(crate) fn open(path: &Path, unit: &Unit) -> anyhow::Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            bail!("{} is no file", path.display());
        }
        let size = meta.len();
        let start = size.saturating_sub(TAIL);
        let mut tail = vec![0; usize::try_from(size - start)?];
        read_at(&file, &mut tail, start)?;
        let (manifest, frames_end, tail) = manifest(&file, size, (start, tail))?;
        let mut places = Vec::with_capacity(manifest.frames.len());
        let mut place = 0;
        for frame in &manifest.frames {
            places.push(place);
            place += u64::from(frame.packed);
            if frame.size.max(frame.packed) as usize > LARGEST_FRAME {
                return Err(damaged("a frame is too large"));
            }
        }
        if place != frames_end || manifest.unit != *unit {
            return Err(damaged("its manifest is another's"));
        }
        Ok(Self {
            file,
            manifest,
            inode: meta.ino(),
            places,
            tail,
        })
    }

    /// Reads a frame into `packed`, checks it, and decompresses it into `content`.
    pub(crate) fn frame(
        &self,
        index: usize,
        (packed, content): (&mut Vec<u8>, &mut Vec<u8>),
        zstd: &mut Decompressor<'_>,
    ) -> anyhow::Result<()> {
        let frame = &self.manifest.frames[index];
        let (place, length) = (self.places[index], frame.packed as usize);
        packed.resize(length, 0);
        if place >= self.tail.0 {
            let start = usize::try_from(place - self.tail.0)?;
            packed.copy_from_slice(&self.tail.1[start..start + length]);
        } else {
            // All of it is asked for at once, however little the kernel reads ahead by itself.
            let all = std::num::NonZeroU64::new(length as u64);
            fadvise(&self.file, place, all, Advice::WillNeed).ok();
            read_at(&self.file, packed, place)?;
        }
        if sha256(packed) != frame.sha256 {
            return Err(damaged(&format!("frame {index} has another checksum")));
        }
        content.clear();
        content.reserve(frame.size as usize);
        let size = zstd
            .decompress_to_buffer(packed, content)
            .map_err(|error| damaged(&format!("frame {index}: {error}")))?;
        if size != frame.size as usize {
            return Err(damaged(&format!("frame {index} has another size")));
        }
        Ok(())
    }
}

/// The manifest, where the frames end, and the part of the file's end that was read.
fn manifest(
    file: &File,
    size: u64,
    mut tail: (u64, Vec<u8>),
) -> anyhow::Result<(Manifest, u64, (u64, Vec<u8>))> {
    let Some(seal_at) = tail.1.len().checked_sub(SEAL) else {
        return Err(damaged("it is too short"));
    };
    let seal = Seal::read(&tail.1[seal_at..]).map_err(|error| damaged(&error.to_string()))?;
    if seal.format > FORMAT {
        bail!(
            "the pack has format {}, and this version reads up to {FORMAT}; update the images",
            seal.format
        );
    }
    let end = (seal.length + SEAL as u64).checked_add(SKIPPABLE_HEADER);
    let Some(frames_end) = end.and_then(|end| size.checked_sub(end)) else {
        return Err(damaged("its seal is wrong"));
    };
    if frames_end < tail.0 {
        tail.0 = frames_end;
        tail.1 = vec![0; usize::try_from(size - frames_end)?];
        read_at(file, &mut tail.1, frames_end)?;
    }
    let start = usize::try_from(frames_end + SKIPPABLE_HEADER - tail.0)?;
    let json = &tail.1[start..tail.1.len() - SEAL];
    if sha256(json) != seal.sha256 {
        return Err(damaged("its manifest has another checksum"));
    }
    let manifest = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
    Ok((manifest, frames_end, tail))
}

fn read_at(file: &File, buffer: &mut [u8], place: u64) -> anyhow::Result<()> {
    match file.read_exact_at(buffer, place) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged("it is cut off")),
        other => other.context("cannot read the pack"),
    }
}

fn damaged(what: &str) -> anyhow::Error {
    Damaged(what.to_owned()).into()
}
