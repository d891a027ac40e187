//! `make bench`: every claim about speed, cost and scale, measured beside what one would use
//! instead. README.md says how, and how to add a section.

mod along;
mod axis;
pub mod bench;
mod cache;
mod check;
mod container;
mod daemon;
mod dindd;
mod golden;
mod hot;
mod machine;
mod page;
pub mod plot;
pub mod programs;
mod record;
pub mod results;
mod runner;
pub mod sections;
pub mod selection;
mod size;
mod stage;
pub mod stats;
mod supervisor;
mod svg;
mod task;
mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};

use crate::bench::Bench;
use crate::results::{Results, SectionResults};
use crate::sections::SECTIONS;
use crate::selection::Selection;

/// Measures every claim side by side with what one would use instead.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures; writes target/bench/report.json and report.html
    Run {
        /// Sections, comparisons, or what several of them begin with, separated by commas
        #[arg(long, value_delimiter = ',', default_value = "")]
        only: Vec<String>,
        /// Also what is large or slow, with fewer rounds
        #[arg(long)]
        full: bool,
    },
    /// Compares the last run with the figures of record; fails when one got worse
    Check,
    /// Makes the last run the figures of record: docs/benchmarks/ and the README's lines
    Record,
    /// The sections
    List,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    testhost::reexec();
    match command(&Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn command(command: &Command) -> Result<()> {
    match command {
        Command::Run { only, full } => run(&Selection::of(only, *full)),
        Command::Check => check(),
        Command::Record => record::write(&last()?, &records(), &checkout("README.md")),
        Command::List => {
            for section in SECTIONS {
                writeln!(std::io::stdout(), "{:12} {}", section.name, section.title)?;
            }
            Ok(())
        }
    }
}

fn checkout(path: &str) -> PathBuf {
    programs::checkout().join(path)
}

fn records() -> PathBuf {
    checkout("docs/benchmarks")
}

fn output() -> PathBuf {
    checkout("target/bench")
}

fn run(selection: &Selection) -> Result<()> {
    let names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
    if let Some(unknown) = selection.unknown(&names) {
        bail!(
            "there is no section {unknown}; there are {}",
            names.join(", ")
        );
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the test host needs root: make bench uses sudo for it"
    );
    testhost::watch_signals()?;
    let begin = Instant::now();
    let mut results = Results {
        machine: machine::describe(),
        date: jiff::Zoned::now().date().to_string(),
        sections: Vec::new(),
    };
    for section in SECTIONS.iter().filter(|one| selection.wants(one.name)) {
        let mut bench = Bench::new((section.name, section.title), selection, begin);
        bench.say(section.title);
        let section_begin = Instant::now();
        let outcome = (section.run)(&mut bench);
        let done = bench.finish(outcome, section_begin.elapsed().as_secs_f64());
        results.sections.push(done);
        save(&results)?;
        ensure!(
            !testhost::interrupted(),
            "interrupted; what was measured is saved"
        );
    }
    let failed = results.sections.iter().filter(|one| one.failed.is_some());
    let failed: Vec<_> = failed.map(|one| one.name.as_str()).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    let page = output().join("report.html");
    writeln!(std::io::stderr(), "bench: done; see {}", page.display())?;
    Ok(())
}

fn save(results: &Results) -> Result<()> {
    let folder = output();
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let files = [
        ("results.json", serde_json::to_string(results)?),
        (
            "report.json",
            serde_json::to_string_pretty(&results.flat())? + "\n",
        ),
        ("report.html", page::html(results)?),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn last() -> Result<Results> {
    let path = output().join("results.json");
    let text = fs::read(&path)
        .with_context(|| format!("read {}; make bench writes it", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}

fn check() -> Result<()> {
    let results = last()?;
    let now: BTreeMap<_, _> = results
        .sections
        .iter()
        .flat_map(SectionResults::values)
        .collect();
    let record = record::values(&records())?;
    let compared = now.keys().filter(|name| record.contains_key(*name)).count();
    let findings = check::findings(&now, &record);
    let mut output = std::io::stdout();
    for finding in &findings {
        writeln!(output, "{finding}")?;
    }
    writeln!(output, "{compared} figures compared with their record")?;
    ensure!(findings.is_empty(), "{} of them fail", findings.len());
    Ok(())
}
