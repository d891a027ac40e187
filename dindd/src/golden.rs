//! The golden image store: its use by `dindd run`, and the commands `dindd golden …`.
//!
//! Owns what is told about a store, to people and to machines. What a store is, is the library
//! `golden`'s business.

mod build;
mod engine;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use ::golden::{Attached, Patience, Store};
use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use init::{Children, Signals, exit_code};
use serde::Serialize;
use serde_json::json;
use tracing::{error, info, warn};

use crate::cli;
use crate::config::{Engine, Settings};

/// The command.
pub(crate) const NAME: &str = "golden";

/// Attaches the current version of the store at `dir` to a fresh data-root, if that is possible.
/// If not, says why: the task starts without images then, and works.
pub(crate) fn attach(
    dir: &Path,
    data_root: &Path,
    (storage_driver, engine): (&str, &Engine),
) -> Option<Attached> {
    let begun = Instant::now();
    let attached =
        require_suitable(storage_driver, engine).and_then(|()| Store::at(dir).attach(data_root));
    match attached {
        Ok(attached) => {
            let manifest = attached.version().manifest();
            info!(
                version = attached.version().name(),
                images = manifest.images.len(),
                layers = manifest.layers.len(),
                elapsed_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
                "golden images are attached"
            );
            Some(attached)
        }
        Err(cause) => {
            warn!("the golden store is skipped, the task starts without its images: {cause:#}");
            None
        }
    }
}

/// Refuses an engine that would not look at what is attached.
fn require_suitable(storage_driver: &str, engine: &Engine) -> Result<()> {
    if storage_driver != ::golden::STORAGE_DRIVER {
        bail!(
            "it is for the storage driver {}, not {storage_driver}",
            ::golden::STORAGE_DRIVER
        );
    }
    if engine.remapped {
        bail!("its files have the owners of containers without DINDD_USERNS");
    }
    let arguments = engine.arguments.iter();
    if arguments
        .into_iter()
        .any(|argument| argument.ends_with("containerd-snapshotter=true"))
    {
        bail!(
            "the containerd image store, which DINDD_DOCKERD_ARGS asks for, has images of its own"
        );
    }
    Ok(())
}

/// The command line below `dindd golden`.
pub(crate) fn command(json: Arg) -> Command {
    let store = Arg::new("store")
        .long("store")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .global(true)
        .help("The store; DINDD_GOLDEN when it is not given.");
    Command::new(NAME)
        .about("Make and keep a store of images that every task of a host has from its start")
        .arg(store)
        .arg_required_else_help(true)
        .subcommand_required(true)
        .subcommands([
            build_command().arg(json.clone()),
            Command::new("ls")
                .about("List versions and their images")
                .arg(json.clone()),
            Command::new("verify")
                .about("Compare a store with its manifests, byte by byte; exit 0 when it is sound")
                .arg(version(
                    "Only this version; all of them when it is not given.",
                ))
                .arg(json.clone()),
            Command::new("gc")
                .about("Remove versions that are not current and that nobody uses")
                .args([
                    Arg::new("keep")
                        .long("keep")
                        .value_name("NUMBER")
                        .value_parser(value_parser!(usize))
                        .default_value("0")
                        .help("So many older versions stay, to go back to."),
                    Arg::new("wait")
                        .long("wait")
                        .action(ArgAction::SetTrue)
                        .help("Wait for versions in use until their last task is gone."),
                    json.clone(),
                ]),
            Command::new("mount")
                .about(
                    "Mount the current version on the host, so that its tasks share the page cache",
                )
                .arg(json.clone()),
            Command::new("use")
                .about("Make a version the current one: the way back")
                .args([version("The version.").required(true), json]),
        ])
}

fn build_command() -> Command {
    Command::new("build")
        .about("Make a new version from images and make it the current one")
        .after_help(
            "The new version has the named images and no others. References are pulled, through \
             DINDD_REGISTRY_MIRRORS; archives and data-roots need no network. What the current \
             version has already is neither pulled nor packed again. dockerd and mkfs.erofs \
             (erofs-utils) must be installed, and the store must be on a filesystem that can hold \
             overlay2 (XFS with ftype=1, ext4).",
        )
        .args([
            Arg::new("images")
                .num_args(0..)
                .value_name("IMAGE")
                .help("References to pull, for example debian:13."),
            Arg::new("archive")
                .long("archive")
                .action(ArgAction::Append)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("An archive that docker save has written; may be given several times."),
            Arg::new("data-root")
                .long("data-root")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with_all(["images", "archive"])
                .help("Take every tagged image of this data-root, whose dockerd is stopped."),
        ])
}

fn version(help: &'static str) -> Arg {
    Arg::new("version").value_name("VERSION").help(help)
}

/// `dindd golden …`; the code to exit with.
pub(crate) fn run(
    options: &ArgMatches,
    settings: &Settings,
    children: &Children,
    signals: Signals,
) -> u8 {
    let Some((name, options)) = options.subcommand() else {
        return exit_code::USAGE;
    };
    let Some(dir) = options.get_one("store").or(settings.golden.as_ref()) else {
        error!("which store? Give --store or DINDD_GOLDEN");
        return exit_code::USAGE;
    };
    let told = Told::of(options);
    let store = Store::at(dir);
    let done = match name {
        "build" => return build::run(store, options, settings, (children, signals)),
        "ls" => ls(&store, told),
        "verify" => verify(&store, options.get_one("version"), told),
        "gc" => gc(&store, options, told),
        "mount" => return cli::block_on(async { finish(mount(&store, children, told).await) }),
        _ => make_current(&store, options.get_one("version"), told),
    };
    finish(done)
}

/// The exit code for what a command has come to.
fn finish(done: Result<u8>) -> u8 {
    done.unwrap_or_else(|cause| {
        error!("{cause:#}");
        exit_code::UNAVAILABLE
    })
}

/// Who reads what a command has found.
#[derive(Clone, Copy, Debug)]
enum Told {
    People,
    Machines,
}

impl Told {
    fn of(options: &ArgMatches) -> Self {
        if options.get_flag("json") {
            Self::Machines
        } else {
            Self::People
        }
    }

    /// Writes `value`, or the `lines` that say the same.
    fn tell(self, value: &impl Serialize, lines: &[String]) -> Result<()> {
        let text = match self {
            Self::People => lines.join("\n"),
            Self::Machines => serde_json::to_string_pretty(value)?,
        };
        let mut out = io::stdout().lock();
        let newline = if text.is_empty() { "" } else { "\n" };
        write!(out, "{text}{newline}").context("cannot write to standard output")
    }
}

fn ls(store: &Store, told: Told) -> Result<u8> {
    store.require()?;
    let current = store.current().ok();
    let mut lines = Vec::new();
    let mut versions = Vec::new();
    for name in store.versions()? {
        let is_current = current.as_ref() == Some(&name);
        let in_use = store.is_in_use(&name)?;
        let mut marks = String::new();
        for (mark, holds) in [(" current", is_current), (" in use", in_use)] {
            marks.push_str(if holds { mark } else { "" });
        }
        match store.manifest(&name) {
            Ok(manifest) => {
                let bytes = manifest.bytes();
                lines.push(format!("{name}{marks}  {}", megabytes(bytes)));
                for image in &manifest.images {
                    lines.push(format!(
                        "  {:<40} {}  {} layers  {}",
                        image.references.join(" "),
                        image.id.get(7..19).unwrap_or(&image.id),
                        image.layers.len(),
                        megabytes(image.bytes)
                    ));
                }
                versions.push(json!({
                    "name": name, "current": is_current, "in_use": in_use, "bytes": bytes,
                    "manifest": manifest,
                }));
            }
            Err(cause) => {
                lines.push(format!("{name}{marks}  cannot be used: {cause:#}"));
                versions.push(json!({
                    "name": name, "current": is_current, "in_use": in_use,
                    "error": format!("{cause:#}"),
                }));
            }
        }
    }
    let value = json!({ "store": store.dir(), "current": current, "versions": versions });
    told.tell(&value, &lines)?;
    Ok(exit_code::DONE)
}

fn verify(store: &Store, only: Option<&String>, told: Told) -> Result<u8> {
    store.require()?;
    let versions = match only {
        Some(version) => vec![version.clone()],
        None => store.versions()?,
    };
    let mut lines = Vec::new();
    let mut verified = Vec::new();
    for version in versions {
        let one = store.verify(&version, &|line| info!("{line}"));
        let verdict = if one.is_sound() { "sound" } else { "DAMAGED" };
        lines.push(format!("{version}  {verdict}"));
        lines.extend(one.error.iter().map(|error| format!("  {error}")));
        for file in &one.files {
            let error = file.error.as_ref();
            lines.extend(error.map(|error| format!("  {}: {error}", file.file)));
        }
        verified.push(one);
    }
    // A store whose current version is missing serves nobody.
    let current = store
        .current()
        .and_then(|name| store.manifest(&name).map(|_| name));
    let trouble = current.as_ref().err().map(|cause| format!("{cause:#}"));
    lines.extend(trouble.clone());
    let sound = trouble.is_none() && verified.iter().all(::golden::Verified::is_sound);
    let value = json!({ "sound": sound, "error": trouble, "versions": verified });
    told.tell(&value, &lines)?;
    Ok(if sound {
        exit_code::DONE
    } else {
        exit_code::UNEXPECTED
    })
}

fn gc(store: &Store, options: &ArgMatches, told: Told) -> Result<u8> {
    let keep = options.get_one("keep").copied().unwrap_or(0);
    let patience = if options.get_flag("wait") {
        Patience::Endless
    } else {
        Patience::None
    };
    let lock = store.lock()?;
    let collected = store.collect(&lock, keep, patience)?;
    let mut lines = Vec::new();
    for (what, names) in [
        ("removed", &collected.removed),
        ("in use ", &collected.in_use),
        ("kept   ", &collected.kept),
    ] {
        lines.extend(names.iter().map(|name| format!("{what} {name}")));
    }
    lines.push(format!("{} freed", megabytes(collected.freed_bytes)));
    told.tell(&collected, &lines)?;
    Ok(exit_code::DONE)
}

async fn mount(store: &Store, children: &Children, told: Told) -> Result<u8> {
    let mounted = store.mount_current(children).await?;
    let lines: Vec<String> = mounted
        .iter()
        .map(|path| format!("mounted {}", path.display()))
        .collect();
    told.tell(&json!({ "mounted": mounted }), &lines)?;
    Ok(exit_code::DONE)
}

fn make_current(store: &Store, version: Option<&String>, told: Told) -> Result<u8> {
    let version = version.context("which version?")?;
    let _lock = store.lock()?;
    store.make_current(version)?;
    told.tell(
        &json!({ "current": version }),
        &[format!("current {version}")],
    )?;
    Ok(exit_code::DONE)
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_would_not_look_at_the_images_is_refused_with_the_reason() {
        let engine = |arguments: &[&str], remapped| {
            let command =
                init::settings::with_flags(Command::new("dindd"), crate::config::SETTINGS);
            let userns = if remapped { "on" } else { "off" };
            let words = [
                "dindd".to_owned(),
                format!("--userns={userns}"),
                format!("--dockerd-args={}", arguments.join(" ")),
            ];
            let flags = command.try_get_matches_from(words).unwrap();
            let environment = std::iter::empty::<(std::ffi::OsString, std::ffi::OsString)>();
            Settings::read(&flags, &environment.collect())
                .unwrap()
                .engine
        };
        let suitable = engine(&["--debug"], false);
        require_suitable("overlay2", &suitable).unwrap();
        for (driver, engine, reason) in [
            ("vfs", &suitable, "storage driver"),
            ("overlay2", &engine(&["--debug"], true), "DINDD_USERNS"),
            (
                "overlay2",
                &engine(&["--feature=containerd-snapshotter=true"], false),
                "containerd image store",
            ),
        ] {
            let error = require_suitable(driver, engine).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
