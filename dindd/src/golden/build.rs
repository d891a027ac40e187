//! `dindd golden build`: from references, archives or a data-root to a new version.
//!
//! Owns the order: the current version is attached to an empty data-root, so that a dockerd on it
//! pulls and loads only what is new; then the data-root is packed. Everything happens in a mount
//! namespace of its own and in a directory that a killed build leaves for the next one to remove.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ::golden::{Build, Built, Lock, MountedFiles, Store, Version, Wanted};
use anyhow::{Context, Result, bail, ensure};
use clap::ArgMatches;
use init::{Children, Exit, Signals, exit_code};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use tracing::{error, info, warn};

use super::engine::Engine;
use super::{Told, finish, megabytes};
use crate::config::Settings;
use crate::data_root::DataRoot;
use crate::{cli, mirrors, reap};

/// Below the store: data-roots of builds.
const WORK: &str = "work";

/// What to build from.
#[derive(Debug)]
enum Order {
    Images {
        references: Vec<String>,
        archives: Vec<PathBuf>,
    },
    DataRoot(PathBuf),
}

impl Order {
    fn of(options: &ArgMatches) -> Result<Self> {
        if let Some(dir) = options.get_one::<PathBuf>("data-root") {
            return Ok(Self::DataRoot(dir.clone()));
        }
        let all = |name| options.get_many(name).into_iter().flatten().cloned();
        let references: Vec<String> = all("images").collect();
        let archives = options
            .get_many("archive")
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let order = Self::Images {
            references,
            archives,
        };
        if let Self::Images {
            references,
            archives,
        } = &order
        {
            ensure!(
                !references.is_empty() || !archives.is_empty(),
                "nothing to build from: name images, --archive or --data-root"
            );
        }
        Ok(order)
    }
}

pub(super) fn run(
    store: Store,
    options: &ArgMatches,
    settings: &Settings,
    (children, mut signals): (&Children, Signals),
) -> u8 {
    let order = match Order::of(options) {
        Ok(order) => order,
        Err(cause) => {
            error!("{cause:#}");
            return exit_code::USAGE;
        }
    };
    if let Err(cause) = enter_own_mounts() {
        error!("{cause:#}");
        return exit_code::REFUSED;
    }
    let begun = Instant::now();
    cli::block_on(async {
        let built = tokio::select! {
            biased;
            signal = signals.next() => {
                error!(%signal, "the build was interrupted; the store is as it was");
                clean(&store);
                return Exit::Signal(signal).shell_code();
            }
            built = build(&store, &order, settings, children) => built,
        };
        clean(&store);
        finish(built.and_then(|built| tell(&built, begun, Told::of(options))))
    })
}

/// What is mounted from here on is nobody else's business, and goes with this process.
fn enter_own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)
        .context("cannot make a mount namespace; SYS_ADMIN is needed to build a golden store")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .context("cannot separate the mounts")
}

async fn build(
    store: &Store,
    order: &Order,
    settings: &Settings,
    children: &Children,
) -> Result<Built> {
    let lock = store.lock_or_make()?;
    let work = store.dir().join(WORK);
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    // What a killed build has left.
    reap::reap(&work, false, &|| false)?;
    let root = DataRoot::choose(&work);
    root.make()?;
    let built = match order {
        Order::DataRoot(dir) => {
            let previous = store.lease_current().ok();
            let wanted = (Wanted::Tagged, None);
            pack(
                store,
                &lock,
                (dir, &root),
                previous.as_ref(),
                (wanted, children),
            )
            .await
        }
        Order::Images {
            references,
            archives,
        } => {
            let (attached, _mounted) = attach_current(store, &root)?;
            let mounts = attached
                .as_ref()
                .map_or(Vec::new(), |attached| attached.mounts().to_vec());
            let mirrors = mirrors::that_answer(&settings.engine.mirrors).await;
            let engine = Engine::start(children, &root, settings, (&mirrors, mounts)).await?;
            let wanted = unpack(engine, references, archives).await?;
            let previous = attached.as_ref().map(::golden::Attached::version);
            pack(
                store,
                &lock,
                (&root.data(), &root),
                previous,
                (wanted, children),
            )
            .await
        }
    };
    drop(lock);
    built
}

type Attachment = (Option<::golden::Attached>, Option<MountedFiles>);

/// The first version has none before it, and one that cannot be used is not built upon.
fn attach_current(store: &Store, root: &DataRoot) -> Result<Attachment> {
    if store.current().is_err() {
        return Ok((None, None));
    }
    match store.attach_mounted(&root.data()) {
        Ok((attached, mounted)) => Ok((Some(attached), Some(mounted))),
        Err(cause) => {
            warn!("the current version cannot be built upon: {cause:#}");
            Ok((None, None))
        }
    }
}

/// Pulls and loads; what the new version shall have, and the engine that has unpacked it.
async fn unpack(
    mut engine: Engine,
    references: &[String],
    archives: &[PathBuf],
) -> Result<(Wanted, Option<String>)> {
    let mut wanted = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (number, archive) in archives.iter().enumerate() {
        info!(
            "loading {} ({} of {})",
            archive.display(),
            number + 1,
            archives.len()
        );
        for loaded in engine.load(archive).await? {
            if loaded.starts_with("sha256:") {
                ids.insert(loaded);
            } else {
                wanted.insert(loaded);
            }
        }
    }
    for (number, reference) in references.iter().enumerate() {
        info!(
            "pulling {reference} ({} of {})",
            number + 1,
            references.len()
        );
        engine.pull(reference).await?;
        wanted.insert(::golden::familiar(reference));
    }
    let version = engine.version().to_owned();
    engine.stop().await?;
    if wanted.is_empty() && ids.is_empty() {
        bail!("the archives have no images");
    }
    Ok((
        Wanted::These {
            references: wanted,
            ids,
        },
        Some(version),
    ))
}

async fn pack(
    store: &Store,
    lock: &Lock,
    (data_root, work): (&Path, &DataRoot),
    previous: Option<&Version>,
    ((wanted, engine), children): ((Wanted, Option<String>), &Children),
) -> Result<Built> {
    let work = work.path().join("pack");
    std::fs::create_dir(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let build = Build {
        store,
        data_root,
        wanted,
        engine,
        previous,
        work: &work,
    };
    build.run(lock, children, &|line| info!("{line}")).await
}

/// The build's data-root is not locked any more, or the next build finds it.
fn clean(store: &Store) {
    if let Err(cause) = reap::reap(&store.dir().join(WORK), false, &|| false) {
        warn!("cannot clean up after the build; the next one does: {cause:#}");
    }
}

fn tell(built: &Built, begun: Instant, told: Told) -> Result<u8> {
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    match built {
        Built::Published {
            version,
            manifest,
            new_bytes,
        } => told.tell(
            &json!({
                "version": version, "published": true, "images": manifest.images,
                "layers": manifest.layers.len(), "bytes": manifest.bytes(),
                "new_bytes": new_bytes, "elapsed_ms": elapsed_ms,
            }),
            &[
                format!("current {version}"),
                format!(
                    "{} images, {} layers, {} on disk, {} of it new",
                    manifest.images.len(),
                    manifest.layers.len(),
                    megabytes(manifest.bytes()),
                    megabytes(*new_bytes)
                ),
            ],
        )?,
        Built::Unchanged { version } => told.tell(
            &json!({ "version": version, "published": false, "elapsed_ms": elapsed_ms }),
            &[format!("unchanged {version}")],
        )?,
    }
    Ok(exit_code::DONE)
}
