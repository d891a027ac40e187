//! The supervisor asks the sidecar whether it has the same directories, and each engine tells.

use anyhow::{Result, ensure};
use chain::driver::{Heard, LIMIT, Test, end, healthy_dind, wait_until};
use chain::{Engine, Said, Stage, TaskOptions};

type Case = (&'static str, fn(&Stage, Engine) -> Result<()>);

const CASES: [Case; 2] = [
    (
        "a_runner_starts_when_its_directories_are_the_sidecars",
        a_runner_starts_when_its_directories_are_the_sidecars,
    ),
    (
        "a_runner_with_a_directory_of_its_own_does_not_start",
        a_runner_with_a_directory_of_its_own_does_not_start,
    ),
];

/// Every case with every engine.
pub(crate) fn tests() -> impl Iterator<Item = Test> {
    Engine::ALL.into_iter().flat_map(|engine| {
        CASES.into_iter().map(move |(name, case)| {
            let name = format!("engine_{}::{name}", engine.version());
            Test::new(name, move |stage| case(stage, engine))
        })
    })
}

/// A runner that no job is for.
fn options(engine: Engine, runner: &[&str]) -> TaskOptions {
    let label = format!("RUNNER_LABELS=shared-{engine}").replace(' ', "-");
    let more = runner.iter().map(|&variable| variable.to_owned());
    TaskOptions {
        engine,
        runner: [label].into_iter().chain(more).collect(),
        ..TaskOptions::default()
    }
}

fn a_runner_starts_when_its_directories_are_the_sidecars(
    stage: &Stage,
    engine: Engine,
) -> Result<()> {
    let heard = Heard::default();
    let name = format!("same-{}", engine.suite());
    let task = stage.task(&name, options(engine, &[]), heard.listener())?;
    let dind = healthy_dind(&task)?;
    let mut runner = task.start_runner()?;
    heard.wait_for("the directories are compared", |line| {
        matches!(&line.said, Said::Phase { name, detail, .. }
            if name == "shared-directories"
                && detail == "/home/runner/_work, /home/runner/externals, /opt/hostedtoolcache")
    })?;
    heard.wait_for(
        "the listener listens",
        |line| matches!(&line.said, Said::Output(text) if text.ends_with("Listening for Jobs")),
    )?;
    let look = "docker ps --all --quiet; docker images --quiet; docker volume ls --quiet; \
        find /home/runner/_work /home/runner/externals /opt/hostedtoolcache -name '.seen-*'";
    let left = runner.exec(&[
        "env",
        "DOCKER_HOST=unix:///run/dind/docker.sock",
        "sh",
        "-c",
        look,
    ])?;
    ensure!(left.is_empty(), "asking left something: {left}");
    runner.stop(LIMIT)?;
    runner.remove()?;
    end(dind, task, &heard)
}

fn a_runner_with_a_directory_of_its_own_does_not_start(
    stage: &Stage,
    engine: Engine,
) -> Result<()> {
    let heard = Heard::default();
    // One that is in both containers, and one that is in the runner's alone.
    let own = [
        "CACHE_ROOTS=/var/tmp",
        "RUNNER_WORKDIR=/home/runner/own-work",
    ];
    let name = format!("own-{}", engine.suite());
    let task = stage.task(&name, options(engine, &own), heard.listener())?;
    let dind = healthy_dind(&task)?;
    let mut runner = task.start_runner()?;
    let code = runner.wait(LIMIT)?;
    ensure!(code == 69, "it ended with {code}:{}", heard.transcript());
    wait_until("the reason is told", || {
        Ok(heard
            .transcript()
            .contains("/home/runner/own-work, /var/tmp in this container"))
    })?;
    runner.remove()?;
    end(dind, task, &heard)
}
