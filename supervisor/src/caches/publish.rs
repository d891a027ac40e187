//! Local disk → store: new units only, each complete or not at all.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use init::{Children, Deadline};

use super::store::{Placed, Stage};
use super::{Caches, SECRETS, Unit, blocking, store, units};
use crate::rsync::{Copied, Copy, Outcome};

/// Under which circumstances is published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    /// Units that were there before the job: what it did to them is not published.
    pub(crate) known: BTreeSet<Unit>,
    /// The job was cut short: a unit that changed after its marker is left out.
    pub(crate) interrupted: bool,
    /// Nothing is written; what would be is told.
    pub(crate) dry_run: bool,
}

/// What was published.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Published {
    /// Units that are new in the store, or would be.
    pub(crate) units: Vec<String>,
    /// Units that another publisher had put there meanwhile.
    pub(crate) lost_races: Vec<String>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// What could not be published and why, one line each.
    pub(crate) problems: Vec<String>,
}

impl Published {
    fn add(&mut self, copied: Copied) {
        self.files += copied.files;
        self.bytes += copied.bytes;
    }
}

impl Caches {
    /// The complete units on the local disk.
    pub(crate) async fn local_units(&self, deadline: Deadline) -> anyhow::Result<BTreeSet<Unit>> {
        let root = self.roots.tools.clone();
        blocking(deadline, "read the tool cache", move || {
            Ok(units::scan(&root)?.into_iter().collect())
        })
        .await
    }

    /// Puts what is new into the store, as far as the time allows.
    pub(crate) async fn publish(
        &self,
        children: &Children,
        condition: &Condition,
        deadline: Deadline,
    ) -> Published {
        let mut published = Published::default();
        if let Err(error) = self
            .publish_tools(children, condition, deadline, &mut published)
            .await
        {
            published.problems.push(format!("{error:#}"));
        }
        if !condition.dry_run {
            for root in &self.roots.trees {
                self.publish_tree(children, root, deadline, &mut published)
                    .await;
            }
        }
        published
    }

    async fn publish_tools(
        &self,
        children: &Children,
        condition: &Condition,
        deadline: Deadline,
        published: &mut Published,
    ) -> anyhow::Result<()> {
        let (store, root, interrupted) = (
            self.store.clone(),
            self.roots.tools.clone(),
            condition.interrupted,
        );
        let known = condition.known.clone();
        let (tools, new) = blocking(deadline, "compare with the store", move || {
            let mut new = units::scan(&root)?;
            new.retain(|unit| !known.contains(unit));
            new.retain(|unit| !interrupted || !unit.is_in_doubt(&root));
            let tools = store::tools(&store, &root)?;
            // A store that is not asked cannot hang: most jobs add nothing.
            if !new.is_empty() {
                let there = units::scan(&tools)?;
                new.retain(|unit| !there.contains(unit));
            }
            Ok((tools, new))
        })
        .await?;
        for unit in new {
            if condition.dry_run {
                published.units.push(unit.to_string());
                continue;
            }
            match self.publish_unit(children, &unit, &tools, deadline).await {
                Ok((Placed::Published, copied)) => {
                    published.add(copied);
                    published.units.push(unit.to_string());
                }
                Ok((Placed::LostRace, _)) => published.lost_races.push(unit.to_string()),
                Err(error) => published.problems.push(format!("{unit}: {error:#}")),
            }
        }
        Ok(())
    }

    async fn publish_unit(
        &self,
        children: &Children,
        unit: &Unit,
        tools: &Path,
        deadline: Deadline,
    ) -> anyhow::Result<(Placed, Copied)> {
        let store = self.store.clone();
        let stage = blocking(deadline, "make a stage in the store", move || {
            Stage::make(&store)
        })
        .await?;
        let content = stage.content();
        let copy = Copy {
            from: vec![OsString::from(unit.directory(&self.roots.tools).join(""))],
            to: &content,
            owner: None,
            // A unit that was restored and is published elsewhere gets a stamp of its own.
            without: &[store::STAMP],
            relative: false,
        };
        let outcome = copy.run(children, deadline).await;
        let (unit, tools) = (unit.clone(), tools.to_owned());
        blocking(deadline, "move the unit into the store", move || {
            let placed = match outcome {
                Outcome::Complete(copied) => {
                    stage.place(&unit, &tools).map(|placed| (placed, copied))
                }
                Outcome::Partial(reason) | Outcome::Failed(reason) => Err(anyhow::anyhow!(reason)),
            };
            stage.remove();
            placed
        })
        .await
    }

    async fn publish_tree(
        &self,
        children: &Children,
        root: &Path,
        deadline: Deadline,
        published: &mut Published,
    ) {
        let to = store::tree(&self.store, root);
        let (from, made) = (root.to_owned(), to.clone());
        let ready = blocking(deadline, "make a tree in the store", move || {
            if !from.is_dir() {
                return Ok(false);
            }
            std::fs::create_dir_all(made)?;
            Ok(true)
        });
        match ready.await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                return published
                    .problems
                    .push(format!("{}: {error:#}", root.display()));
            }
        }
        let copy = Copy {
            from: vec![OsString::from(root.join(""))],
            to: &to,
            owner: None,
            without: SECRETS,
            relative: false,
        };
        match copy.run(children, deadline).await {
            Outcome::Complete(copied) => published.add(copied),
            Outcome::Partial(reason) | Outcome::Failed(reason) => {
                published
                    .problems
                    .push(format!("{}: {reason}", root.display()));
            }
        }
    }
}
