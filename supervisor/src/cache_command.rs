//! `supervisor cache`: the caches alone, by hand or from a job that fills the store.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::caches::Rules;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use init::settings::{Environment, Given};
use init::{Children, Deadline, Signals, exit_code};
use serde::Serialize;

use crate::caches::{Caches, Condition, Kept, table};
use crate::cli;
use crate::config::{self, CacheMode, CachePublish, Roots};

/// The operator waits, and can interrupt.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
const DAY: u64 = 24 * 3600;

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
        .subcommand(
            one("publish", "What is new locally to the store")
                .arg(flag("dry-run", "Only tells what would be published")),
        )
        .subcommand(one(
            "ls",
            "The tools in the store: their files, size and age, and when a restore last used them",
        ))
        .subcommand(
            one(
                "verify",
                "Compares every tool in the store with its checksums",
            )
            .arg(flag("keep", "Leaves damaged ones where they are")),
        )
        .subcommand(prune_command(one(
            "prune",
            "Removes what is old and what killed publishers left; safe at any time",
        )))
}

/// What `prune` takes besides.
fn prune_command(command: Command) -> Command {
    let days = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("DAYS")
            .value_parser(value_parser!(u64))
            .help(help)
    };
    let grace = Arg::new("grace")
        .long("grace")
        .value_name("SECONDS")
        .value_parser(value_parser!(u64))
        .default_value("7200")
        .help("Longer than any restore or publication: what may be in use until then is kept");
    let size = Arg::new("max-size")
        .long("max-size")
        .value_name("SIZE")
        .value_parser(parse_size)
        .help("Removes the least recently used tools until the rest is no larger, as 20G");
    command
        .arg(days(
            "unused",
            "Removes tools that no restore has used for so long",
        ))
        .arg(days(
            "older",
            "Removes tools that were published so long ago",
        ))
        .args([size, grace])
        .arg(flag("dry-run", "Only tells what would be removed"))
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// A number of bytes: `500M`, `20G`, `1048576`.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let factor: u64 = match text[digits.len()..]
        .trim_end_matches('B')
        .trim_end_matches('i')
    {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err("a size is a number with K, M, G or T behind it".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a size begins with a number".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "that is too much".to_owned())
}

/// Runs the command; a signal ends it at once, because nothing half-done is ever visible.
pub(crate) async fn run(
    arguments: &ArgMatches,
    (mut given, environment): (Given<'_>, &Environment),
    children: &Children,
    signals: &mut Signals,
) -> anyhow::Result<u8> {
    let Some((name, arguments)) = arguments.subcommand() else {
        unreachable!("clap requires one");
    };
    let publish = publish_policy(&mut given);
    let caches = caches_of(arguments, &mut given);
    let kept = kept(&mut given, environment);
    let caches = match (given.finish(), caches.zip(publish)) {
        (Ok(()), Some(caches)) => caches,
        (Err(mistakes), _) => return Ok(cli::refuse(&mistakes)),
        (Ok(()), None) => anyhow::bail!("the cache's settings are missing, and which was not told"),
    };
    let (caches, publish) = caches;
    if name == "publish" && publish == CachePublish::Off {
        tracing::info!("CACHE_PUBLISH is off: nothing is published");
        return Ok(exit_code::DONE);
    }
    let dry_run = publish == CachePublish::Report;
    let kept = kept.as_ref();
    let work = work((name, arguments), (&caches, dry_run, kept), children);
    tokio::select! {
        biased;
        signal = signals.next() => Ok(init::Exit::Signal(signal).shell_code()),
        done = work => done,
    }
}

/// By hand everything is published, unless the operator's settings say otherwise. Without a job,
/// nothing is there that could be distrusted.
fn publish_policy(given: &mut Given<'_>) -> Option<CachePublish> {
    if given.is_given("CACHE_PUBLISH") {
        given.parsed("CACHE_PUBLISH")
    } else {
        Some(CachePublish::All)
    }
}

/// Where a restore keeps what it found out: with the state, or with what else is ours alone.
fn kept(given: &mut Given<'_>, environment: &Environment) -> Option<Kept> {
    const STATE: &str = "SUPERVISOR_STATE_FILE";
    let directory = if given.is_given(STATE) || nix::unistd::geteuid().is_root() {
        config::state_file(given)?.parent()?.to_owned()
    } else {
        let home = || {
            environment
                .get("HOME")
                .map(|home| Path::new(home).join(".local/state"))
        };
        let state = environment.get("XDG_STATE_HOME").map(PathBuf::from);
        state.or_else(home)?.join("supervisor")
    };
    Some(Kept::in_directory(directory.join("caches")))
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
    let (store, roots) = (std::path::absolute(store?).ok()?, roots?);
    let exclude = config::words(given, "CACHE_EXCLUDE");
    let settings = config::Caches {
        place: ::caches::Caches {
            store,
            roots: roots
                .all()
                .map(|path| config::root(path, &exclude, &[]))
                .collect(),
        },
        first: Vec::new(),
        mode: given
            .parsed::<CacheMode>("CACHE_MODE")
            .unwrap_or(CacheMode::ReadWrite),
        publish: CachePublish::All,
        restore_timeout: LIMIT,
        publish_timeout: LIMIT,
    };
    Some(Caches::new(&settings, None))
}

/// What is told at the end: for machines, for people, and what went wrong.
struct Told {
    value: serde_json::Value,
    lines: Vec<String>,
    problems: Vec<String>,
}

impl Told {
    fn new(
        value: &impl Serialize,
        lines: Vec<String>,
        problems: Vec<String>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            value: serde_json::to_value(value)?,
            lines,
            problems,
        })
    }
}

async fn work(
    (name, arguments): (&str, &ArgMatches),
    (caches, dry_run, kept): (&Caches, bool, Option<&Kept>),
    children: &Children,
) -> anyhow::Result<u8> {
    let deadline = Deadline::within(LIMIT);
    let remembering = |act: &dyn Fn(&Kept) -> anyhow::Result<()>| {
        if let Some(Err(error)) = kept.map(act) {
            tracing::warn!("a publication will ask the store for what it has: {error:#}");
        }
    };
    // What an old restore found out is not so any more.
    if matches!(name, "restore" | "verify" | "prune") {
        remembering(&|kept| caches.forget(kept));
    }
    let told = match name {
        "restore" => {
            let told = restore(caches, children, deadline).await?;
            remembering(&|kept| caches.keep(kept));
            told
        }
        "publish" => {
            remembering(&|kept| caches.recall(kept));
            let dry_run = dry_run || arguments.get_flag("dry-run");
            publish(caches, (children, dry_run), deadline).await?
        }
        _ => match keep_house((name, arguments), caches, (children, deadline)).await {
            Ok(told) => told,
            // The store is what cannot be had.
            Err(error) => {
                tracing::error!("{error:#}");
                return Ok(exit_code::UNAVAILABLE);
            }
        },
    };
    say(arguments.get_flag("json"), &told.value, &told.lines)?;
    for problem in &told.problems {
        tracing::error!("{problem}");
    }
    Ok(if told.problems.is_empty() {
        exit_code::DONE
    } else {
        exit_code::UNAVAILABLE
    })
}

async fn keep_house(
    (name, arguments): (&str, &ArgMatches),
    caches: &Caches,
    (children, deadline): (&Children, Deadline),
) -> anyhow::Result<Told> {
    match name {
        "verify" => verify(caches, (children, arguments.get_flag("keep")), deadline).await,
        "prune" => prune(caches, (children, arguments), deadline).await,
        _ => {
            let listed = caches.list(children, deadline).await?;
            let lines = table(&listed, std::time::SystemTime::now());
            Told::new(&listed, lines, Vec::new())
        }
    }
}

async fn restore(caches: &Caches, children: &Children, deadline: Deadline) -> anyhow::Result<Told> {
    let restored = caches.restore(children, deadline).await;
    let (units, files, bytes) = (restored.units, restored.files, restored.bytes);
    let line = format!("restored {units} units, {files} files, {bytes} bytes");
    Told::new(&restored, vec![line], restored.problems.clone())
}

async fn publish(
    caches: &Caches,
    (children, dry_run): (&Children, bool),
    deadline: Deadline,
) -> anyhow::Result<Told> {
    let condition = Condition {
        dry_run,
        ..Condition::default()
    };
    let published = caches.publish(children, &condition, deadline).await;
    let verb = if dry_run {
        "would publish"
    } else {
        "published"
    };
    let mut lines: Vec<String> = published
        .units
        .iter()
        .map(|unit| format!("{verb} {unit}"))
        .collect();
    let (units, files, bytes) = (published.units.len(), published.files, published.bytes);
    lines.push(format!(
        "{verb} {units} units, {files} files, {bytes} bytes"
    ));
    Told::new(&published, lines, published.problems.clone())
}

async fn verify(
    caches: &Caches,
    (children, keep): (&Children, bool),
    deadline: Deadline,
) -> anyhow::Result<Told> {
    let verified = caches.verify(children, keep, deadline).await?;
    let line = format!("{} units are as they were published", verified.units.len());
    let now = if keep {
        "and stays where it is"
    } else {
        "and lies in the store's quarantine now"
    };
    let damaged = verified
        .damaged
        .iter()
        .map(|unit| format!("{unit} is damaged, {now}"));
    let problems = damaged.chain(verified.problems.iter().cloned()).collect();
    Told::new(&verified, vec![line], problems)
}

async fn prune(
    caches: &Caches,
    (children, arguments): (&Children, &ArgMatches),
    deadline: Deadline,
) -> anyhow::Result<Told> {
    let number = |name: &str| arguments.get_one::<u64>(name).copied();
    let days = |name: &str| number(name).map(|days| Duration::from_secs(days * DAY));
    let rules = Rules {
        unused: days("unused"),
        older: days("older"),
        max_bytes: number("max-size"),
        grace: Duration::from_secs(number("grace").unwrap_or_default()),
        dry_run: arguments.get_flag("dry-run"),
    };
    let pruned = caches.prune(children, rules.clone(), deadline).await?;
    let verb = if rules.dry_run {
        "would prune"
    } else {
        "pruned"
    };
    let mut lines: Vec<String> = pruned
        .units
        .iter()
        .zip(&pruned.why)
        .map(|(unit, why)| format!("{verb} {unit}: {why}"))
        .collect();
    lines.push(format!(
        "{verb} {} units, {} bytes, and {} leftovers",
        pruned.units.len(),
        pruned.bytes,
        pruned.leftovers
    ));
    Told::new(&pruned, lines, pruned.problems.clone())
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
