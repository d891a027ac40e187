//! `remove`: takes the registration and the local files away (actions/runner
//! `ConfigurationManager.cs` `UnconfigureAsync`).

use anyhow::{Context, bail};

use crate::arguments::Arguments;
use crate::failure::{SUCCESS, TERMINATED};
use crate::registrar::{Registrar, exchange_pat};
use crate::{Runner, signals};

pub(crate) fn run(runner: &Runner, arguments: &Arguments) -> anyhow::Result<u8> {
    signals::end_on_interrupt()?;
    if arguments.flag("local") {
        runner.store.delete(&runner.terminal)?;
        return Ok(SUCCESS);
    }
    match remove(runner, arguments) {
        Ok(()) => Ok(SUCCESS),
        Err((step, error)) => {
            runner.terminal.error(&format!("Failed: {step}"));
            runner.terminal.error(&format!("{error:#}"));
            Ok(TERMINATED)
        }
    }
}

/// The error comes with the step that failed.
fn remove(runner: &Runner, arguments: &Arguments) -> Result<(), (&'static str, anyhow::Error)> {
    const FROM_SERVER: &str = "Removing runner from the server";
    let terminal = &runner.terminal;
    terminal.section("Runner removal");
    if runner.store.is_service() {
        return Err((
            "Removing service",
            anyhow::anyhow!("Uninstall service first"),
        ));
    }
    if runner.store.is_configured() {
        from_server(runner, arguments).map_err(|error| (FROM_SERVER, error))?;
        terminal.line("");
        terminal.success("Runner removed successfully");
    } else {
        terminal.line(
            "Cannot connect to server, because config files are missing. Skipping removing \
             runner from the server.",
        );
    }
    runner
        .store
        .delete(terminal)
        .map_err(|error| (FROM_SERVER, error))?;
    terminal.line("");
    Ok(())
}

fn from_server(runner: &Runner, arguments: &Arguments) -> anyhow::Result<()> {
    let settings = runner.store.settings()?;
    if !settings.use_runner_admin_flow {
        // A JIT runner knows no GitHub URL, so the real one fails here too.
        bail!("Invalid URI: The URI is empty.");
    }
    let url = settings.github_url.as_str();
    let token = match (arguments.option("token"), arguments.option("pat")) {
        (Some(token), _) => token.to_owned(),
        (None, Some(pat)) => exchange_pat(url, pat, "remove")?,
        (None, None) => {
            return Err(anyhow::anyhow!(
                "Invalid configuration provided for token. Terminating unattended configuration."
            ));
        }
    };
    let registrar = Registrar {
        terminal: &runner.terminal,
        url,
        token,
    };
    registrar
        .delete(settings.agent_id)
        .context("the server did not remove the runner")
}
