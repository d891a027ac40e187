//! A runner's container on the test host: with supervisor, or with a shell entrypoint of the usual
//! kind. Both have the same image, the same stand-in of the runner and the same double of GitHub.

use std::time::Duration;

use anyhow::Result;
use chain::Stage;
use github_double::JobSpec;

use crate::container::{Container, FOLDER};
use crate::programs;
use crate::stage::PEERS;

/// The one token that the double accepts, and the one repository that it knows.
const TOKEN: &str = "ghp_a_token_for_the_double_only";
pub(crate) const REPOSITORY: &str = "acme/widgets";
/// The runner's stand-in in the host.
const LISTENER: &str = "/run/bench/runner-listener";

/// Who is the first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Supervisor,
    Shell,
}

/// Brings the runner's stand-in into the host.
pub(crate) fn prepare(stage: &Stage) -> Result<()> {
    let program = programs::find("runner-listener")?;
    stage.host().bind(&program, LISTENER, true)
}

/// A runner's container that takes jobs for the label `name`; nothing runs yet. `more` are further
/// arguments of `docker create`.
pub(crate) fn create<'a>(
    stage: &'a Stage,
    kind: Kind,
    (name, more): (&str, &[String]),
) -> Result<Container<'a>> {
    let program: &[&str] = match kind {
        Kind::Supervisor => &["supervisor", "run"],
        Kind::Shell => &["/run/bench/peers/runner-entrypoint.sh"],
    };
    let mut words = arguments(stage, kind, name);
    words.extend_from_slice(more);
    words.extend(started_by(r#"exec "$@""#));
    words.extend(program.iter().map(|word| (*word).to_owned()));
    Container::create(stage, name, &words)
}

/// The variables and volumes of both kinds.
pub(crate) fn arguments(stage: &Stage, kind: Kind, name: &str) -> Vec<String> {
    let url = stage.github().repository_url();
    let base = url.strip_suffix(REPOSITORY).unwrap_or(&url);
    let bin = "/home/runner/bin/Runner.Listener";
    let mut words = vec![
        format!("--volume={PEERS}/listener.sh:{bin}:ro"),
        format!("--volume={LISTENER}:{bin}.real:ro"),
        format!("--volume={PEERS}:{PEERS}:ro"),
        "--env=ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT=1".into(),
        "--entrypoint=/bin/sh".into(),
    ];
    words.extend(match kind {
        Kind::Supervisor => vec![
            format!("--env=GITHUB_URL={url}"),
            format!("--env=GITHUB_PAT={TOKEN}"),
            format!("--env=RUNNER_LABELS={name}"),
            "--env=LOG_FORMAT=json".into(),
        ],
        Kind::Shell => vec![
            "--user=runner".into(),
            format!("--env=REPO_URL={url}"),
            format!("--env=API_URL={base}api/v3"),
            format!("--env=REPOSITORY={REPOSITORY}"),
            format!("--env=ACCESS_TOKEN={TOKEN}"),
            format!("--env=LABELS={name}"),
        ],
    });
    words
}

/// The image, and a shell that notes when it was started and goes on with `script`; its arguments
/// follow.
pub(crate) fn started_by(script: &str) -> [String; 4] {
    let script = format!("date +%s.%N >{FOLDER}/start; {script}");
    ["ecs-runner".into(), "-c".into(), script, "sh".into()]
}

/// Waits until the runner is idle.
pub(crate) fn wait_idle(runner: &Container<'_>) -> Result<()> {
    let idle = || {
        runner
            .whole_log()
            .is_ok_and(|log| log.contains("Listening for Jobs"))
    };
    runner.wait_until("the runner is idle", (Duration::from_millis(100), idle))
}

/// Queues a job of `steps` for the runner of that name.
pub(crate) fn queue(stage: &Stage, name: &str, steps: &[&str]) -> Result<String> {
    let mut job = JobSpec::new(REPOSITORY, "measured");
    for (number, step) in steps.iter().enumerate() {
        job = job.step(&format!("step {number}"), step);
    }
    job.runs_on = vec![name.into()];
    stage.github().queue(stage.host(), &job)
}
