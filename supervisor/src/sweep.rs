//! `supervisor sweep`: registrations that a killed supervisor left at GitHub.
//!
//! Only runners that are offline, idle, ephemeral as far as GitHub tells, and whose name has our
//! prefix: never one that somebody else made or that could still take a job.

use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;
use init::{Deadline, exit_code};

use crate::config::GitHub;
use crate::github::{self, Client, Runner, retry};

/// Lists what was left, and removes it when told; the exit code.
pub(crate) async fn run(
    access: &GitHub,
    prefix: &str,
    (delete, json): (bool, bool),
) -> anyhow::Result<u8> {
    let client = Client::new(access, github::http()?)?;
    let deadline = Deadline::within(access.timeout);
    let all = retry::until(deadline, "list the runners", async || {
        client.list(None).await
    })
    .await
    .map_err(|error| anyhow!("cannot list the runners: {}", error.explain(client.scope())))?;
    let left: Vec<Runner> = all
        .into_iter()
        .filter(|runner| is_left(runner, prefix))
        .collect();
    let mut failed = false;
    for runner in &left {
        let outcome = if delete {
            remove(&client, runner).await
        } else {
            "offline"
        };
        failed |= outcome == "failed";
        let mut out = std::io::stdout().lock();
        if json {
            let line =
                serde_json::json!({ "id": runner.id, "name": runner.name, "outcome": outcome });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{:<10} {:<10} {}", outcome, runner.id, runner.name)?;
        }
    }
    if !delete && !left.is_empty() {
        tracing::info!(
            count = left.len(),
            "nothing was removed; --delete removes them"
        );
    }
    Ok(if failed {
        exit_code::UNAVAILABLE
    } else {
        exit_code::DONE
    })
}

async fn remove(client: &Client, runner: &Runner) -> &'static str {
    let deadline = Deadline::within(Duration::from_secs(30));
    let removed = retry::until(deadline, "remove a runner", async || {
        client.delete(runner.id).await
    });
    match removed.await {
        Ok(()) => "removed",
        Err(github::Error::Unprocessable(_)) => "busy",
        Err(error) => {
            tracing::error!(name = runner.name, %error, "cannot remove a runner");
            "failed"
        }
    }
}

fn is_left(runner: &Runner, prefix: &str) -> bool {
    // "ci" must not match "citizen": our names have a dash behind the prefix.
    let ours = runner
        .name
        .strip_prefix(prefix)
        .is_some_and(|rest| prefix.ends_with('-') || rest.starts_with('-'));
    runner.is_offline() && runner.ephemeral != Some(false) && ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_offline_idle_ephemeral_runners_of_ours_are_left() {
        let runner = |name: &str, status: &str, busy, ephemeral| Runner {
            id: 1,
            name: name.to_owned(),
            status: status.to_owned(),
            busy,
            ephemeral,
        };
        for (runner, expected) in [
            (runner("ci-1", "offline", false, Some(true)), true),
            (runner("ci-1", "offline", false, None), true),
            (runner("ci-1", "offline", false, Some(false)), false),
            (runner("ci-1", "offline", true, Some(true)), false),
            (runner("ci-1", "online", false, Some(true)), false),
            (runner("citizen-1", "offline", false, Some(true)), false),
            (runner("ci", "offline", false, Some(true)), false),
            (runner("other", "offline", false, Some(true)), false),
        ] {
            assert_eq!(is_left(&runner, "ci"), expected, "{runner:?}");
        }
        assert!(is_left(&runner("ci-1", "offline", false, None), "ci-"));
    }
}
