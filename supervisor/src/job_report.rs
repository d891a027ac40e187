//! What the job is, as the runner's hooks told it, and whether its additions can be trusted.
//!
//! The first report comes before anything that the workflow's author wrote runs, so it can be
//! believed; see [`crate::job_hooks`] for how it comes.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The job, as the runner's variables name it (docs "Default environment variables").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobReport {
    pub(crate) event: String,
    pub(crate) repository: String,
    pub(crate) reference: String,
    /// The key of the job in its workflow's file.
    pub(crate) job: String,
    pub(crate) run_id: Option<u64>,
    /// From the event's payload; not every event has one.
    pub(crate) default_branch: Option<String>,
}

/// The report that counts, once it came.
#[derive(Clone, Debug)]
pub(crate) struct Reported(watch::Sender<Option<JobReport>>);

impl Default for Reported {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Reported {
    /// The job's report, if it came by now.
    pub(crate) fn get(&self) -> Option<JobReport> {
        self.0.borrow().clone()
    }

    /// Waits for the job's report.
    pub(crate) async fn come(&self) -> JobReport {
        let mut told = self.0.subscribe();
        match told.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(report)) => report.clone(),
            // The sender is ours: it is not dropped while we wait.
            _ => std::future::pending().await,
        }
    }

    pub(crate) fn set(&self, report: JobReport) {
        self.0.send_replace(Some(report));
    }
}

/// Whether a job's additions to the caches may be everybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Trusted,
    /// The job may run somebody else's code; why.
    Untrusted(String),
    /// Nothing was reported.
    Unknown,
}

/// The events that only people with write access to the repository cause, or nobody: those for
/// which GitHub's own caches stay writable (GitHub changelog 2026-06-26).
const TRUSTED_EVENTS: &[&str] = &[
    "delete",
    "page_build",
    "push",
    "registry_package",
    "repository_dispatch",
    "schedule",
    "workflow_dispatch",
];

/// Judges a job by what triggered it.
pub(crate) fn trust(report: Option<&JobReport>) -> Trust {
    let Some(report) = report else {
        return Trust::Unknown;
    };
    if !TRUSTED_EVENTS.contains(&report.event.as_str()) {
        return Trust::Untrusted(format!(
            "the event {:?} can come from anybody",
            report.event
        ));
    }
    if let Some(branch) = &report.default_branch
        && report.reference != format!("refs/heads/{branch}")
    {
        return Trust::Untrusted(format!("{:?} is not the default branch", report.reference));
    }
    Trust::Trusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_jobs_that_nobody_else_can_trigger_are_trusted() {
        let report = |event: &str, reference: &str, branch: Option<&str>| JobReport {
            event: event.to_owned(),
            reference: reference.to_owned(),
            default_branch: branch.map(str::to_owned),
            ..JobReport::default()
        };
        for (report, trusted) in [
            (report("push", "refs/heads/main", Some("main")), true),
            (report("schedule", "refs/heads/main", None), true),
            (report("push", "refs/heads/feature", Some("main")), false),
            (report("push", "refs/tags/main", Some("main")), false),
            (
                report("pull_request", "refs/heads/main", Some("main")),
                false,
            ),
            (
                report("pull_request_target", "refs/heads/main", Some("main")),
                false,
            ),
            (
                report("issue_comment", "refs/heads/main", Some("main")),
                false,
            ),
            (report("", "", None), false),
        ] {
            assert_eq!(
                trust(Some(&report)) == Trust::Trusted,
                trusted,
                "{report:?}"
            );
        }
        assert_eq!(trust(None), Trust::Unknown);
    }
}
