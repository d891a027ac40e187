//! What the job is: told by the runner's job-started hook, before any step of the job runs.
//!
//! The hook is a script that the runner executes first in every job (actions/runner
//! `JobExtension.cs`; docs "Running scripts before or after a job"). It calls this program again,
//! which sends what GitHub says about the job to a socket of ours, and then the operator's own
//! hook. Only the first report counts: it comes before anything that the workflow's author wrote
//! runs, so it can be believed; whatever a step sends later cannot.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use init::settings::Environment;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use crate::user::User;

/// The variable by which the runner finds the hook.
pub(crate) const HOOK: &str = "ACTIONS_RUNNER_HOOK_JOB_STARTED";
/// Neither side waits longer for the other.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_REPORT: u64 = 64 * 1024;

/// The job, as the runner's variables name it (docs "Default environment variables").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobReport {
    pub(crate) event: String,
    pub(crate) repository: String,
    pub(crate) reference: String,
    pub(crate) run_id: Option<u64>,
    /// From the event's payload; not every event has one.
    pub(crate) default_branch: Option<String>,
}

/// The ear for the report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reported(Arc<Mutex<Option<JobReport>>>);

impl Reported {
    /// The job's report, once it came.
    pub(crate) fn get(&self) -> Option<JobReport> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, report: JobReport) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}

/// Makes the hook in `directory` and listens for its report; the script's path.
pub(crate) fn listen(
    directory: &Path,
    (user, own_hook): (&User, Option<&str>),
    reported: Reported,
) -> anyhow::Result<PathBuf> {
    let socket = directory.join("job.sock");
    let script = directory.join("job-started.sh");
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    // A former life's.
    fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", socket.display()))?;
    user.own(&socket)?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    fs::write(&script, text_of(&program, &socket, own_hook))
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", script.display()))?;
    let uid = user.uid.as_raw();
    std::thread::Builder::new()
        .name("job-report".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            match first_report(&listener, uid) {
                Ok(report) => reported.set(report),
                Err(error) => tracing::warn!("the job is not known: {error:#}"),
            }
            // Later ones are refused.
            fs::remove_file(&socket).ok();
        })
        .context("cannot start a thread")?;
    Ok(script)
}

fn text_of(program: &Path, socket: &Path, own_hook: Option<&str>) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    // A hook that fails fails the job, and a report that is lost only costs us what it tells.
    let mut text = format!(
        "#!/bin/bash\n# Made by supervisor: tells it which job this is.\n{} hook {} >/dev/null 2>&1 || true\n",
        quoted(&program.to_string_lossy()),
        quoted(&socket.to_string_lossy())
    );
    if let Some(own) = own_hook {
        text += &format!("exec bash -e {}\n", quoted(own));
    }
    text
}

fn first_report(listener: &UnixListener, uid: u32) -> anyhow::Result<JobReport> {
    loop {
        let (stream, _) = listener.accept().context("cannot take the hook's report")?;
        let peer = getsockopt(&stream, PeerCredentials).context("cannot see who reports")?;
        if peer.uid() == uid {
            return read(stream);
        }
        tracing::warn!(
            uid = peer.uid(),
            "somebody else than the runner reported a job"
        );
    }
}

fn read(mut stream: UnixStream) -> anyhow::Result<JobReport> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&stream).take(LONGEST_REPORT)).read_line(&mut line)?;
    let report = serde_json::from_str(&line).context("the hook's report is not as it should be")?;
    // The hook waits for it: no step starts before the report is here.
    stream.write_all(b"ok\n").ok();
    Ok(report)
}

/// `supervisor hook SOCKET`: the other end, run by the hook as the job's user.
pub(crate) fn send(socket: &Path, environment: &Environment) -> anyhow::Result<()> {
    let text = |name: &str| environment.get(name).unwrap_or_default().to_owned();
    let report = JobReport {
        event: text("GITHUB_EVENT_NAME"),
        repository: text("GITHUB_REPOSITORY"),
        reference: text("GITHUB_REF"),
        run_id: text("GITHUB_RUN_ID").parse().ok(),
        default_branch: environment
            .get("GITHUB_EVENT_PATH")
            .and_then(default_branch),
    };
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot reach the supervisor at {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all((serde_json::to_string(&report)? + "\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(16).read_to_string(&mut answer)?;
    ensure!(
        answer.trim() == "ok",
        "the supervisor did not take the report"
    );
    Ok(())
}

fn default_branch(event: &str) -> Option<String> {
    let payload: serde_json::Value = serde_json::from_slice(&fs::read(event).ok()?).ok()?;
    let branch = payload.get("repository")?.get("default_branch")?.as_str()?;
    Some(branch.to_owned())
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

    #[test]
    fn the_hook_quotes_what_it_is_given_and_goes_on_to_the_operators_own() {
        let text = text_of(
            Path::new("/bin/it's"),
            Path::new("/run/job.sock"),
            Some("/opt/my hook.sh"),
        );
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                r"'/bin/it'\''s' hook '/run/job.sock' >/dev/null 2>&1 || true",
                "exec bash -e '/opt/my hook.sh'"
            ]
        );
    }

    #[test]
    fn the_default_branch_comes_from_the_events_payload() {
        let folder = tempfile::tempdir().unwrap();
        let event = folder.path().join("event.json");
        fs::write(&event, r#"{"repository":{"default_branch":"trunk"}}"#).unwrap();
        assert_eq!(
            default_branch(event.to_str().unwrap()).as_deref(),
            Some("trunk")
        );
        assert_eq!(default_branch("/nowhere/event.json"), None);
    }
}
