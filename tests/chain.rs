//! End to end: the two containers of a task on a test host, with a real dockerd on a real XFS volume.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use chain::driver::{
    self, Case, Heard, LIMIT, STOP_TIMEOUT, data_root, end, healthy_dind, wait_until,
};
use chain::{ADDED_TOOL, Said, Stage, TaskOptions, everyday_job};

const CASES: [Case; 6] = [
    (
        "a_job_runs_and_nothing_of_the_task_is_left",
        a_job_runs_and_nothing_of_the_task_is_left,
    ),
    (
        "two_tasks_at_once_share_a_volume_and_nothing_else",
        two_tasks_at_once_share_a_volume_and_nothing_else,
    ),
    (
        "an_idle_runner_that_is_stopped_deregisters",
        an_idle_runner_that_is_stopped_deregisters,
    ),
    (
        "a_runner_that_is_told_twice_to_stop_deregisters",
        a_runner_that_is_told_twice_to_stop_deregisters,
    ),
    (
        "a_sidecar_that_was_killed_leaves_nothing_after_the_next_start",
        a_sidecar_that_was_killed_leaves_nothing_after_the_next_start,
    ),
    (
        "wrong_settings_are_reported_together_and_nothing_is_started",
        wrong_settings_are_reported_together_and_nothing_is_started,
    ),
];

fn main() -> ExitCode {
    driver::main("chain", &CASES)
}

fn registered(stage: &Stage, task: &str) -> Result<bool> {
    let runners = stage.github().runners(stage.host())?;
    Ok(runners.iter().any(|runner| runner.starts_with(task)))
}

/// Runs the everyday job on a task of its own whose runner only takes jobs for its label.
fn run_everyday_job(stage: &Stage, name: &str) -> Result<()> {
    let heard = Heard::default();
    let mut job = everyday_job("acme/widgets");
    job.runs_on = vec![name.into()];
    let job = stage.github().queue(stage.host(), &job)?;
    let task = stage.task(name, named(name), heard.listener())?;
    let dind = healthy_dind(&task)?;
    let mut runner = task.start_runner()?;
    let code = runner.wait(LIMIT)?;
    let conclusion = stage.github().conclusion(stage.host(), &job)?;
    ensure!(
        (code, conclusion.as_deref()) == (0, Some("succeeded")),
        "supervisor ended with {code}, the job as {conclusion:?}:{}",
        heard.transcript()
    );
    ensure!(!registered(stage, name)?, "the runner is still registered");
    runner.remove()?;
    end(dind, task, &heard)
}

/// The runner is named after the task and has its name as a label.
fn named(name: &str) -> TaskOptions {
    TaskOptions {
        runner: vec![
            format!("RUNNER_NAME_PREFIX={name}"),
            format!("RUNNER_LABELS={name}"),
            "ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT=1".into(),
        ],
        ..TaskOptions::default()
    }
}

fn a_job_runs_and_nothing_of_the_task_is_left(stage: &Stage) -> Result<()> {
    run_everyday_job(stage, "everyday")?;
    let store = stage.store_listing()?;
    ensure!(
        store.contains(ADDED_TOOL),
        "the job's tool is not in the store:\n{store}"
    );
    Ok(())
}

fn two_tasks_at_once_share_a_volume_and_nothing_else(stage: &Stage) -> Result<()> {
    std::thread::scope(|scope| {
        let tasks =
            ["first", "second"].map(|name| scope.spawn(move || run_everyday_job(stage, name)));
        for task in tasks {
            task.join()
                .map_err(|_| anyhow::anyhow!("a task panicked"))??;
        }
        Ok(())
    })
}

fn stop_idle_runner(stage: &Stage, name: &str, signals: &str) -> Result<()> {
    let heard = Heard::default();
    let task = stage.task(name, named(name), heard.listener())?;
    let dind = healthy_dind(&task)?;
    let mut runner = task.start_runner()?;
    heard.wait_for(
        "the listener listens",
        |line| matches!(&line.said, Said::Output(text) if text.ends_with("Listening for Jobs")),
    )?;
    ensure!(registered(stage, name)?, "an idle runner is not registered");
    // The container may end before Docker learns that the shell did, and then it tells of a kill.
    runner.exec(&["sh", "-c", signals]).ok();
    let code = runner.wait(STOP_TIMEOUT)?;
    ensure!(
        code == 0 || code == 143,
        "supervisor ended with {code}:{}",
        heard.transcript()
    );
    ensure!(
        !registered(stage, name)?,
        "still registered:{}",
        heard.transcript()
    );
    runner.remove()?;
    end(dind, task, &heard)
}

fn an_idle_runner_that_is_stopped_deregisters(stage: &Stage) -> Result<()> {
    stop_idle_runner(stage, "idle", "kill -TERM 1")
}

fn a_runner_that_is_told_twice_to_stop_deregisters(stage: &Stage) -> Result<()> {
    stop_idle_runner(stage, "hurried", "kill -TERM 1; kill -TERM 1")
}

fn a_sidecar_that_was_killed_leaves_nothing_after_the_next_start(stage: &Stage) -> Result<()> {
    let heard = Heard::default();
    let task = stage.task("killed", TaskOptions::default(), heard.listener())?;
    let mut dind = healthy_dind(&task)?;
    let root = data_root(stage, &dind)?;
    ensure!(
        stage.host().path(&root).is_dir(),
        "{root} is not on the volume"
    );
    dind.signal("KILL")?;
    dind.wait(LIMIT)?;
    dind.remove()?;
    ensure!(
        stage.host().path(&root).is_dir(),
        "nobody was there to remove {root}"
    );
    let next = healthy_dind(&task)?;
    wait_until("the orphan is reaped", || {
        Ok(!stage.host().path(&root).exists())
    })?;
    end(next, task, &heard)
}

fn wrong_settings_are_reported_together_and_nothing_is_started(stage: &Stage) -> Result<()> {
    let wrong = [
        "docker",
        "run",
        "--rm",
        "--env=ON_STOP=maybe",
        "--env=STOP_TIMEOUT=soon",
        "ecs-runner",
    ];
    let error = stage
        .host()
        .run(wrong)
        .err()
        .context("wrong settings were accepted")?;
    let text = format!("{error:#}");
    for name in ["GITHUB_URL", "ON_STOP", "STOP_TIMEOUT"] {
        ensure!(text.contains(name), "{name} is not named in: {text}");
    }
    Ok(())
}
