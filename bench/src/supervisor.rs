//! The runner's container without Docker: supervisor against a shell entrypoint of the usual kind.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};
use chain::Stage;

use crate::bench::{Bench, Comparison, Measure};
use crate::container::{Container, FOLDER};
use crate::plot::Plot;
use crate::results::{Compared, Unit};
use crate::runner::{self, Kind};
use crate::sections::Section;
use crate::stats::Summary;

pub(crate) const SECTION: Section = Section {
    name: "supervisor",
    title: "Runner's first process",
    run,
};

const OURS: &str = "supervisor";
const SHELL: &str = "bash: curl, jq, config.sh, trap";

/// The phases that run at the same time before the registration.
const PARALLEL: [&str; 5] = [
    "cache-restore",
    "github-credentials",
    "version-check",
    "docker-wait",
    "externals",
];

/// Bytes of a line of the flood, and lines of the file that is printed sixteen times: 1 GiB.
const LINE: usize = 128;
const LINES: usize = (64 << 20) / LINE;
const REPEATED: usize = 16;
const MIB: f64 = 1_048_576.0;

fn run(bench: &mut Bench<'_>) -> Result<()> {
    let stage = crate::stage::open(bench)?;
    runner::prepare(&stage)?;
    let outcome = life(bench, &stage)
        .and_then(|()| log(bench, &stage))
        .and_then(|()| memory(bench, &stage))
        .and_then(|()| images(bench, &stage));
    outcome.and(crate::stage::close(stage))
}

fn life(bench: &mut Bench<'_>, stage: &Stage) -> Result<()> {
    let beyond = RefCell::new(Vec::new());
    let ours: Measure<'_> = Box::new(|| {
        let (took, runner) = start(stage, Kind::Supervisor)?;
        beyond.borrow_mut().push(took - waited(&runner)?);
        Ok(took)
    });
    let what = "process start to the listener's exec, registered";
    let started = Comparison::new("supervisor_start", what, Unit::Ms, (OURS, ours)).peer(
        "shell",
        SHELL,
        || Ok(start(stage, Kind::Shell)?.0),
    );
    let started = bench.compare(started)?;
    if let Some(beyond) = Summary::of(&beyond.borrow()) {
        let name = "supervisor_start_beyond_longest_step";
        let what =
            "supervisor: process start to the listener's exec, less its longest parallel step";
        bench.figure((name, what), Unit::Ms, beyond.median, Some(30.0))?;
    }
    let what = "SIGTERM to an idle runner until it is deregistered and gone";
    let ours: Measure<'_> = Box::new(|| stop(stage, Kind::Supervisor));
    let stopped = Comparison::new("supervisor_stop", what, Unit::Ms, (OURS, ours)).peer(
        "shell",
        SHELL,
        || stop(stage, Kind::Shell),
    );
    let stopped = bench.compare(stopped)?;
    let parts = [("start to listener", started), ("SIGTERM to gone", stopped)];
    let parts = parts
        .iter()
        .filter_map(|(heading, compared)| Some((*heading, compared.as_ref()?)));
    bench.plot(Plot::bars(
        (
            "supervisor_life",
            "Start and end of a runner",
            "supervisor asks GitHub itself and registers with one call; a shell starts a program \
             for each thing it does.",
        ),
        parts.collect::<Vec<(&str, &Compared)>>(),
    ));
    Ok(())
}

/// From the start of the first process to the listener's exec.
fn start(stage: &Stage, kind: Kind) -> Result<(f64, Container<'_>)> {
    let runner = runner::create(stage, kind, ("start", &[]))?;
    runner.start()?;
    let executed = runner.stamp("exec")?;
    let took = (executed - runner.stamp("start")?) * 1000.0;
    Ok((took, runner))
}

/// What supervisor waits for at least, by its own log: the longest of the steps that run at the same
/// time, and GitHub's answer to the registration, for which GitHub makes a key.
fn waited(runner: &Container<'_>) -> Result<f64> {
    let log = runner.whole_log()?;
    let mut longest: f64 = 0.0;
    let mut register = None;
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let (Some(phase), Some(elapsed)) = (event["phase"].as_str(), event["elapsed_ms"].as_f64())
        else {
            continue;
        };
        if PARALLEL.contains(&phase) {
            longest = longest.max(elapsed);
        } else if phase == "register" {
            register = Some(elapsed);
        }
    }
    Ok(longest + register.context("supervisor does not tell of the registration")?)
}

fn stop(stage: &Stage, kind: Kind) -> Result<f64> {
    // Those of the measured starts, which were killed.
    let before = stage.github().runners(stage.host())?;
    let runner = runner::create(stage, kind, ("stop", &[]))?;
    runner.start()?;
    runner::wait_idle(&runner)?;
    let sent = runner.terminate()?;
    let ended = runner.end(&["0", "143"])?;
    let mut left = stage.github().runners(stage.host())?;
    left.retain(|name| !before.contains(name));
    ensure!(left.is_empty(), "still registered: {}", left.join(", "));
    Ok((ended - sent) * 1000.0)
}

fn log(bench: &mut Bench<'_>, stage: &Stage) -> Result<()> {
    let what = "a job prints 1 GiB of log, and no line is lost";
    let ours: Measure<'_> = Box::new(|| flood(stage, "supervisor run"));
    let comparison = Comparison::new("supervisor_log", what, Unit::Ms, (OURS, ours))
        .peer("cat", "cat", || {
            flood(stage, "/home/runner/bin/Runner.Listener run | cat")
        })
        .promise(1.3);
    if let Some(compared) = bench.compare(comparison)? {
        bench.plot(Plot::bars(
            (
                "supervisor_log",
                "A job that prints 1 GiB",
                "supervisor reads every line of the listener and passes it on; cat only copies.",
            ),
            [(what, &compared)],
        ));
    }
    Ok(())
}

/// How long a listener takes to print 1 GiB, when `through` stands between it and the reader.
fn flood(stage: &Stage, through: &str) -> Result<f64> {
    let mut words = runner::arguments(stage, Kind::Supervisor, "flood");
    words.push(format!("--env=FLOOD={FOLDER}/text"));
    let count =
        format!("{through} | LC_ALL=C grep -c '^flood' >{FOLDER}/count; date +%s.%N >{FOLDER}/end");
    words.extend(runner::started_by(&count));
    let container = Container::create(stage, "flood", &words)?;
    let mut text = String::with_capacity(LINE * LINES);
    for line in 0..LINES {
        writeln!(text, "flood {line:0>width$}", width = LINE - 7)?;
    }
    fs::write(container.file("text"), text)?;
    container.start()?;
    container.stamp("end")?;
    let count = fs::read_to_string(container.file("count"))?;
    let expected = LINES * REPEATED;
    ensure!(
        count.trim() == expected.to_string(),
        "{} of {expected} lines came through: {}",
        count.trim(),
        container.log()
    );
    Ok((container.stamp("flood-end")? - container.stamp("flood-begin")?) * 1000.0)
}

fn memory(bench: &mut Bench<'_>, stage: &Stage) -> Result<()> {
    let kinds = [
        (
            Kind::Supervisor,
            "supervisor_memory",
            "supervisor",
            Some(12.0 * MIB),
        ),
        (
            Kind::Shell,
            "supervisor_memory_shell",
            "the shell alone",
            None,
        ),
    ];
    for (kind, name, who, promised) in kinds {
        if bench.wants(name) {
            let what = format!("memory at its peak over a job that prints: {who}");
            let peak = peak_memory(stage, kind)?;
            bench.figure((name, &what), Unit::Bytes, peak, promised)?;
        }
    }
    Ok(())
}

/// Of the first process, in the last step of a job.
fn peak_memory(stage: &Stage, kind: Kind) -> Result<f64> {
    let runner = runner::create(stage, kind, ("memory", &[]))?;
    let wait = format!("date +%s.%N >{FOLDER}/step; until test -e {FOLDER}/go; do sleep 0.1; done");
    runner::queue(stage, "memory", &["seq 1 300000", &wait])?;
    runner.start()?;
    runner.stamp("step")?;
    let peak = runner.peak_memory()?;
    fs::write(runner.file("go"), "")?;
    runner.end(&["0"])?;
    Ok(peak)
}

fn images(bench: &mut Bench<'_>, stage: &Stage) -> Result<()> {
    for (image, what) in [
        ("ecs-dind", "the image ecs-dind"),
        (
            "ecs-runner",
            "the image ecs-runner, with the stand-in for the runner",
        ),
    ] {
        let words = ["docker", "image", "inspect", "--format", "{{.Size}}", image];
        let size: f64 = stage.host().run(words)?.trim().parse()?;
        let name = format!("supervisor_image_{}", image.replace('-', "_"));
        bench.figure((&name, what), Unit::Bytes, size, None)?;
    }
    Ok(())
}
