//! A job as a test orders it: plain scripts for bash.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A job to be queued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The display name; anything may stand in it.
    pub name: String,
    /// `owner/repo`.
    pub repository: String,
    /// Jobs of one run are cancelled together; a number of its own when absent.
    #[serde(default)]
    pub run_id: Option<u64>,
    /// Labels that the runner must have.
    #[serde(default)]
    pub runs_on: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub steps: Vec<StepSpec>,
}

/// One step: a script for bash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    pub name: String,
    pub run: String,
    #[serde(default, rename = "if")]
    pub condition: Condition,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Below the workspace unless absolute.
    #[serde(default)]
    pub working_directory: Option<String>,
}

/// When a step runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    #[default]
    Success,
    Always,
    Failure,
    Cancelled,
}

impl JobSpec {
    pub fn new(repository: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            repository: repository.to_owned(),
            run_id: None,
            runs_on: Vec::new(),
            env: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    /// Adds a step that runs when all before it succeeded.
    #[must_use]
    pub fn step(self, name: &str, run: &str) -> Self {
        self.step_if(Condition::Success, name, run)
    }

    #[must_use]
    pub fn step_if(mut self, condition: Condition, name: &str, run: &str) -> Self {
        self.steps.push(StepSpec {
            name: name.to_owned(),
            run: run.to_owned(),
            condition,
            env: BTreeMap::new(),
            working_directory: None,
        });
        self
    }
}
