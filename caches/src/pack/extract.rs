//! Pack → local directory that nobody else looks at yet.
//!
//! Owns making what a frame says. Directories come first, then files in any order and by many
//! threads, then links: until then there is none, so no path can lead elsewhere. A pack's content
//! is not believed: every path must stay below the unit's directory.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, chmodat, fchmod, ftruncate, futimens, linkat,
    mkdirat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Archive, EntryType};
use zstd::bulk::Decompressor;

use super::{Content, Manifest, Pack};
use crate::rsync::Copied;
use crate::tree::Time;
use crate::unit::MARKER;

/// Zeros of that length, at such a place, become a hole.
const HOLE: usize = 64 * 1024;
static ZEROS: [u8; HOLE] = [0; HOLE];

/// A unit that is being made below `stage`.
#[derive(Debug)]
pub(crate) struct Extraction<'a> {
    pub(crate) pack: Pack,
    stage: &'a OwnedFd,
    later: Mutex<Later>,
}

/// What is set when everything is there: writing changes it.
#[derive(Debug, Default)]
struct Later {
    directories: Vec<Attributes>,
    large: Vec<Attributes>,
    marker: Option<Time>,
}

#[derive(Debug)]
struct Attributes {
    path: PathBuf,
    mode: u32,
    mtime: Time,
}

/// The buffers of one thread.
pub(crate) struct Buffers {
    packed: Vec<u8>,
    content: Vec<u8>,
    zstd: Decompressor<'static>,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").finish_non_exhaustive()
    }
}

impl Buffers {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            packed: Vec::new(),
            content: Vec::new(),
            zstd: Decompressor::new().context("cannot start zstd")?,
        })
    }
}

/// One entry of an archive.
struct Item<'a> {
    kind: EntryType,
    attributes: Attributes,
    size: u64,
    target: Option<PathBuf>,
    data: &'a [u8],
}

impl<'a> Extraction<'a> {
    pub(crate) fn new(pack: Pack, stage: &'a OwnedFd) -> Self {
        Self {
            pack,
            stage,
            later: Mutex::default(),
        }
    }

    fn later(&self) -> std::sync::MutexGuard<'_, Later> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what frame `index` has. The first one must be done before any other, the last one
    /// after all others.
    pub(crate) fn frame(&self, index: usize, buffers: &mut Buffers) -> anyhow::Result<Copied> {
        let Buffers {
            packed,
            content,
            zstd,
        } = buffers;
        self.pack.frame(index, (packed, content), zstd)?;
        match &self.pack.manifest.frames[index].content {
            Content::Directories | Content::Files | Content::Links => self.entries(content),
            Content::Large => {
                // The archive ends after the header; its content is in other frames.
                let mut archive = Archive::new(content.as_slice());
                let entry = archive.entries()?.next().context("a header is missing")??;
                let item = item(&self.pack.manifest, entry, content)?;
                let file = self.create(&item.attributes, OFlags::CREATE)?;
                ftruncate(&file, item.size)?;
                self.later().large.push(item.attributes);
                Ok(Copied { files: 1, bytes: 0 })
            }
            Content::Piece {
                path,
                offset,
                length,
            } => {
                let path = below(&self.pack.manifest, Path::new(OsStr::from_bytes(&path.0)))?;
                let attributes = Attributes {
                    path,
                    mode: 0o600,
                    mtime: 0,
                };
                let file = self.create(&attributes, OFlags::CREATE)?;
                let data = content
                    .get(..*length as usize)
                    .context("a piece is too short")?;
                write_with_holes(&file, data, *offset)?;
                Ok(Copied {
                    files: 0,
                    bytes: u64::from(*length),
                })
            }
        }
    }

    /// Sets what could not be set before; the marker's time. Nothing is missing now.
    pub(crate) fn finish(&self) -> anyhow::Result<Time> {
        let later = std::mem::take(&mut *self.later());
        // What is in a directory comes after it.
        for one in later.large.iter().chain(later.directories.iter().rev()) {
            chmodat(
                self.stage,
                &one.path,
                Mode::from_raw_mode(one.mode),
                AtFlags::empty(),
            )
            .and_then(|()| {
                utimensat(
                    self.stage,
                    &one.path,
                    &times(one.mtime),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
            })
            .with_context(|| format!("cannot finish {}", one.path.display()))?;
        }
        later.marker.context("the pack has no marker")
    }

    fn entries(&self, content: &[u8]) -> anyhow::Result<Copied> {
        let mut made = Copied::default();
        let marker = PathBuf::from(format!("{}{MARKER}", self.pack.manifest.unit));
        for entry in Archive::new(content).entries()? {
            let entry = entry.context("an archive cannot be read")?;
            let item = item(&self.pack.manifest, entry, content)?;
            if item.kind == EntryType::Regular && item.attributes.path != marker {
                made.add(Copied {
                    files: 1,
                    bytes: item.size,
                });
            }
            let path = item.attributes.path.clone();
            self.make(item)
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(made)
    }

    /// Makes a directory, the unit's with those above it.
    fn make_directory(&self, attributes: Attributes) -> anyhow::Result<()> {
        let mode = Mode::from_raw_mode(0o700);
        let is_top = attributes.path == Path::new(&self.pack.manifest.unit.to_string());
        for above in ancestors(&attributes.path).into_iter().filter(|_| is_top) {
            match mkdirat(self.stage, above, Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) => {}
                other => other?,
            }
        }
        mkdirat(self.stage, &attributes.path, mode)?;
        self.later().directories.push(attributes);
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a pack has these kinds of entries, and archives may get others"
    )]
    fn make(&self, item: Item<'_>) -> anyhow::Result<()> {
        let Item {
            kind,
            attributes,
            data,
            target,
            ..
        } = item;
        let marker = format!("{}{MARKER}", self.pack.manifest.unit);
        match kind {
            EntryType::Directory => self.make_directory(attributes)?,
            EntryType::Regular if attributes.path == Path::new(&marker) => {
                self.later().marker = Some(attributes.mtime);
            }
            EntryType::Regular => {
                let file = self.create(&attributes, OFlags::CREATE | OFlags::EXCL)?;
                write_with_holes(&file, data, 0)?;
                futimens(&file, &times(attributes.mtime))?;
            }
            EntryType::Symlink => {
                let target = target.context("a link leads nowhere")?;
                symlinkat(&target, self.stage, &attributes.path)?;
                utimensat(
                    self.stage,
                    &attributes.path,
                    &times(attributes.mtime),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
            }
            EntryType::Link => {
                let target = below(
                    &self.pack.manifest,
                    &target.context("a link leads nowhere")?,
                )?;
                linkat(
                    self.stage,
                    &target,
                    self.stage,
                    &attributes.path,
                    AtFlags::empty(),
                )?;
            }
            _ => {
                bail!("an entry of the kind {kind:?} does not belong into a pack")
            }
        }
        Ok(())
    }

    fn create(&self, attributes: &Attributes, how: OFlags) -> anyhow::Result<File> {
        let flags = how | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(attributes.mode);
        let file = openat(self.stage, &attributes.path, flags, mode)?;
        // The process's mask takes these away.
        if attributes.mode & 0o022 != 0 {
            fchmod(&file, mode)?;
        }
        Ok(File::from(file))
    }
}

fn item<'b>(
    manifest: &Manifest,
    mut entry: tar::Entry<'_, &'b [u8]>,
    content: &'b [u8],
) -> anyhow::Result<Item<'b>> {
    let mut mtime = i64::try_from(entry.header().mtime()?)?.saturating_mul(1_000_000_000);
    if let Some(records) = entry.pax_extensions()? {
        for record in records {
            let record = record?;
            if record.key_bytes() == b"mtime" {
                mtime = parse_time(record.value_bytes()).context("a time cannot be read")?;
            }
        }
    }
    let size = entry.header().entry_size()?;
    let start = usize::try_from(entry.raw_file_position())?;
    let end = start
        .saturating_add(usize::try_from(size)?)
        .min(content.len());
    Ok(Item {
        kind: entry.header().entry_type(),
        size,
        attributes: Attributes {
            path: below(manifest, Path::new(OsStr::from_bytes(&entry.path_bytes())))?,
            mode: entry.header().mode()? & 0o777,
            mtime,
        },
        target: entry
            .link_name_bytes()
            .map(|bytes| PathBuf::from(OsStr::from_bytes(&bytes))),
        data: &content[start.min(end)..end],
    })
}

/// A path that stays below the unit's directory, or is it, or its marker.
fn below(manifest: &Manifest, path: &Path) -> anyhow::Result<PathBuf> {
    let unit = manifest.unit.to_string();
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let inside = path.starts_with(&unit) || path == Path::new(&format!("{unit}{MARKER}"));
    if !plain || !inside {
        bail!("the path {} leads out of {unit}", path.display());
    }
    // Without a slash at the end.
    Ok(path.components().collect())
}

fn ancestors(path: &Path) -> Vec<&Path> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.pop();
    above.reverse();
    above
}

/// A decimal number of seconds as nanoseconds.
fn parse_time(text: &[u8]) -> Option<Time> {
    let text = str::from_utf8(text).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let time = seconds
        .parse::<i64>()
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(digits.parse().ok()?)?;
    Some(if negative { -time } else { time })
}

pub(crate) fn times(mtime: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.div_euclid(1_000_000_000),
        tv_nsec: mtime.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Writes data, and leaves out what is zero anyway.
fn write_with_holes(file: &File, data: &[u8], offset: u64) -> anyhow::Result<()> {
    if data.len() < HOLE {
        file.write_all_at(data, offset)?;
        return Ok(());
    }
    let mut start = 0;
    let mut skipped = false;
    for (index, block) in data.chunks(HOLE).enumerate() {
        let place = index * HOLE;
        if block == &ZEROS[..block.len()] {
            file.write_all_at(&data[start..place], offset + start as u64)?;
            start = place + block.len();
            skipped = true;
        }
    }
    file.write_all_at(&data[start..], offset + start as u64)?;
    if skipped && start == data.len() {
        let end = offset + data.len() as u64;
        if file.metadata()?.len() < end {
            ftruncate(file.as_fd(), end)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_written() {
        for (text, time) in [
            ("0", 0),
            ("1600000000.000000001", 1_600_000_000_000_000_001),
            ("12.5", 12_500_000_000),
            ("-1.5", -1_500_000_000),
        ] {
            assert_eq!(parse_time(text.as_bytes()), Some(time), "{text}");
        }
        assert_eq!(parse_time(b"soon"), None);
    }
}
