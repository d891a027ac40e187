//! `make images` without a registry: builds the images of a task on a test host, from a base image
//! made by debootstrap, and leaves them in `target/images/` as tar files for `docker load`.
//!
//! `RUNNER_FOLDER` names a folder with an unpacked actions/runner as `runner/`. Without it the runner
//! is the tests' stand-in, which runs no real job.
#![expect(
    clippy::disallowed_methods,
    reason = "a tool for developers, not a PID 1 with settings"
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use chain::Stage;

#[path = "../stack/build.rs"]
mod build;

/// Where the host has the folder that the images are saved to.
const SAVED: &str = "/run/stack/saved";

fn main() -> ExitCode {
    testhost::reexec();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("images: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    testhost::watch_signals()?;
    let disk = testhost::prepare(&chain::plan(), &tell)?;
    let stage = Stage::open(&disk, &|step, elapsed| {
        tell(&format!("{step}: {elapsed} ms"));
    })?;
    let saved = save_all(&stage);
    stage.close()?;
    saved
}

fn save_all(stage: &Stage) -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let runner = variable("RUNNER_FOLDER");
    if runner.is_none() {
        tell("the runner is the tests' stand-in; RUNNER_FOLDER names a real one");
    }
    let arguments: Vec<String> = ["REVISION", "CREATED"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", variable(name)?)))
        .collect();
    build::build(stage, runner.as_deref().map(Path::new), &arguments)?;
    let folder = build::top().join("target/images");
    stage.host().bind(&folder, SAVED, false)?;
    let mut sizes = BTreeMap::new();
    for image in &build::TASK_IMAGES {
        let name = format!("{}.tar", image.tag.replace(':', "-"));
        let file = format!("--output={SAVED}/{name}");
        stage.host().run(["docker", "save", &file, image.tag])?;
        let size = size(stage, image.tag)?;
        tell(&format!(
            "{}: {} MB, {}",
            image.tag,
            size / 1_000_000,
            folder.join(name).display()
        ));
        sizes.insert(image.tag, size);
    }
    let sizes = serde_json::to_string_pretty(&sizes).context("the sizes as JSON")?;
    let path = folder.join("sizes.json");
    std::fs::write(&path, sizes).with_context(|| format!("write {}", path.display()))
}

/// The bytes of an image, as `docker image ls` tells them.
fn size(stage: &Stage, tag: &str) -> Result<u64> {
    let size = ["docker", "image", "inspect", "--format={{.Size}}", tag];
    let size = stage.host().run(size)?;
    size.trim()
        .parse()
        .with_context(|| format!("the size of {tag}"))
}

fn tell(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
