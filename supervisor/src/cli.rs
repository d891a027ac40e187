//! The command line: which command with which settings, and what it exits with.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use init::log::{self, Format};
use init::settings::{self, Environment, Given};
use init::{Children, Signals, exit_code};

use crate::config::{self, FAMILIES, FOREIGN, SETTINGS, Settings};
use crate::{cache_command, caches, check, job_hooks, lifecycle, state, sweep};

/// What the help of the smaller commands shows.
const LOG: &[&str] = &["LOG_FORMAT", "LOG_LEVEL"];
const STATUS: &[&str] = &["SUPERVISOR_STATE_FILE", "LOG_FORMAT", "LOG_LEVEL"];
const CACHE: &[&str] = &[
    "CACHE_PUBLISH",
    "CACHE_EXCLUDE",
    "SUPERVISOR_STATE_FILE",
    "LOG_FORMAT",
    "LOG_LEVEL",
];
const SWEEP: &[&str] = &[
    "GITHUB_URL",
    "RUNNER_SCOPE",
    "ORG_NAME",
    "ENTERPRISE_NAME",
    "GITHUB_HOST",
    "GITHUB_API_URL",
    "GITHUB_TIMEOUT",
    "GITHUB_APP_ID",
    "GITHUB_APP_PRIVATE_KEY",
    "GITHUB_APP_INSTALLATION_ID",
    "GITHUB_PAT",
    "RUNNER_NAME_PREFIX",
    "LOG_FORMAT",
    "LOG_LEVEL",
];

/// Parses, dispatches, and reports what could not be done; the exit code.
pub(crate) fn main(started: io::Result<(Children, Signals)>, hidden: io::Result<()>) -> u8 {
    let arguments = match settings::parse(internal().unwrap_or_else(command)) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let environment = Environment::of_process();
    let mut given = Given::new(SETTINGS, &arguments, &environment, (FAMILIES, FOREIGN));
    start_log(&mut given);
    let done = started
        .context("cannot take over signals and children")
        .and_then(|owned| {
            hidden.context("cannot hide this process from others")?;
            dispatch(&arguments, (given, &environment), owned)
        });
    done.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        exit_code::UNEXPECTED
    })
}

fn command() -> Command {
    let json = || {
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("For machines")
    };
    let named = |name: &'static str, about: &'static str| Command::new(name).about(about);
    let showing = |command, shown| settings::showing(command, SETTINGS, shown);
    let delete = Arg::new("delete").long("delete").action(ArgAction::SetTrue);
    let command = named(
        "supervisor",
        "PID 1 of an ephemeral GitHub Actions runner's container",
    )
    .version(env!("CARGO_PKG_VERSION"))
    .subcommand(named(
        "run",
        "Prepares, registers and runs one ephemeral runner (the default)",
    ))
    .subcommand(named("check", "Tells whether it would run, and what is missing").arg(json()))
    .subcommand(showing(
        named(
            "status",
            "Tells where the running supervisor stands; 0 when healthy",
        )
        .arg(json()),
        STATUS,
    ))
    .subcommand(showing(cache_command::command(&json()), CACHE))
    .subcommand(showing(
        named(
            "sweep",
            "Lists offline ephemeral runners whose name has our prefix",
        )
        .arg(delete.help("Removes them"))
        .arg(json()),
        SWEEP,
    ))
    .subcommand(showing(
        named("timeline", "Draws the phases of a run from its log, as SVG").arg(
            Arg::new("log")
                .value_name("LOG")
                .value_parser(value_parser!(PathBuf))
                .required(true)
                .help("The JSON log, or a container's whole output with it; - for standard input"),
        ),
        LOG,
    ));
    settings::with_flags(command, SETTINGS)
}

/// The commands that we start ourselves, when it is one of them. They know the settings of the log
/// only: the flags of all settings cost more than such a command does.
fn internal() -> Option<Command> {
    let worker = Command::new("cache-worker").about("The process that touches the store");
    let socket = Arg::new("socket").value_parser(value_parser!(PathBuf));
    let hook = Command::new("hook")
        .about("Called by the runner when a job starts and ends")
        .arg(socket.required(true));
    let first = std::env::args_os().nth(1)?;
    let command = Command::new("supervisor").subcommands([worker, hook]);
    let is_one = command.get_subcommands().any(|one| first == one.get_name());
    let log = SETTINGS
        .iter()
        .filter(|setting| LOG.contains(&setting.name));
    let log: Vec<_> = log.copied().collect();
    is_one.then(|| settings::with_flags(command, &log))
}

/// A log that is wrongly set is a mistake like any other; it is reported in the usual form.
fn start_log(given: &mut Given<'_>) {
    let format = given
        .parsed::<Format>("LOG_FORMAT")
        .unwrap_or_else(Format::fitting_stderr);
    let level = given.text("LOG_LEVEL").unwrap_or_default();
    if log::start(format, &level).is_err() {
        given.mistake(
            "LOG_LEVEL",
            &format!("\"{level}\" is not valid; it must be error, warn, info, debug or trace"),
        );
        // Nobody but us starts the log, and "info" is a level.
        log::start(format, "info").ok();
    }
}

fn dispatch(
    arguments: &ArgMatches,
    (given, environment): (Given<'_>, &Environment),
    (children, mut signals): (Children, Signals),
) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = match arguments.subcommand() {
        Some(("cache", cache)) => runtime.block_on(cache_command::run(
            cache,
            (given, environment),
            &children,
            &mut signals,
        )),
        Some(("cache-worker", _)) => runtime.block_on(caches::work(&children, &mut signals)),
        Some(("check", check)) => {
            let json = check.get_flag("json");
            runtime.block_on(check::run(given, environment, &children, json))
        }
        Some(("status", status)) => with(given, config::state_file, |path| {
            state::status(&path, status.get_flag("json"))
        }),
        Some(("hook", hook)) => {
            let socket: &PathBuf = hook.get_one("socket").context("no socket")?;
            job_hooks::send(socket, environment).map(|()| exit_code::DONE)
        }
        Some(("timeline", timeline)) => {
            let log: &PathBuf = timeline.get_one("log").context("no log")?;
            crate::timeline::run(log)
        }
        Some(("sweep", sweep)) => with(
            given,
            |given| Some((config::github_access(given), config::name_prefix(given)?)),
            |(access, prefix)| {
                let access = access.context("no access to GitHub")?;
                let options = (sweep.get_flag("delete"), sweep.get_flag("json"));
                runtime.block_on(sweep::run(&access, &prefix, options))
            },
        ),
        _ => with(
            given,
            |given| Settings::read(given, environment),
            |settings| runtime.block_on(lifecycle::run(&settings, &children, &mut signals)),
        ),
    };
    // A thread that waits for a storage that hangs must not hold up the exit.
    runtime.shutdown_background();
    done
}

/// Reads settings and goes on only when there was no mistake.
fn with<T>(
    mut given: Given<'_>,
    read: impl FnOnce(&mut Given<'_>) -> Option<T>,
    go_on: impl FnOnce(T) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let value = read(&mut given);
    match (given.finish(), value) {
        (Ok(()), Some(value)) => go_on(value),
        (Err(mistakes), _) => Ok(refuse(&mistakes)),
        (Ok(()), None) => anyhow::bail!("settings are missing, and which was not told"),
    }
}

pub(crate) fn refuse(mistakes: &dyn Display) -> u8 {
    tracing::error!("{mistakes}");
    exit_code::USAGE
}
