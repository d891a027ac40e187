//! The runner's job hooks: scripts by which each job tells us what it is.
//!
//! The runner executes the first in every job before any of its steps, the second after the last
//! (actions/runner `JobExtension.cs`; docs "Running scripts before or after a job"). Each calls
//! this program again, which sends what GitHub says about the job to a socket of ours, and then
//! goes on to the operator's own hook. Of the first kind only the first report counts: whatever a
//! step sends later cannot be believed. The last one is news and nothing more.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use init::Deadline;
use init::settings::Environment;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use crate::job_report::{JobReport, Reported};
use crate::user::User;

/// Neither side waits longer for the other.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_REPORT: u64 = 64 * 1024;

/// When the runner calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Started,
    Completed,
}

/// A script that the runner shall call.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    /// The variable by which the runner finds it.
    pub(crate) variable: &'static str,
    pub(crate) script: PathBuf,
}

impl Moment {
    pub(crate) const ALL: [Self; 2] = [Self::Started, Self::Completed];

    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Started => "ACTIONS_RUNNER_HOOK_JOB_STARTED",
            Self::Completed => "ACTIONS_RUNNER_HOOK_JOB_COMPLETED",
        }
    }

    fn files(self) -> (&'static str, &'static str) {
        match self {
            Self::Started => ("job.sock", "job-started.sh"),
            Self::Completed => ("job-completed.sock", "job-completed.sh"),
        }
    }
}

/// Makes a hook in `directory` and listens for its reports.
pub(crate) fn listen(
    (directory, moment): (&Path, Moment),
    (user, own_hook): (&User, Option<&str>),
    reported: Reported,
) -> anyhow::Result<Hook> {
    let (socket, script) = moment.files();
    let (socket, script) = (directory.join(socket), directory.join(script));
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
    tokio::spawn(async move {
        match moment {
            Moment::Started => match next_report(&listener, uid).await {
                Ok(report) => {
                    tell("the job has begun", &report);
                    reported.set(report);
                }
                Err(error) => tracing::warn!("the job is not known: {error:#}"),
            },
            Moment::Completed => hear_end(&listener, uid, &reported).await,
        }
        // Later ones are refused.
        fs::remove_file(&socket).ok();
    });
    Ok(Hook {
        variable: moment.variable(),
        script,
    })
}

fn tell(what: &str, report: &JobReport) {
    tracing::info!(
        job = report.job,
        repository = report.repository,
        run_id = report.run_id,
        event = report.event,
        "{what}"
    );
}

/// A step can report anything here; what is not about our job is no news.
async fn hear_end(listener: &UnixListener, uid: u32, reported: &Reported) {
    loop {
        match next_report(listener, uid).await {
            Ok(report) if reported.get().as_ref() == Some(&report) => {
                return tell("the steps of the job are over", &report);
            }
            Ok(_) => tracing::debug!("the end of another job was reported"),
            Err(error) => return tracing::debug!("the job's end is not known: {error:#}"),
        }
    }
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

async fn next_report(listener: &UnixListener, uid: u32) -> anyhow::Result<JobReport> {
    loop {
        let (stream, _) = listener
            .accept()
            .await
            .context("cannot take the hook's report")?;
        let peer = stream.peer_cred().context("cannot see who reports")?;
        if peer.uid() == uid {
            let read = Deadline::within(PATIENCE).bound(read(stream)).await;
            return read.context("the hook says nothing")?;
        }
        tracing::warn!(
            uid = peer.uid(),
            "somebody else than the runner reported a job"
        );
    }
}

async fn read(mut stream: tokio::net::UnixStream) -> anyhow::Result<JobReport> {
    let (from, mut to) = stream.split();
    let mut line = String::new();
    BufReader::new(from.take(LONGEST_REPORT))
        .read_line(&mut line)
        .await?;
    let report = serde_json::from_str(&line).context("the hook's report is not as it should be")?;
    // The hook waits for it: no step starts before the report is here.
    to.write_all(b"ok\n").await.ok();
    Ok(report)
}

/// `supervisor hook SOCKET`: the other end, run by the hook as the job's user.
pub(crate) fn send(socket: &Path, environment: &Environment) -> anyhow::Result<()> {
    let text = |name: &str| environment.get(name).unwrap_or_default().to_owned();
    let report = JobReport {
        event: text("GITHUB_EVENT_NAME"),
        repository: text("GITHUB_REPOSITORY"),
        reference: text("GITHUB_REF"),
        job: text("GITHUB_JOB"),
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

#[cfg(test)]
mod tests {
    use super::*;

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
