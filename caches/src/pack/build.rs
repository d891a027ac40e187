//! Local directory → pack.
//!
//! Owns the plan of the frames and the reading: only regular files, directories and symbolic links
//! are carried; each file is opened without following a link and compared with the listing before
//! and after it was read, so that a pack is a state that the tree once had.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use tar::{EntryType, Header};

use super::{BLOCK, Content, FORMAT, FRAME, Frame, Manifest, Name, sha256};
use crate::Event;
use crate::stop::Stop;
use crate::tree::{Entry, Kind, Meta, Time, Tree, Wanted};
use crate::unit::Unit;

/// Fast, and small enough: what is saved in reading is more than what a higher level costs.
const LEVEL: i32 = 3;

/// The unit changed while it was read.
#[derive(Debug)]
pub(crate) struct Changed(String);

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changed while it was packed", self.0)
    }
}

impl std::error::Error for Changed {}

/// What was packed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Built {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Built {
    /// What is told of it when it is in the store.
    pub(crate) fn published(self, unit: Unit) -> Event {
        Event::Published {
            unit,
            files: self.files,
            bytes: self.bytes,
        }
    }
}

/// One frame to be made.
#[derive(Debug)]
enum Plan {
    Directories(Vec<u32>),
    Files(Vec<u32>),
    Large(u32),
    Piece {
        entry: u32,
        offset: u64,
        length: usize,
    },
    Links(Vec<u32>),
}

/// Everything that the making of a frame looks at.
struct Job<'a> {
    unit: &'a Unit,
    top: OwnedFd,
    tree: &'a Tree,
    /// Hard links within the unit: the entry that has the content.
    firsts: HashMap<u64, u32>,
    marker: Meta,
}

/// Packs a unit of the tool cache `root` into `out`, with so many threads.
///
/// # Errors
/// [`Changed`] when somebody writes to the unit; others when something cannot be read or written.
pub(crate) fn build(
    (root, unit): (&Path, &Unit),
    (out, by): (&mut File, &str),
    (stop, packers): (&Stop, usize),
) -> anyhow::Result<Built> {
    let all = |_: &Entry<'_>| Wanted::Yes;
    let directory = unit.directory(root);
    let tree = Tree::local(&directory, &all)?;
    let marker = File::open(unit.marker(root)).context("the marker is gone")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, &directory, flags, Mode::empty())
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let mut job = Job {
        unit,
        top,
        tree: &tree,
        firsts: HashMap::new(),
        marker: Meta::of_open(&OwnedFd::from(marker))?,
    };
    let mut built = Built::default();
    let plans = job.plan(&mut built)?;
    let frames = write_frames((&job, &plans), out, (stop, packers))?;
    if Tree::local(&directory, &all)?.fingerprint() != tree.fingerprint() {
        return Err(Changed(unit.to_string()).into());
    }
    let manifest = Manifest {
        format: FORMAT,
        unit: unit.clone(),
        arch: std::env::consts::ARCH.to_owned(),
        publication: format!("{:032x}", rand::random::<u128>()),
        published: crate::now(),
        by: by.to_owned(),
        files: built.files,
        bytes: built.bytes,
        frames,
    };
    out.write_all(&manifest.seal()?)
        .context("cannot write the pack")?;
    Ok(built)
}

impl Job<'_> {
    fn plan(&mut self, built: &mut Built) -> anyhow::Result<Vec<Plan>> {
        let (mut directories, mut links) = (Vec::new(), Vec::new());
        let mut plans = vec![Plan::Directories(Vec::new())];
        let (mut files, mut filled) = (Vec::new(), 0);
        for (index, entry) in (0..).zip(self.tree.entries()) {
            let meta = entry.meta();
            match meta.kind {
                Kind::Directory => directories.push(index),
                Kind::Link => links.push(index),
                Kind::Special => bail!(
                    "{} is neither file nor directory nor link, and a pack has nothing else",
                    entry.path().display()
                ),
                Kind::File if meta.links > 1 && self.firsts.contains_key(&meta.inode) => {
                    links.push(index);
                }
                Kind::File => {
                    if meta.links > 1 {
                        self.firsts.insert(meta.inode, index);
                    }
                    built.files += 1;
                    built.bytes += meta.size;
                    let size = usize::try_from(meta.size).context("a file is too large")?;
                    if size > FRAME {
                        plans.push(Plan::Large(index));
                        plans.extend((0..meta.size).step_by(FRAME).map(|offset| {
                            Plan::Piece {
                                entry: index,
                                offset,
                                length: usize::try_from(meta.size - offset)
                                    .unwrap_or(FRAME)
                                    .min(FRAME),
                            }
                        }));
                        continue;
                    }
                    files.push(index);
                    filled += size + 2 * BLOCK;
                    if filled >= FRAME {
                        plans.push(Plan::Files(std::mem::take(&mut files)));
                        filled = 0;
                    }
                }
            }
        }
        if !files.is_empty() {
            plans.push(Plan::Files(files));
        }
        plans[0] = Plan::Directories(directories);
        plans.push(Plan::Links(links));
        Ok(plans)
    }

    fn make(&self, plan: &Plan, tar: &mut Vec<u8>) -> anyhow::Result<Content> {
        tar.clear();
        Ok(match plan {
            Plan::Directories(entries) => {
                let top = Meta::of_open(&self.top)?;
                header(tar, &self.path_of(None), &top, EntryType::Directory, None);
                for entry in entries.iter().map(|index| self.tree.entry(*index)) {
                    let path = self.path_of(Some(&entry));
                    header(tar, &path, entry.meta(), EntryType::Directory, None);
                }
                Content::Directories
            }
            Plan::Files(entries) => {
                for entry in entries.iter().map(|index| self.tree.entry(*index)) {
                    let path = self.path_of(Some(&entry));
                    header(tar, &path, entry.meta(), EntryType::Regular, None);
                    self.read(&entry, 0, usize::try_from(entry.meta().size)?, tar)?;
                    pad(tar);
                }
                Content::Files
            }
            Plan::Large(entry) => {
                let entry = self.tree.entry(*entry);
                let path = self.path_of(Some(&entry));
                header(tar, &path, entry.meta(), EntryType::Regular, None);
                Content::Large
            }
            Plan::Piece {
                entry,
                offset,
                length,
            } => {
                let entry = self.tree.entry(*entry);
                self.read(&entry, *offset, *length, tar)?;
                pad(tar);
                Content::Piece {
                    path: Name(self.path_of(Some(&entry))),
                    offset: *offset,
                    length: u32::try_from(*length)?,
                }
            }
            Plan::Links(entries) => {
                for entry in entries.iter().map(|index| self.tree.entry(*index)) {
                    self.link(&entry, tar)?;
                }
                let marker = format!("{}{}", self.unit, crate::unit::MARKER);
                let empty = Meta {
                    size: 0,
                    ..self.marker
                };
                header(tar, marker.as_bytes(), &empty, EntryType::Regular, None);
                // The end of an archive (tar(5)).
                tar.resize(tar.len() + 2 * BLOCK, 0);
                Content::Links
            }
        })
    }

    fn link(&self, entry: &Entry<'_>, tar: &mut Vec<u8>) -> anyhow::Result<()> {
        let path = self.path_of(Some(entry));
        if entry.meta().kind == Kind::File {
            let first = self.firsts[&entry.meta().inode];
            let target = self.path_of(Some(&self.tree.entry(first)));
            header(tar, &path, entry.meta(), EntryType::Link, Some(&target));
            return Ok(());
        }
        let target = readlinkat(&self.top, entry.path(), Vec::new())
            .with_context(|| format!("cannot read {}", entry.path().display()))?;
        header(
            tar,
            &path,
            entry.meta(),
            EntryType::Symlink,
            Some(target.as_bytes()),
        );
        Ok(())
    }

    /// The path of an entry below the tool cache.
    fn path_of(&self, entry: Option<&Entry<'_>>) -> Vec<u8> {
        let mut path = self.unit.to_string().into_bytes();
        if let Some(entry) = entry {
            path.push(b'/');
            entry.push_path(&mut path);
        }
        path
    }

    /// Reads a part of a file that is what the listing says.
    fn read(
        &self,
        entry: &Entry<'_>,
        offset: u64,
        length: usize,
        tar: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let path = entry.path();
        let changed = || Changed(format!("{}/{}", self.unit, path.display()));
        // Not blocking: a pipe in the place of a file would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.top, &path, flags, Mode::empty())
            .with_context(|| format!("cannot read {}/{}", self.unit, path.display()))?;
        let is_as_listed = |meta: &Meta| {
            let listed = entry.meta();
            (meta.kind, meta.size, meta.mtime, meta.ctime, meta.inode)
                == (
                    listed.kind,
                    listed.size,
                    listed.mtime,
                    listed.ctime,
                    listed.inode,
                )
        };
        ensure!(is_as_listed(&Meta::of_open(&file)?), changed());
        let start = tar.len();
        if !(entry.meta().sparse && is_hole(&file, offset, length)) {
            let mut file = File::from(file.try_clone()?);
            if offset > 0 {
                std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset))?;
            }
            file.take(length as u64)
                .read_to_end(tar)
                .with_context(|| format!("cannot read {}/{}", self.unit, path.display()))?;
            ensure!(tar.len() - start == length, changed());
        }
        tar.resize(start + length, 0);
        Ok(())
    }
}

/// Whether nothing is written in this part of a file.
fn is_hole(file: &OwnedFd, offset: u64, length: usize) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + length as u64,
        // Only a hole is left.
        Err(error) => error == rustix::io::Errno::NXIO,
    }
}

/// Makes the frames with many threads; each writes its frame when the
/// one before it has been written.
fn write_frames(
    (job, plans): (&Job<'_>, &[Plan]),
    out: &mut File,
    (stop, packers): (&Stop, usize),
) -> anyhow::Result<Vec<Frame>> {
    let next = AtomicUsize::new(0);
    let written = Mutex::new((Vec::with_capacity(plans.len()), Ok(())));
    let turn = Condvar::new();
    let out: &File = out;
    std::thread::scope(|scope| {
        for _ in 0..packers.min(plans.len()) {
            scope.spawn(|| {
                let mut work = Work::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(plan) = plans.get(index) else { return };
                    let made = stop.check().and_then(|()| work.make(job, plan));
                    let mut done = written.lock().unwrap_or_else(PoisonError::into_inner);
                    while done.1.is_ok() && done.0.len() < index {
                        done = turn.wait(done).unwrap_or_else(PoisonError::into_inner);
                    }
                    if done.1.is_ok() {
                        let wrote = made.and_then(|frame| {
                            let mut out = out;
                            out.write_all(&work.packed)
                                .context("cannot write the pack")?;
                            Ok(frame)
                        });
                        match wrote {
                            Ok(frame) => done.0.push(frame),
                            Err(error) => done.1 = Err(error),
                        }
                    }
                    turn.notify_all();
                    if done.1.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let (frames, outcome) = written.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.map(|()| frames)
}

/// The buffers of one thread.
struct Work {
    compressor: std::io::Result<zstd::bulk::Compressor<'static>>,
    tar: Vec<u8>,
    packed: Vec<u8>,
}

impl Work {
    fn new() -> Self {
        let compressor = zstd::bulk::Compressor::new(LEVEL).and_then(|mut compressor| {
            compressor.include_checksum(true)?;
            Ok(compressor)
        });
        Self {
            compressor,
            tar: Vec::with_capacity(FRAME + FRAME / 2),
            packed: Vec::new(),
        }
    }

    fn make(&mut self, job: &Job<'_>, plan: &Plan) -> anyhow::Result<Frame> {
        let content = job.make(plan, &mut self.tar)?;
        let Ok(compressor) = &mut self.compressor else {
            bail!("cannot start zstd");
        };
        self.packed.clear();
        self.packed
            .reserve(zstd::zstd_safe::compress_bound(self.tar.len()));
        compressor
            .compress_to_buffer(&self.tar, &mut self.packed)
            .context("cannot compress")?;
        Ok(Frame {
            content,
            packed: u32::try_from(self.packed.len())?,
            size: u32::try_from(self.tar.len())?,
            sha256: sha256(&self.packed),
        })
    }
}

/// Adds the header of an entry, with those before it that what does not fit takes.
fn header(tar: &mut Vec<u8>, path: &[u8], meta: &Meta, kind: EntryType, target: Option<&[u8]>) {
    let mut header = Header::new_gnu();
    let mut path = path.to_owned();
    if kind == EntryType::Directory {
        path.push(b'/');
    }
    long(tar, &path, EntryType::GNULongName);
    if let Some(target) = target {
        long(tar, target, EntryType::GNULongLink);
    }
    if let Some(record) = fraction(meta.mtime) {
        extension(tar, EntryType::XHeader, record.as_bytes());
    }
    header.set_entry_type(kind);
    header.set_mode(u32::from(meta.mode));
    header.set_mtime(u64::try_from(meta.mtime.div_euclid(1_000_000_000)).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(if kind == EntryType::Regular {
        meta.size
    } else {
        0
    });
    let gnu = header.as_gnu_mut();
    if let Some(gnu) = gnu {
        fill(&mut gnu.name, &path);
        fill(&mut gnu.linkname, target.unwrap_or_default());
    }
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
}

/// Times before 1970 and parts of a second do not fit in a header.
fn fraction(mtime: Time) -> Option<String> {
    let (seconds, nanos) = (
        mtime.div_euclid(1_000_000_000),
        mtime.rem_euclid(1_000_000_000),
    );
    if nanos == 0 && seconds >= 0 {
        return None;
    }
    let value = if seconds >= 0 {
        format!("{seconds}.{nanos:09}")
    } else {
        // As a decimal number: -1.5 is half a second before -1.
        let whole = -i128::from(mtime);
        format!("-{}.{:09}", whole / 1_000_000_000, whole % 1_000_000_000)
    };
    // A record's length counts itself (pax, IEEE Std 1003.1).
    let rest = format!(" mtime={value}\n");
    let mut length = rest.len();
    while length.to_string().len() + rest.len() != length {
        length = length.to_string().len() + rest.len();
    }
    Some(format!("{length}{rest}"))
}

fn long(tar: &mut Vec<u8>, value: &[u8], kind: EntryType) {
    if value.len() > 100 {
        let mut text = value.to_owned();
        text.push(0);
        extension(tar, kind, &text);
    }
}

/// An entry that says something about the next one.
fn extension(tar: &mut Vec<u8>, kind: EntryType, text: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    if let Some(gnu) = header.as_gnu_mut() {
        fill(&mut gnu.name, b"././@LongLink");
    }
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(text);
    pad(tar);
}

fn fill(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// Fills up to a whole block.
fn pad(tar: &mut Vec<u8>) {
    let length = tar.len().next_multiple_of(BLOCK);
    tar.resize(length, 0);
}
