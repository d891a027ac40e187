//! The runtime caches: restored before the runner starts, published after its job.
//!
//! Owns which units are copied and in what order markers appear; the copying itself is rsync's and
//! the store's layout [`store`]'s. A cache never fails a job: what cannot be restored is missing,
//! what cannot be published is made again. The store may hang: nothing here blocks the caller
//! longer than its deadline.

mod publish;
mod restore;
mod store;
mod units;

use std::path::PathBuf;

use anyhow::Context;
use init::Deadline;

use crate::config::Roots;
use crate::rsync::Copied;
use crate::user::User;
pub(crate) use publish::Condition;
pub(crate) use units::Unit;

/// Credentials that tools keep beside their caches. They belong to one job.
const SECRETS: &[&str] = &[
    ".npmrc",
    ".netrc",
    ".pypirc",
    "pip.conf",
    ".git-credentials",
    ".docker/config.json",
];

/// The cached directories and the store.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    pub(crate) store: PathBuf,
    pub(crate) roots: Roots,
    /// Who owns what is restored; `None` leaves it to the kernel.
    pub(crate) owner: Option<User>,
}

/// A unit in the store.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Listed {
    pub(crate) unit: String,
    pub(crate) path: PathBuf,
}

impl Caches {
    /// The complete units in the store.
    pub(crate) async fn list(&self, deadline: Deadline) -> anyhow::Result<Vec<Listed>> {
        let (store, root) = (self.store.clone(), self.roots.tools.clone());
        blocking(deadline, "read the store", move || {
            let tools = store::tools(&store, &root)?;
            let listed = units::scan(&tools)?.into_iter().map(|unit| Listed {
                unit: unit.to_string(),
                path: unit.directory(&tools),
            });
            Ok(listed.collect())
        })
        .await
    }

    fn owner(&self) -> Option<String> {
        self.owner.as_ref().and_then(User::owner)
    }
}

/// Does what may block for as long as the storage likes on a thread of its own.
async fn blocking<T: Send + 'static>(
    deadline: Deadline,
    what: &'static str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    deadline
        .bound(tokio::task::spawn_blocking(work))
        .await
        .with_context(|| format!("cannot {what}: the storage did not answer in time"))?
        .with_context(|| format!("cannot {what}"))?
        .with_context(|| format!("cannot {what}"))
}
