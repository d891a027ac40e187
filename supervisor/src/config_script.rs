//! Interface to the runner's `config.sh`: registration the long way.
//!
//! Owns its command line and what its failures mean. The registration token goes by the
//! environment, because everybody on the machine can read a command line.
//! Source: actions/runner `CommandSettings.cs`, `ConfigurationManager.cs`.

use init::settings::Secret;
use init::{Children, Deadline};

use crate::listener::Place;

/// Why it did not register.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a runner of this name exists")]
    NameTaken,
    #[error(
        "GitHub refuses to register this version of the runner; build the image with a newer one: {0}"
    )]
    TooOld(String),
    #[error("config.sh failed: {0}")]
    Failed(String),
}

/// Registers the runner under `name`.
pub(crate) async fn run(
    place: &Place<'_>,
    (name, web, labels): (&str, &str, &[String]),
    token: &Secret,
    (children, deadline): (&Children, Deadline),
) -> Result<(), Refusal> {
    let runner = place.runner;
    let mut command = place.command("config.sh");
    command
        .args(["--unattended", "--ephemeral", "--disableupdate"])
        .args(["--url", web, "--name", name])
        .arg("--work")
        .arg(&runner.work)
        .env("ACTIONS_RUNNER_INPUT_TOKEN", token.expose());
    let labels: Vec<&str> = runner
        .own_labels
        .iter()
        .chain(labels)
        .map(String::as_str)
        .collect();
    if !labels.is_empty() {
        command.args(["--labels", &labels.join(",")]);
    }
    if !runner.default_labels {
        command.arg("--no-default-labels");
    }
    if let Some(group) = &runner.group {
        command.args(["--runnergroup", group]);
    }
    let captured = children
        .run(&mut command, deadline)
        .await
        .map_err(|error| Refusal::Failed(format!("{error:#}")))?;
    if captured.exit.is_success() {
        return Ok(());
    }
    let said = [&captured.stdout, &captured.stderr].map(|text| String::from_utf8_lossy(text));
    Err(read(&said.join("\n"), &captured.exit.to_string()))
}

fn read(said: &str, exit: &str) -> Refusal {
    if said.contains("A runner exists with the same name") {
        return Refusal::NameTaken;
    }
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    if let Some(line) = lines
        .clone()
        .find(|line| line.contains("minimum runner version"))
    {
        return Refusal::TooOld(line.to_owned());
    }
    let last = lines.next_back().unwrap_or("it said nothing");
    Refusal::Failed(format!("{exit}: {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_what_config_sh_says() {
        for (said, expected) in [
            (
                "# Runner Registration\nA runner exists with the same name x.\n",
                "a runner of this name exists",
            ),
            (
                "Http response code: NotFound\nThe minimum runner version required to register is now 2.329.0.\nfailed",
                "GitHub refuses to register this version of the runner; build the image with a newer one: The minimum runner version required to register is now 2.329.0.",
            ),
            ("one\ntwo\n\n", "config.sh failed: exit status 1: two"),
            ("", "config.sh failed: exit status 1: it said nothing"),
        ] {
            assert_eq!(read(said, "exit status 1").to_string(), expected);
        }
    }
}
