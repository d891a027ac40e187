//! The command line: which command was asked for, its settings and its log.
//!
//! Owns the subcommands and the order "settings, log, runtime, command". Does not know what a
//! command does.

use clap::{Arg, ArgAction, ArgMatches, Command};
use init::log::Format;
use init::settings::{self, Environment, Mistakes};
use init::{Children, Signals, exit_code};
use tracing::error;

use crate::config::{self, SETTINGS, Settings};
use crate::{broker, check, golden, health, lifecycle, reap};

/// What the help of the smaller commands shows.
const HEALTH: &[&str] = &["DINDD_HEALTH_ADDR", "LOG_FORMAT", "LOG_LEVEL"];
const REAP: &[&str] = &["DINDD_STORAGE", "LOG_FORMAT", "LOG_LEVEL"];
const GOLDEN: &[&str] = &[
    "DINDD_GOLDEN",
    "DINDD_REGISTRY_MIRRORS",
    "DINDD_DOCKERD_ARGS",
    "DINDD_START_TIMEOUT",
    "LOG_FORMAT",
    "LOG_LEVEL",
];

/// Runs the command that was asked for; the code to exit with.
pub(crate) fn run(children: Children, signals: Signals) -> u8 {
    let flags = match settings::parse(command()) {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    let environment = Environment::of_process();
    match flags.subcommand() {
        Some((broker::NAME, options)) => {
            let word = |name| options.get_one::<String>(name).map_or("", String::as_str);
            let format = match word("format") {
                "json" => Format::Json,
                _ => Format::Text,
            };
            broker::run(format, word("level"))
        }
        Some(("health", _)) => with_settings(&flags, &environment, |settings| {
            block_on(health::ask(settings.health_addr))
        }),
        Some(("check", options)) => with_settings(&flags, &environment, |settings| {
            let json = options.get_flag("json");
            block_on(check::run(&settings, &children, json))
        }),
        Some(("reap", options)) => with_settings(&flags, &environment, |settings| {
            let dry_run = options.get_flag("dry-run");
            reap::run(&settings.storage, dry_run, options.get_flag("json"))
        }),
        Some((golden::NAME, options)) => with_settings(&flags, &environment, |settings| {
            golden::run(options, &settings, &children, signals)
        }),
        _ => with_settings(&flags, &environment, |settings| {
            block_on(lifecycle::run(settings, children, signals))
        }),
    }
}

fn command() -> Command {
    let json = || switch("json", "Print JSON for machines.");
    let words = Arg::new("words")
        .num_args(..)
        .trailing_var_arg(true)
        .allow_hyphen_values(true)
        .value_name("RUNC ARGUMENTS")
        .help("What runc takes.");
    let command = Command::new("dindd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("PID 1 of a Docker sidecar that needs SYS_ADMIN and NET_ADMIN and nothing else")
        .after_help("Without a command, dindd runs. The settings apply to every command.")
        .subcommands([
            Command::new("run").about("Prepare, run dockerd, serve health, clean up (default)"),
            settings::showing(
                Command::new("health")
                    .about("Ask a running dindd whether containers can be started"),
                SETTINGS,
                HEALTH,
            ),
            Command::new("check")
                .about("Tell whether dindd would run here, and what would make it stronger")
                .arg(json()),
            settings::showing(
                Command::new("reap")
                    .about(
                        "Remove data-roots whose dindd is gone, and trash, from the storage volume",
                    )
                    .args([
                        switch("dry-run", "Only tell what would be removed."),
                        json(),
                    ]),
                SETTINGS,
                REAP,
            ),
            settings::showing(golden::command(json()), SETTINGS, GOLDEN),
            Command::new("runc")
                .about("Be the OCI runtime: runc with what a filtered kernel needs")
                .disable_help_flag(true)
                .arg(words),
            Command::new(broker::NAME)
                .hide(true)
                .args(["format", "level"].map(|name| Arg::new(name).required(true))),
        ]);
    settings::with_flags(command, SETTINGS)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// Reads the settings and starts the log, or says everything that is wrong with them.
fn with_settings(
    flags: &ArgMatches,
    environment: &Environment,
    command: impl FnOnce(Settings) -> u8,
) -> u8 {
    let read = Settings::read(flags, environment);
    let log = read.as_ref().map_or_else(
        |_| config::Log::fallback(environment),
        |settings| settings.log.clone(),
    );
    if let Err(cause) = log.start() {
        return refuse(&cause.to_string());
    }
    match read {
        Ok(settings) => command(settings),
        Err(mistakes) => refuse_all(&mistakes),
    }
}

fn refuse_all(mistakes: &Mistakes) -> u8 {
    refuse(&mistakes.to_string())
}

fn refuse(message: &str) -> u8 {
    error!("{message}");
    exit_code::USAGE
}

/// Runs a command to its end. What it leaves behind on other threads is not waited for.
pub(crate) fn block_on(command: impl Future<Output = u8>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            runtime.shutdown_background();
            code
        }
        Err(cause) => {
            error!("cannot start the runtime: {cause}");
            exit_code::UNEXPECTED
        }
    }
}
