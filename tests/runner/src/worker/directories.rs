//! The work folder of a job: `<work>/<repo>/<repo>`, `_temp`, `_actions`, the tool cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::Whereabouts;
use crate::environment::Environment;

pub(crate) struct Directories {
    /// `<work>/<repo>`.
    pub(crate) pipeline: PathBuf,
    /// `<work>/<repo>/<repo>`.
    pub(crate) workspace: PathBuf,
    pub(crate) temp: PathBuf,
    pub(crate) tools: PathBuf,
    pub(crate) commands: PathBuf,
    pub(crate) event: PathBuf,
}

impl Directories {
    /// Makes them, with an empty `_temp`.
    pub(crate) fn prepare(
        runner: &Whereabouts,
        github: &Value,
        environment: &Environment,
    ) -> anyhow::Result<Self> {
        let repository = github["repository"].as_str().unwrap_or_default();
        let name = repository.rsplit('/').next().unwrap_or("repository");
        let temp = runner.work.join("_temp");
        let workflow = temp.join("_github_workflow");
        let directories = Self {
            pipeline: runner.work.join(name),
            workspace: runner.work.join(name).join(name),
            tools: environment.tool_cache(&runner.work),
            commands: temp.join("_runner_file_commands"),
            event: workflow.join("event.json"),
            temp,
        };
        empty(&directories.temp)?;
        for directory in [
            &directories.workspace,
            &directories.tools,
            &directories.commands,
            &workflow,
            &directories.temp.join("_github_home"),
            &runner.work.join("_actions"),
        ] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        fs::write(&directories.event, "{}")
            .with_context(|| format!("cannot write {}", directories.event.display()))?;
        Ok(directories)
    }

    pub(crate) fn clean(&self) -> anyhow::Result<()> {
        empty(&self.temp)
    }
}

/// Removes what is in a directory, and makes it when it is not there.
#[expect(
    clippy::disallowed_methods,
    reason = "_temp belongs to the job alone and nothing is mounted in it"
)]
fn empty(directory: &Path) -> anyhow::Result<()> {
    let named = || format!("cannot empty {}", directory.display());
    fs::create_dir_all(directory).with_context(named)?;
    for entry in fs::read_dir(directory).with_context(named)? {
        let entry = entry.with_context(named)?;
        if entry.file_type().with_context(named)?.is_dir() {
            fs::remove_dir_all(entry.path()).with_context(named)?;
        } else {
            fs::remove_file(entry.path()).with_context(named)?;
        }
    }
    Ok(())
}
