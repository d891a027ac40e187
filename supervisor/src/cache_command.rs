//! `supervisor cache`: the caches alone, by hand or from a job that fills the store.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use init::settings::Given;
use init::{Children, Deadline, Signals, exit_code};
use serde::Serialize;

use crate::caches::{Caches, Condition};
use crate::cli;
use crate::config::{self, Roots};

/// The operator waits, and can interrupt.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// The command line.
pub(crate) fn command(json: &Arg) -> Command {
    let store = Arg::new("store")
        .long("store")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .help("The store [default: CACHE_STORE]");
    let root = Arg::new("root")
        .long("root")
        .value_name("DIR")
        .num_args(1..)
        .action(ArgAction::Append)
        .value_parser(value_parser!(PathBuf))
        .help("The cached directories, the tool cache first [default: CACHE_ROOTS]");
    let one = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .args([store.clone(), root.clone(), json.clone()])
    };
    Command::new("cache")
        .about("The caches alone, without GitHub")
        .subcommand_required(true)
        .subcommand(one("restore", "Store to local directories"))
        .subcommand(one("publish", "What is new locally to the store"))
        .subcommand(one("ls", "What is in the store"))
}

/// Runs the command; a signal ends it at once, because nothing half-done is ever visible.
pub(crate) async fn run(
    arguments: &ArgMatches,
    mut given: Given<'_>,
    children: &Children,
    signals: &mut Signals,
) -> anyhow::Result<u8> {
    let Some((name, arguments)) = arguments.subcommand() else {
        unreachable!("clap requires one");
    };
    let caches = caches_of(arguments, &mut given);
    let caches = match (given.finish(), caches) {
        (Ok(()), Some(caches)) => caches,
        (Err(mistakes), _) => return Ok(cli::refuse(&mistakes)),
        (Ok(()), None) => anyhow::bail!("the cache's settings are missing, and which was not told"),
    };
    let work = work(name, &caches, (children, arguments.get_flag("json")));
    tokio::select! {
        biased;
        signal = signals.next() => Ok(init::Exit::Signal(signal).shell_code()),
        done = work => done,
    }
}

fn caches_of(arguments: &ArgMatches, given: &mut Given<'_>) -> Option<Caches> {
    let store = arguments.get_one::<PathBuf>("store").cloned();
    let store = store.or_else(|| given.text("CACHE_STORE").map(PathBuf::from));
    let roots: Vec<PathBuf> = arguments
        .get_many("root")
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    let roots = if roots.is_empty() {
        config::roots(given)
    } else {
        let roots = Roots::of(
            roots
                .iter()
                .filter_map(|root| std::path::absolute(root).ok())
                .collect(),
        );
        roots
            .map_err(|expected| given.mistake("CACHE_ROOTS", &format!("--root must be {expected}")))
            .ok()
    };
    if store.is_none() {
        given.mistake("CACHE_STORE", "is missing; give --store");
    }
    Some(Caches {
        store: std::path::absolute(store?).ok()?,
        roots: roots?,
        owner: None,
    })
}

async fn work(
    name: &str,
    caches: &Caches,
    (children, json): (&Children, bool),
) -> anyhow::Result<u8> {
    let deadline = Deadline::within(LIMIT);
    let problems = match name {
        "restore" => {
            for root in caches.roots.all() {
                std::fs::create_dir_all(root)
                    .with_context(|| format!("cannot make {}", root.display()))?;
            }
            let restored = caches.restore(children, deadline).await;
            let (units, files, bytes) = (restored.units, restored.files, restored.bytes);
            say(
                json,
                &restored,
                &[format!(
                    "restored {units} units, {files} files, {bytes} bytes"
                )],
            )?;
            restored.problems
        }
        "publish" => {
            let published = caches
                .publish(children, &Condition::default(), deadline)
                .await;
            let mut lines: Vec<String> = published
                .units
                .iter()
                .map(|unit| format!("published {unit}"))
                .collect();
            let (units, files, bytes) = (published.units.len(), published.files, published.bytes);
            lines.push(format!(
                "published {units} units, {files} files, {bytes} bytes"
            ));
            say(json, &published, &lines)?;
            published.problems
        }
        _ => {
            let listed = caches.list(deadline).await?;
            let lines: Vec<String> = listed.iter().map(|one| one.unit.clone()).collect();
            say(json, &listed, &lines)?;
            Vec::new()
        }
    };
    for problem in &problems {
        tracing::error!("{problem}");
    }
    Ok(if problems.is_empty() {
        exit_code::DONE
    } else {
        exit_code::UNAVAILABLE
    })
}

fn say(json: bool, value: &impl Serialize, lines: &[String]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(value)?)?;
    } else {
        for line in lines {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
