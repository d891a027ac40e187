//! `RUNNER_SUDO`: a job becomes root where the operator says so, and that root gets no credentials.

use anyhow::{Result, ensure};
use chain::Stage;
use chain::driver::Case;
use github_double::JobSpec;

use crate::project::lay_out;

pub(crate) const CASES: [Case; 3] = [
    (
        "a_job_becomes_root_by_sudo_only_where_the_operator_says_so",
        a_job_becomes_root_by_sudo_only_where_the_operator_says_so,
    ),
    (
        "a_job_that_is_root_cannot_reach_the_credentials",
        a_job_that_is_root_cannot_reach_the_credentials,
    ),
    (
        "nothing_is_started_in_a_runner_from_outside_by_its_image",
        nothing_is_started_in_a_runner_from_outside_by_its_image,
    ),
];

const TOKEN: &str = "ghp_a_token_for_the_double_only";

/// One job in a container with Docker's default capabilities; what the container said.
fn run(stage: &Stage, name: &str, step: &str, options: &str) -> Result<String> {
    let mut job = JobSpec::new("acme/widgets", name).step("Be root", step);
    job.runs_on = vec![name.to_owned()];
    let job = stage.github().queue(stage.host(), &job)?;
    let url = stage.github().repository_url();
    let line = format!(
        "docker run --rm --env=GITHUB_URL={url} --env=GITHUB_PAT={TOKEN} --env=RUNNER_LABELS={name} \
         --env=ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT=1 {options} ecs-runner:fargate 2>&1"
    );
    let said = stage.host().run(["sh", "-c", &line])?;
    let conclusion = stage.github().conclusion(stage.host(), &job)?;
    ensure!(
        conclusion.as_deref() == Some("succeeded"),
        "{name} ended as {conclusion:?}:\n{said}"
    );
    Ok(said)
}

fn a_job_becomes_root_by_sudo_only_where_the_operator_says_so(stage: &Stage) -> Result<()> {
    const STEP: &str = "if [ \"$(sudo --non-interactive id -u 2>/dev/null)\" = 0 ]; \
         then echo it is root; else echo it is refused; fi";
    lay_out(stage)?;
    for (setting, expected) in [("off", "refused"), ("on", "root")] {
        let name = format!("sudo-{setting}");
        let said = run(stage, &name, STEP, &format!("--env=RUNNER_SUDO={setting}"))?;
        ensure!(said.contains(&format!("it is {expected}")), "{said}");
    }
    Ok(())
}

/// Looks everywhere as root, and leaves spies in place of the programs that are started later.
const INTRUDER: &str = include_str!("intruder.sh");

fn a_job_that_is_root_cannot_reach_the_credentials(stage: &Stage) -> Result<()> {
    const LOOT: &str = "/run/stack/loot";
    lay_out(stage)?;
    let host = stage.host();
    let folders = format!("mkdir -p {LOOT} /run/stack/sudo-store && chmod 1777 {LOOT}");
    host.run(["sh", "-c", &folders])?;
    let step = format!("sudo --non-interactive bash -u <<'END'\n{INTRUDER}\nEND\n");
    let said = run(
        stage,
        "intruder",
        &step,
        &format!(
            "--env=RUNNER_SUDO=on --env=LOG_LEVEL=debug --env=CACHE_STORE=/cache \
             --env=CACHE_ROOTS=/opt/hostedtoolcache:/home/runner/pip --env=CACHE_PUBLISH=all \
             --env=AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/of-the-role \
             --volume={LOOT}:/loot --volume=/run/stack/sudo-store:/cache"
        ),
    )?;
    let loot = host.run(["sh", "-c", &format!("cat {LOOT}/*")])?;
    for (proof, place) in [
        ("the intruder is root", &said),
        ("environ: SUDO_USER=runner", &said),
        ("PID 1 keeps its mem", &said),
        ("PID 1 keeps its environ", &said),
        ("PID 1 cannot be traced", &said),
        ("the intruder has looked", &said),
        ("spied on rsync", &loot),
    ] {
        ensure!(
            place.contains(proof),
            "{proof:?} is not in:\n{said}\n{loot}"
        );
    }
    for secret in [TOKEN, "of-the-role"] {
        ensure!(!said.contains(secret), "{secret} is in:\n{said}");
        ensure!(
            !loot.contains(secret),
            "{secret} was found by a spy:\n{loot}"
        );
    }
    ensure!(!said.contains("PID 1 opens"), "{said}");
    // What we cannot prevent, the operator is told.
    ensure!(
        said.contains("health check, ECS Exec, docker exec) has GITHUB_PAT in its environment"),
        "{said}"
    );
    Ok(())
}

fn nothing_is_started_in_a_runner_from_outside_by_its_image(stage: &Stage) -> Result<()> {
    lay_out(stage)?;
    for image in ["ecs-runner", "ecs-runner:fargate"] {
        let checks = ["docker", "inspect", "--format={{json .Config}}", image];
        let configuration = stage.host().run(checks)?;
        ensure!(
            configuration.contains("\"Entrypoint\"") && !configuration.contains("Healthcheck"),
            "{image}: {configuration}"
        );
    }
    Ok(())
}
