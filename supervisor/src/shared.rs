//! The directories that the runner's container shares with the Docker sidecar.
//!
//! Owns that they exist, belong to the runner's user, are the same storage in the sidecar and, for
//! the runner's externals, have their content: a volume that is mounted over the image's directory
//! hides it, and container jobs find no node then. A volume must be mounted at the same path on both
//! sides, because the daemon resolves the paths that the runner names (actions/runner
//! `ContainerOperationProvider.cs`); where it is not, jobs' containers see empty folders.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use init::{Children, Deadline};

use crate::config::{Caches, Docker, Runner};
use crate::docker;
use crate::user::User;
use caches::rsync::{Copied, Copy, Outcome};

/// What a marker's name begins with.
const MARKER: &str = ".seen-from-docker-";
/// An older marker is nobody's: asking takes seconds at most.
const STALE: Duration = Duration::from_secs(60);
const ANSWERS: Duration = Duration::from_secs(5);

/// Makes the work folder, the place of the externals and the cached directories and gives them to
/// the user.
pub(crate) fn make(runner: &Runner, caches: Option<&Caches>, user: &User) -> anyhow::Result<()> {
    user.own_directory(&runner.work)?;
    if runner.home.join("externals.dist").is_dir() {
        user.own_directory(&runner.home.join("externals"))?;
    }
    user.own_directory(&runner.tool_cache)?;
    let trees = caches.into_iter().flat_map(|caches| &caches.place.roots);
    for tree in trees {
        user.own_directory(&tree.path)?;
    }
    Ok(())
}

/// Copies what the image keeps in `externals.dist` to `externals`, as far as it is not there.
/// `None` when the image keeps nothing there.
pub(crate) async fn fill_externals(
    home: &Path,
    user: &User,
    children: &Children,
    deadline: Deadline,
) -> anyhow::Result<Option<Copied>> {
    let (from, to) = (home.join("externals.dist"), home.join("externals"));
    if !from.is_dir() {
        return Ok(None);
    }
    let owner = user.owner();
    let cannot = || format!("cannot read {}", from.display());
    let mut copies = Vec::new();
    for entry in fs::read_dir(&from).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        if !to.join(entry.file_name()).exists() {
            copies.push(copy_whole(
                entry,
                &to,
                (owner.as_deref(), children, deadline),
            ));
        }
    }
    // At the same time: each rsync sleeps a while before it ends.
    let mut all = Copied::default();
    for copied in try_join_all(copies).await? {
        all.add(copied);
    }
    Ok(Some(all))
}

/// Copies under another name first: what has its name is complete.
async fn copy_whole(
    entry: fs::DirEntry,
    to: &Path,
    (owner, children, deadline): (Option<&str>, &Children, Deadline),
) -> anyhow::Result<Copied> {
    let mut name = OsString::from(".copying-");
    name.push(entry.file_name());
    let copy = Copy {
        from: entry.path(),
        to: &to.join(name),
        owner: owner.map(str::to_owned),
    };
    let copied = match copy.run(children, deadline).await {
        Outcome::Complete(copied) => copied,
        Outcome::Partial(reason) | Outcome::Failed(reason) => bail!(
            "cannot copy {} to {}: {reason}",
            entry.path().display(),
            to.display()
        ),
    };
    // rsync puts a directory into the destination, and a file in its place.
    let inside = copy.to.join(entry.file_name());
    let made = if entry.path().is_dir() {
        &inside
    } else {
        copy.to
    };
    let place = to.join(entry.file_name());
    fs::rename(made, &place).with_context(|| format!("cannot move {}", made.display()))?;
    if copy.to.is_dir() {
        fs::remove_dir(copy.to).with_context(|| format!("cannot remove {}", copy.to.display()))?;
    }
    Ok(copied)
}

/// Whether the daemon sees the same directories at the same paths.
pub(crate) enum Sight {
    /// These, all of them.
    Same(Vec<PathBuf>),
    /// Why it cannot be told.
    Unknown(anyhow::Error),
}

/// Compares the directories that jobs' containers get with those of the daemon, by a file in each.
///
/// # Errors
/// When some are others in the daemon's container.
pub(crate) async fn compare(runner: &Runner, docker: &Docker) -> anyhow::Result<Sight> {
    let mut directories = vec![
        runner.work.clone(),
        runner.home.join("externals"),
        runner.tool_cache.clone(),
    ];
    directories.retain(|directory| directory.is_dir());
    let markers: io::Result<Vec<Marker>> = directories.iter().map(|at| Marker::make(at)).collect();
    let markers = match markers {
        Ok(markers) => markers,
        Err(error) => return Ok(Sight::Unknown(error.into())),
    };
    let files: Vec<&Path> = markers.iter().map(|marker| marker.path.as_path()).collect();
    let asked = docker::unseen(&docker.address, &files);
    let unseen = match Deadline::within(ANSWERS).bound(asked).await {
        Some(Ok(unseen)) => unseen,
        Some(Err(error)) => return Ok(Sight::Unknown(error)),
        None => return Ok(Sight::Unknown(anyhow::anyhow!("it does not answer"))),
    };
    let elsewhere: Vec<_> = unseen.iter().filter_map(|file| file.parent()).collect();
    let names: Vec<_> = elsewhere
        .iter()
        .map(|directory| directory.display().to_string())
        .collect();
    ensure!(
        names.is_empty(),
        "{} in this container and at the same path in the container of Docker ({}) are not the same storage, and jobs' containers would find nothing there: mount the same volume at that path in both containers; WAIT_FOR_DOCKER=0 leaves this out",
        names.join(", "),
        docker.address
    );
    Ok(Sight::Same(directories))
}

/// A file whose name nobody else has: who sees it sees its directory. Gone when dropped.
struct Marker {
    path: PathBuf,
}

impl Marker {
    /// Also removes what killed ones left.
    fn make(directory: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(directory)?.flatten() {
            let marks = entry.file_name().to_string_lossy().starts_with(MARKER);
            if marks && is_stale(&entry) {
                fs::remove_file(entry.path())?;
            }
        }
        let path = directory.join(format!("{MARKER}{:032x}", rand::random::<u128>()));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Self { path })
    }
}

fn is_stale(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|meta| meta.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE))
}

impl Drop for Marker {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a file that was to be seen from Docker");
        }
    }
}
