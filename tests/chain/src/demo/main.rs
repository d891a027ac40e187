//! `make demo`: one task and its one job, from nothing to nothing, on a test host.
//!
//! Owns the story and how it is shown. Leaves the machine as it was, also when it is interrupted
//! or a step fails; the cache folder and installed packages stay.

mod show;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chain::{ADDED_TOOL, KEPT_TOOL, Stage, Task, TaskOptions, everyday_job};

use show::Show;

/// How long the job may take.
const JOB_LIMIT: Duration = Duration::from_secs(300);
/// The sidecar's stopTimeout.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// 128 + SIGINT, as a shell has it.
const INTERRUPTED: u8 = 130;
/// The runner prints its job's output too, so that it can be seen here.
const SHOW_JOB: &str = "ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT=1";

/// What [`testhost::Leftovers`] looks for, in the words of a user.
const LOOKED_FOR: [&str; 4] = [
    "the task's directories on the XFS volume",
    "mounts, processes, network devices and cgroups of the task",
    "containers of the task, nested ones included",
    "loop devices, mounts, cgroups and processes of the test host",
];

fn main() -> ExitCode {
    testhost::reexec();
    let show = Arc::new(Show::default());
    match testhost::watch_signals()
        .context("watch signals")
        .and_then(|()| demo(&show))
    {
        Ok(()) => {
            show.summary();
            show.line("demo: ok");
            ExitCode::SUCCESS
        }
        Err(_) if testhost::interrupted() => {
            show.line("demo: interrupted; the host and everything in it are gone");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            show.failure();
            show.line(&format!("demo: failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn demo(show: &Arc<Show>) -> Result<()> {
    show.title("The test host: dockerd under cgroup v2 and an XFS volume, in namespaces");
    let begin = Instant::now();
    let disk = chain::prepare(&|step| show.line(&format!("  {step} …")))?;
    show.phase("host", "prepare the disk", begin.elapsed().as_millis());
    let stage = Stage::open(&disk, &|step, elapsed| show.phase("host", step, elapsed))?;
    one_task(&stage, show)?;
    let left = stage.close()?;
    ensure!(
        left.is_empty(),
        "the task is over, but not everything is gone:\n{left}"
    );
    for what in LOOKED_FOR {
        show.verified(&format!("gone: {what}"));
    }
    Ok(())
}

fn one_task(stage: &Stage, show: &Arc<Show>) -> Result<()> {
    let repository = "acme/widgets";
    let job = stage
        .github()
        .queue(stage.host(), &everyday_job(repository))?;
    let shown = Arc::clone(show);
    let options = TaskOptions {
        runner: vec![SHOW_JOB.into()],
        ..TaskOptions::default()
    };
    let task = stage.task("demo", options, move |line| shown.said(&line))?;

    show.title("The sidecar starts: dindd, with SYS_ADMIN and NET_ADMIN only");
    let begin = Instant::now();
    let mut dind = task.start_dind()?;
    task.wait_for_docker(&mut dind)?;
    show.phase(
        "task",
        "container start to healthy",
        begin.elapsed().as_millis(),
    );

    show.title("The runner starts, takes its job and goes");
    run_the_job(&task, show)?;
    let conclusion = stage.github().conclusion(stage.host(), &job)?;
    ensure!(
        conclusion.as_deref() == Some("succeeded"),
        "the job ended as {conclusion:?}"
    );
    verify_store_and_registration(stage, show)?;

    show.title("The sidecar is stopped");
    let begin = Instant::now();
    let code = dind.stop(STOP_TIMEOUT)?;
    show.phase(
        "task",
        "SIGTERM to the sidecar's end",
        begin.elapsed().as_millis(),
    );
    ensure!(code == 0, "dindd ended with {code}");
    dind.remove()?;
    task.remove()
}

fn run_the_job(task: &Task<'_>, show: &Show) -> Result<()> {
    let begin = Instant::now();
    let mut runner = task.start_runner()?;
    let code = runner.wait(JOB_LIMIT)?;
    show.phase(
        "task",
        "the runner's container, start to end",
        begin.elapsed().as_millis(),
    );
    ensure!(code == 0, "supervisor ended with {code}");
    runner.remove()
}

fn verify_store_and_registration(stage: &Stage, show: &Show) -> Result<()> {
    let store = stage.store_listing()?;
    for tool in [KEPT_TOOL, ADDED_TOOL] {
        ensure!(store.contains(tool), "{tool} is not in the store:\n{store}");
    }
    show.verified(&format!(
        "in the store: {KEPT_TOOL}, and {ADDED_TOOL} that the job added"
    ));
    let runners = stage.github().runners(stage.host())?;
    ensure!(
        runners.is_empty(),
        "still registered: {}",
        runners.join(", ")
    );
    show.verified("gone: the registration");
    Ok(())
}
