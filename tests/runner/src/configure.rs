//! `configure`: registers the runner and writes its files (actions/runner
//! `ConfigurationManager.cs`). Always unattended.

use github_double::rsa_key::RsaKey;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::failure::{SUCCESS, TERMINATED};
use crate::http::architecture;
use crate::registrar::{Registered, Registrar, exchange_pat};
use crate::store::Configuration;
use crate::{Runner, signals};

pub(crate) fn run(runner: &Runner, arguments: &Arguments) -> anyhow::Result<u8> {
    signals::end_on_interrupt()?;
    match configure(runner, arguments) {
        Ok(()) => Ok(SUCCESS),
        Err(error) => {
            runner.terminal.error(&format!("{error:#}"));
            Ok(TERMINATED)
        }
    }
}

fn configure(runner: &Runner, arguments: &Arguments) -> anyhow::Result<()> {
    let terminal = &runner.terminal;
    anyhow::ensure!(
        !runner.store.is_configured(),
        "Cannot configure the runner because it is already configured. To reconfigure the \
         runner, run 'config.cmd remove' or './config.sh remove' first."
    );
    terminal.section("Authentication");
    let url = required(arguments, "url")?;
    let token = match (arguments.option("token"), arguments.option("pat")) {
        (Some(token), _) => token.to_owned(),
        (None, Some(pat)) => exchange_pat(url, pat, "registration")?,
        (None, None) => required(arguments, "token")?.to_owned(),
    };
    let registrar = Registrar {
        terminal,
        url,
        token,
    };
    let tenant_url = registrar.connect()?;
    terminal.line("");
    terminal.success("Connected to GitHub");

    terminal.section("Runner Registration");
    let key = RsaKey::generate()?;
    let (pool_id, pool_name) = registrar.group(arguments.option("runnergroup"))?;
    let configuration = Configuration {
        github_url: url.to_owned(),
        pool_id,
        pool_name,
        work_folder: arguments.option("work").unwrap_or("_work").to_owned(),
        ephemeral: arguments.flag("ephemeral"),
        disable_update: arguments.flag("disableupdate"),
    };
    let registered = register(&registrar, arguments, &configuration, (&key, tenant_url))?;

    terminal.section("Runner settings");
    runner
        .store
        .save_configuration(&configuration, &registered, &key)?;
    terminal.line("");
    terminal.success("Settings Saved.");
    terminal.line("");
    Ok(())
}

/// Adds the runner, or replaces the one of the same name. The key's public half is registered.
fn register(
    registrar: &Registrar<'_>,
    arguments: &Arguments,
    configuration: &Configuration,
    (key, tenant_url): (&RsaKey, String),
) -> anyhow::Result<Registered> {
    let terminal = registrar.terminal;
    let name = arguments
        .option("name")
        .map_or_else(machine_name, str::to_owned);
    let existing = registrar.find(&name)?;
    if existing.is_some() {
        terminal.line("A runner exists with the same name");
        anyhow::ensure!(
            arguments.flag("replace"),
            "A runner exists with the same name {name}."
        );
    }
    let mut body = json!({
        "group_id": configuration.pool_id,
        "name": name,
        "updates_disabled": configuration.disable_update,
        "ephemeral": configuration.ephemeral,
        "labels": labels(arguments)?,
        "public_key": key.public().to_xml(),
    });
    if let Some(id) = existing {
        body["runner_id"] = json!(id);
        body["replace"] = json!(true);
    }
    let registered = registrar.register(body, tenant_url)?;
    terminal.success(match existing {
        Some(_) => "Successfully replaced the runner",
        None => "Runner successfully added",
    });
    Ok(registered)
}

fn required<'a>(arguments: &'a Arguments, name: &str) -> anyhow::Result<&'a str> {
    arguments.option(name).ok_or_else(|| {
        anyhow::anyhow!(
            "Invalid configuration provided for {name}. Terminating unattended configuration."
        )
    })
}

fn labels(arguments: &Arguments) -> anyhow::Result<Vec<Value>> {
    let own: Vec<&str> = arguments
        .option("labels")
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|label| !label.is_empty())
        .collect();
    let fixed = if arguments.flag("no-default-labels") {
        anyhow::ensure!(
            !own.is_empty(),
            "Disabling default labels via --no-default-labels without specifying --labels is \
             not supported"
        );
        Vec::new()
    } else {
        vec![
            "self-hosted".to_owned(),
            "Linux".to_owned(),
            architecture().to_uppercase(),
        ]
    };
    let label = |name: &str, kind: &str| json!({ "name": name, "type": kind });
    Ok(fixed
        .iter()
        .map(|name| label(name, "System"))
        .chain(own.iter().map(|name| label(name, "User")))
        .collect())
}

pub(crate) fn machine_name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "RUNNER".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}
