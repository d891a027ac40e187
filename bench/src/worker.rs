//! `supervisor cache-worker`, started as supervisor starts it before and after a job: with a request
//! and a memory on its standard input.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use caches::request::{Act, Line, Request, send};
use caches::{Caches, Condition, Event, Order, Root};

use crate::programs;

/// Longer than any measurement.
const MILLISECONDS: u64 = 3_600_000;

/// What a restore leaves for the publication after it.
#[derive(Debug)]
pub(crate) struct Before {
    condition: Condition,
    memory: File,
}

/// The program, with nothing of our environment but where rsync is.
pub(crate) fn command() -> Result<Command> {
    let mut command = Command::new(programs::find("supervisor")?);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(command)
}

/// A store and the directories that it is restored to, the tool cache first.
pub(crate) fn caches(store: &Path, roots: &[PathBuf]) -> Caches {
    let root = |path: &PathBuf| Root {
        path: path.clone(),
        read_only: false,
        exclude: Vec::new(),
    };
    Caches {
        store: store.to_owned(),
        roots: roots.iter().map(root).collect(),
    }
}

pub(crate) fn restore(command: Command, caches: &Caches) -> Result<Before> {
    let act = Act::Restore(Order {
        first: Vec::new(),
        read_only: false,
    });
    let (events, memory) = work(command, (caches, act), None)?;
    let mut condition = Condition::default();
    for event in events {
        if let Event::Known(known) = event {
            condition.known.extend(known);
        }
    }
    Ok(Before { condition, memory })
}

pub(crate) fn publish(command: Command, caches: &Caches, before: &Before) -> Result<()> {
    let act = Act::Publish(before.condition.clone());
    work(command, (caches, act), Some(&before.memory)).map(drop)
}

/// Lets it work; its events, and the file in which it leaves what it remembers.
fn work(
    mut command: Command,
    (caches, act): (&Caches, Act),
    memory: Option<&File>,
) -> Result<(Vec<Event>, File)> {
    let request = Request {
        caches: caches.clone(),
        milliseconds: MILLISECONDS,
        act,
    };
    let stdin = send(&request, memory)?;
    command.arg("cache-worker").stdin(stdin.try_clone()?);
    let told = programs::output_with(&mut command)?;
    let mut events = Vec::new();
    let mut done = None;
    for line in told.lines() {
        let line = serde_json::from_str(line).with_context(|| format!("a worker said {line}"))?;
        match line {
            Line::Progress(_) => {}
            Line::Event(event) => events.push(event),
            Line::Done(value) => done = Some(value),
            Line::Failed(reason) => bail!("a worker failed: {reason}"),
        }
    }
    let done: serde_json::Value = serde_json::from_str(&done.context("a worker fell silent")?)?;
    let problems = done["problems"].as_array().map_or(0, Vec::len);
    ensure!(problems == 0, "a worker had problems: {done}");
    Ok((events, stdin))
}
