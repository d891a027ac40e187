//! The state file: what `supervisor status` and the health check of ECS read.
//!
//! Written whole under another name and renamed, so that a reader never sees half of it.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use init::exit_code;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where the supervisor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Restoring, waiting for Docker, registering.
    Preparing,
    /// The listener was started and does not take jobs yet.
    Connecting,
    /// It waits for a job.
    Idle,
    Job,
    /// Publishing, deregistering.
    Finishing,
    /// The end; the exit code says which.
    Ended,
}

/// The content of the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) phase: Stage,
    pub(crate) since: Timestamp,
    pub(crate) pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repository: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u8>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            phase: Stage::Preparing,
            since: Timestamp::now(),
            pid: std::process::id(),
            runner: None,
            job: None,
            result: None,
            repository: None,
            run_id: None,
            exit_code: None,
        }
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let written = || -> std::io::Result<()> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let draft = path.with_extension("new");
            fs::write(&draft, serde_json::to_vec(self)?)?;
            fs::rename(draft, path)
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path)
            .with_context(|| format!("no supervisor runs here: cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no state file", path.display()))
    }

    /// Whether the process that wrote it is there and has not failed.
    fn is_healthy(&self) -> bool {
        match self.exit_code {
            Some(code) => code == exit_code::DONE,
            None => Path::new(&format!("/proc/{}", self.pid)).exists(),
        }
    }
}

/// `supervisor status`: tells the state; 0 when healthy.
pub(crate) fn status(path: &Path, json: bool) -> anyhow::Result<u8> {
    let state = State::read(path)?;
    let healthy = state.is_healthy();
    let mut out = std::io::stdout().lock();
    if json {
        let mut value = serde_json::to_value(&state)?;
        value["healthy"] = healthy.into();
        writeln!(out, "{value}")?;
    } else {
        let name = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let phase = serde_json::to_value(state.phase)?;
        writeln!(out, "phase    {}", phase.as_str().unwrap_or_default())?;
        writeln!(out, "since    {}", state.since)?;
        writeln!(out, "runner   {}", name(&state.runner))?;
        writeln!(out, "job      {}", name(&state.job))?;
        writeln!(out, "result   {}", name(&state.result))?;
        writeln!(out, "healthy  {}", if healthy { "yes" } else { "no" })?;
    }
    Ok(if healthy {
        exit_code::DONE
    } else {
        exit_code::UNEXPECTED
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/state.json");
        let mut state = State::new();
        state.job = Some("build".into());
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
    }

    #[test]
    fn a_state_is_healthy_while_its_process_lives_or_when_it_ended_well() {
        let mut state = State::new();
        assert!(state.is_healthy());
        state.pid = u32::MAX;
        assert!(!state.is_healthy(), "nobody lives there");
        state.exit_code = Some(0);
        assert!(state.is_healthy());
        state.exit_code = Some(69);
        assert!(!state.is_healthy());
    }
}
