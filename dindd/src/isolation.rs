//! How containers are kept apart: the strongest that the host's filter allows.
//!
//! Owns the choice and the sentences that tell it. Docker's default seccomp profile filters
//! `pivot_root` and `keyctl` whatever the capabilities are (moby `profiles/seccomp/default.json`),
//! and then plain runc can start nothing. Asking the two calls is enough to know: the filter
//! answers EPERM, the kernel anything else. Does not wrap runc itself; see [`crate::runc`].

use std::fmt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use init::{Children, Deadline};
use serde::{Deserialize, Serialize};

use crate::mounts::RootMount;
use crate::{privileges, probe, runc};

/// How long the probe, which makes two system calls, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the filter lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Allowed {
    pub(crate) pivot_root: bool,
    pub(crate) keyctl: bool,
    /// Without them mounts cannot be locked; see [`crate::mounts`].
    pub(crate) user_namespaces: bool,
}

/// What starts containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// runc as it is: `pivot_root` and a session keyring for every container.
    Plain,
    /// dindd before runc, which adds `--no-pivot --no-new-keyring`.
    Wrapped(Allowed),
}

impl Allowed {
    pub(crate) fn all(self) -> bool {
        self.pivot_root && self.keyctl
    }
}

impl Isolation {
    /// The strongest that `allowed` lets through.
    pub(crate) fn strongest(allowed: Allowed) -> Self {
        if allowed.all() {
            Self::Plain
        } else {
            Self::Wrapped(allowed)
        }
    }

    /// One word for machines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "runc",
            Self::Wrapped(_) => "runc-wrapper",
        }
    }

    /// What would make it stronger.
    pub(crate) fn stronger(self) -> &'static str {
        match self {
            Self::Plain => "nothing on this host",
            Self::Wrapped(_) => {
                "images/dind/seccomp.json as the seccomp-profile of the host's Docker"
            }
        }
    }

    /// How `/` is mounted where dockerd lives.
    pub(crate) fn root_mount(self) -> RootMount {
        match self {
            Self::Plain => RootMount::Shared,
            Self::Wrapped(_) => RootMount::Slave,
        }
    }

    /// Puts what dockerd must find first into `folder`, the first of its `PATH`. Plain runc has
    /// dindd before it, too, where it may not look into containers by itself.
    ///
    /// # Errors
    /// When the volume cannot be written.
    pub(crate) fn install(self, folder: &Path) -> Result<()> {
        if self == Self::Plain && privileges::may_trace() {
            return Ok(());
        }
        let ourselves = std::env::current_exe().context("cannot find dindd")?;
        let link = folder.join(runc::NAME);
        symlink(ourselves, &link).with_context(|| format!("cannot make {}", link.display()))
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => write!(f, "plain runc: pivot_root and keyctl are allowed"),
            Self::Wrapped(allowed) => {
                let filtered = match (allowed.pivot_root, allowed.keyctl) {
                    (false, false) => "pivot_root and keyctl are",
                    (false, true) => "pivot_root is",
                    (true, _) => "keyctl is",
                };
                write!(
                    f,
                    "runc behind dindd with --no-pivot --no-new-keyring: {filtered} filtered"
                )
            }
        }
    }
}

/// Asks the filter, in a child: one that kills instead of refusing must not take us.
///
/// # Errors
/// When the child cannot be started or says nothing sensible.
pub(crate) async fn probe(children: &Children) -> Result<Allowed> {
    let mut command = Command::new(std::env::current_exe().context("cannot find dindd")?);
    command.arg(probe::NAME);
    let captured = children
        .run(&mut command, Deadline::within(PATIENCE))
        .await?;
    let told = captured
        .checked()
        .context("the probe of the seccomp filter failed")?;
    serde_json::from_slice(&told).context("the probe of the seccomp filter made no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_runc_is_chosen_only_where_both_calls_are_allowed() {
        for (pivot_root, keyctl, name, part) in [
            (true, true, "runc", "plain runc"),
            (false, true, "runc-wrapper", "pivot_root is filtered"),
            (true, false, "runc-wrapper", "keyctl is filtered"),
            (
                false,
                false,
                "runc-wrapper",
                "pivot_root and keyctl are filtered",
            ),
        ] {
            let chosen = Isolation::strongest(Allowed {
                pivot_root,
                keyctl,
                user_namespaces: true,
            });
            assert_eq!(chosen.name(), name);
            assert!(chosen.to_string().contains(part), "{chosen}");
        }
    }
}
