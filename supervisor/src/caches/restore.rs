//! Store → local disk: trees first, markers when everything of a unit is there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use init::{Children, Deadline};

use super::{Caches, Copied, SECRETS, Unit, blocking, store, units};
use crate::rsync::{Copy, Outcome};
use crate::user::User;

/// What a restore brought.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Restored {
    /// Units that are complete on the local disk now and were not before.
    pub(crate) units: usize,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// What could not be restored and why, one line each.
    pub(crate) problems: Vec<String>,
}

impl Restored {
    fn add(&mut self, copied: Copied) {
        self.files += copied.files;
        self.bytes += copied.bytes;
    }
}

impl Caches {
    /// Brings the local directories up to the store, as far as the time allows.
    pub(crate) async fn restore(&self, children: &Children, deadline: Deadline) -> Restored {
        let mut restored = Restored::default();
        if let Err(error) = self.restore_tools(children, deadline, &mut restored).await {
            restored.problems.push(format!("{error:#}"));
        }
        for root in &self.roots.trees {
            let from = store::tree(&self.store, root);
            let exists = {
                let from = from.clone();
                blocking(deadline, "read the store", move || Ok(from.is_dir())).await
            };
            match exists {
                Ok(true) => {
                    self.restore_tree(children, deadline, (&from, root), &mut restored)
                        .await
                }
                Ok(false) => {}
                Err(error) => restored.problems.push(format!("{error:#}")),
            }
        }
        restored
    }

    async fn restore_tools(
        &self,
        children: &Children,
        deadline: Deadline,
        restored: &mut Restored,
    ) -> anyhow::Result<()> {
        let (store, root) = (self.store.clone(), self.roots.tools.clone());
        let (tools, missing) = blocking(deadline, "read the store", move || {
            let tools = store::tools(&store, &root)?;
            let local = units::scan(&root)?;
            let mut missing = units::scan(&tools)?;
            missing.retain(|unit| !local.contains(unit));
            Ok((tools, missing))
        })
        .await?;
        if missing.is_empty() {
            return Ok(());
        }
        match self
            .copy_units(children, deadline, (&tools, &missing))
            .await
        {
            Outcome::Complete(copied) => {
                restored.add(copied);
                self.mark(&missing, restored);
            }
            // Which unit has a hole is not known: each for itself tells.
            Outcome::Partial(reason) => {
                tracing::warn!(
                    reason,
                    "not every unit could be restored; trying each by itself"
                );
                for unit in &missing {
                    let one = std::slice::from_ref(unit);
                    match self.copy_units(children, deadline, (&tools, one)).await {
                        Outcome::Complete(copied) => {
                            restored.add(copied);
                            self.mark(one, restored);
                        }
                        Outcome::Partial(reason) | Outcome::Failed(reason) => {
                            restored.problems.push(format!("{unit}: {reason}"));
                        }
                    }
                }
            }
            Outcome::Failed(reason) => restored.problems.push(reason),
        }
        Ok(())
    }

    async fn copy_units(
        &self,
        children: &Children,
        deadline: Deadline,
        (tools, units): (&Path, &[Unit]),
    ) -> Outcome {
        let copy = Copy {
            // What stands behind /./ is the path below the destination.
            from: units
                .iter()
                .map(|unit| OsString::from(unit.directory(&tools.join("."))))
                .collect(),
            to: &self.roots.tools,
            owner: self.owner(),
            without: &[store::STAMP],
            relative: true,
        };
        copy.run(children, deadline).await
    }

    fn mark(&self, units: &[Unit], restored: &mut Restored) {
        for unit in units {
            let marker = unit.marker(&self.roots.tools);
            match fs::write(&marker, "")
                .map_err(Into::into)
                .and_then(|()| self.own(&marker))
            {
                Ok(()) => restored.units += 1,
                Err(error) => restored
                    .problems
                    .push(format!("cannot mark {unit}: {error:#}")),
            }
        }
    }

    fn own(&self, path: &Path) -> anyhow::Result<()> {
        self.owner
            .as_ref()
            .map_or(Ok(()), |user: &User| user.own(path))
    }

    async fn restore_tree(
        &self,
        children: &Children,
        deadline: Deadline,
        (from, to): (&Path, &PathBuf),
        restored: &mut Restored,
    ) {
        let copy = Copy {
            from: vec![OsString::from(from.join(""))],
            to,
            owner: self.owner(),
            without: SECRETS,
            relative: false,
        };
        match copy.run(children, deadline).await {
            Outcome::Complete(copied) => restored.add(copied),
            Outcome::Partial(reason) | Outcome::Failed(reason) => {
                restored
                    .problems
                    .push(format!("{}: {reason}", to.display()));
            }
        }
    }
}
