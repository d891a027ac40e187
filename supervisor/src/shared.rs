//! The directories that the runner's container shares with the Docker sidecar.
//!
//! Owns that they exist, belong to the runner's user and, for the runner's externals, have their
//! content: a volume that is mounted over the image's directory hides it, and container jobs find
//! no node then. A volume must be mounted at the same path on both sides, because the daemon
//! resolves the paths that the runner names (actions/runner `ContainerOperationProvider.cs`).

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use init::{Children, Deadline};

use crate::config::{Caches, Runner};
use crate::user::User;
use caches::rsync::{Copied, Copy, Outcome};

/// Makes the work folder and the cached directories and gives them to the user.
pub(crate) fn make(runner: &Runner, caches: Option<&Caches>, user: &User) -> anyhow::Result<()> {
    user.own_directory(&runner.work)?;
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
    user.own_directory(&to)?;
    let owner = user.owner();
    let mut all = Copied::default();
    let entries = fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let place = to.join(entry.file_name());
        if place.exists() {
            continue;
        }
        // Under another name first: what has its name is complete.
        let mut name = OsString::from(".copying-");
        name.push(entry.file_name());
        let copy = Copy {
            from: entry.path(),
            to: &to.join(name),
            owner: owner.clone(),
        };
        match copy.run(children, deadline).await {
            Outcome::Complete(copied) => all.add(copied),
            Outcome::Partial(reason) | Outcome::Failed(reason) => {
                bail!(
                    "cannot copy {} to {}: {reason}",
                    entry.path().display(),
                    to.display()
                )
            }
        }
        // rsync puts a directory into the destination, and a file in its place.
        let copied = copy.to.join(entry.file_name());
        let made = if entry.path().is_dir() {
            &copied
        } else {
            copy.to
        };
        fs::rename(made, &place).with_context(|| format!("cannot move {}", made.display()))?;
        if copy.to.is_dir() {
            fs::remove_dir(copy.to)
                .with_context(|| format!("cannot remove {}", copy.to.display()))?;
        }
    }
    Ok(Some(all))
}
