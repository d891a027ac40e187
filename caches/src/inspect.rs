//! Looking at a store: what is in it, and whether it is what was published.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use zstd::bulk::Decompressor;

use crate::pack::{Damaged, Pack};
use crate::progress::Progress;
use crate::stop::Stop;
use crate::store::{Listed, Store};
use crate::trees::plain_units;
use crate::{Caches, processors};

/// A unit in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// `<tool>/<version>/<arch>`.
    pub unit: String,
    /// Its pack or, copied there by plain rsync, its directory.
    pub path: PathBuf,
    /// The pack's size.
    pub size: u64,
    /// Seconds since 1970.
    pub last_used: u64,
    /// Seconds since 1970; from here on for packs that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<u64>,
    /// Who published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Files in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Their bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What was found out about the packs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Units whose packs are what was published.
    pub units: Vec<String>,
    /// Units whose packs are damaged; they were taken out of the way if that was asked.
    pub damaged: Vec<String>,
    /// What could not be looked at and why, one line each.
    pub problems: Vec<String>,
}

/// The complete units in the store, in order.
///
/// # Errors
/// When the store is not there, or cannot be read.
pub fn list(caches: &Caches) -> anyhow::Result<Vec<Found>> {
    let store = Store::existing(&caches.store)?;
    let packs = store.packs()?;
    let mut found = many(&packs, |listed, _| {
        let path = store.pack(&listed.unit);
        let manifest = Pack::open(&path, &listed.unit)
            .ok()
            .map(|pack| pack.manifest);
        let manifest = manifest.as_ref();
        Found {
            unit: listed.unit.to_string(),
            path,
            size: listed.size,
            last_used: listed
                .used
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            published: manifest.map(|manifest| manifest.published),
            by: manifest.map(|manifest| manifest.by.clone()),
            files: manifest.map(|manifest| manifest.files),
            bytes: manifest.map(|manifest| manifest.bytes),
        }
    });
    let plain = plain_units(&store, caches, &|unit| {
        packs.iter().any(|pack| pack.unit == *unit)
    })?;
    found.extend(plain.units.iter().map(|unit| Found {
        unit: unit.to_string(),
        path: unit.directory(&plain.place),
        size: 0,
        last_used: 0,
        published: None,
        by: None,
        files: None,
        bytes: None,
    }));
    found.sort_by(|one, other| one.unit.cmp(&other.unit));
    Ok(found)
}

/// Reads every pack and compares it with its checksums. Damaged ones are quarantined unless
/// `only_look`.
///
/// # Errors
/// When the store is not there, or cannot be read.
pub fn verify(
    caches: &Caches,
    only_look: bool,
    stop: &Stop,
    progress: &Progress,
) -> anyhow::Result<Verified> {
    let store = Store::existing(&caches.store)?;
    let packs = store.packs()?;
    progress.expect(packs.len() as u64, packs.iter().map(|pack| pack.size).sum());
    let counter = progress.counter();
    let mut verified = Verified::default();
    let outcomes = many(&packs, |listed, buffers| {
        let outcome = check(&store, listed, (only_look, stop), buffers);
        counter.add(1, listed.size);
        (listed.unit.to_string(), outcome)
    });
    for (unit, outcome) in outcomes {
        match outcome {
            Ok(()) => verified.units.push(unit),
            Err(error) if error.is::<Damaged>() => verified.damaged.push(unit),
            Err(error) => verified.problems.push(format!("{unit}: {error:#}")),
        }
    }
    verified.units.sort();
    verified.damaged.sort();
    Ok(verified)
}

type Buffers = (Vec<u8>, Vec<u8>);

fn check(
    store: &Store,
    listed: &Listed,
    (only_look, stop): (bool, &Stop),
    buffers: &mut Buffers,
) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let path = store.pack(&listed.unit);
    let inode = std::fs::symlink_metadata(&path)?.ino();
    let read = || -> anyhow::Result<()> {
        let pack = Pack::open(&path, &listed.unit)?;
        let mut zstd = Decompressor::new()?;
        for index in 0..pack.manifest.frames.len() {
            stop.check()?;
            pack.frame(index, (&mut buffers.0, &mut buffers.1), &mut zstd)?;
        }
        Ok(())
    };
    let outcome: anyhow::Result<()> = {
        let mut read = read;
        read()
    };
    if !only_look && outcome.as_ref().is_err_and(|error| error.is::<Damaged>()) {
        store.quarantine(&listed.unit, inode)?;
    }
    outcome
}

/// Looks at many packs at once.
fn many<T: Send>(packs: &[Listed], look: impl Fn(&Listed, &mut Buffers) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::with_capacity(packs.len()));
    std::thread::scope(|scope| {
        for _ in 0..(processors() * 4).min(packs.len()) {
            scope.spawn(|| {
                let mut buffers = Buffers::default();
                while let Some(listed) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = look(listed, &mut buffers);
                    all.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                }
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}
