//! A folder of the volume that serves one test as its storage volume, so that the test can say what
//! must be in it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use chain::driver::Heard;
use chain::{Stage, Task, TaskOptions};

/// The programs as a host's timer has them: what the image is built with.
const DINDD: &str = "/run/chain/stages/build/out/dindd";

pub(crate) struct Storage<'a> {
    pub(crate) stage: &'a Stage,
    name: &'static str,
}

impl<'a> Storage<'a> {
    pub(crate) fn make(stage: &'a Stage, name: &'static str) -> Result<Self> {
        let storage = Self { stage, name };
        std::fs::create_dir(storage.path())?;
        Ok(storage)
    }

    /// Where it is in the host.
    pub(crate) fn inside(&self) -> PathBuf {
        self.stage.volume().join(self.name)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.stage.host().path(self.inside())
    }

    pub(crate) fn entries(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(self.path())?;
        let mut entries = entries
            .map(|entry| Ok(entry?.file_name().display().to_string()))
            .collect::<Result<Vec<_>>>()?;
        entries.sort();
        Ok(entries)
    }

    /// A task whose sidecar has this storage.
    pub(crate) fn task(&self, name: &str, heard: &Heard, options: TaskOptions) -> Result<Task<'a>> {
        let options = TaskOptions {
            storage: self.name.into(),
            ..options
        };
        self.stage.task(name, options, heard.listener())
    }

    /// `dindd reap` as a host's timer runs it; what it reports.
    pub(crate) fn reap(&self) -> Result<String> {
        let folder = self.inside();
        let host = self.stage.host();
        host.run([
            DINDD,
            "reap",
            "--json",
            "--storage",
            &folder.display().to_string(),
        ])
    }

    /// Nothing is in it; the folder goes.
    pub(crate) fn end(self) -> Result<()> {
        let left = self.entries()?;
        ensure!(left.is_empty(), "left on the volume: {left:?}");
        std::fs::remove_dir(self.path()).context("remove the folder")
    }
}
