//! What happens to tasks on a host that has booted: limits, quotas, golden images,
//! whole jobs, a store that hangs.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::Stage;

pub(crate) fn limits(stage: &Stage) -> Result<()> {
    run(stage, include_str!("cases/limits.sh"))
}

pub(crate) fn bomb_and_hog(stage: &Stage) -> Result<()> {
    run(stage, include_str!("cases/bomb-and-hog.sh"))
}

pub(crate) fn quota(stage: &Stage) -> Result<()> {
    run(stage, include_str!("cases/quota.sh"))
}

pub(crate) fn chain(stage: &Stage) -> Result<()> {
    with_job(stage, "chain", include_str!("cases/chain.sh"))
}

pub(crate) fn golden(stage: &Stage) -> Result<()> {
    run(stage, include_str!("cases/golden.sh"))
}

pub(crate) fn services(stage: &Stage) -> Result<()> {
    with_job(stage, "services", include_str!("cases/services.sh"))
}

pub(crate) fn store_hangs(stage: &Stage) -> Result<()> {
    run(stage, include_str!("cases/efs-hangs.sh"))
}

/// Runs a script that has the everyday job, for runners with a label, in the variable `JOB`.
fn with_job(stage: &Stage, label: &str, script: &str) -> Result<()> {
    let mut job = chain::everyday_job("acme/widgets");
    job.runs_on = vec![label.into()];
    let job = serde_json::to_vec(&job).context("the job as JSON")?;
    let job = BASE64.encode(job);
    run(stage, &format!("JOB=$(base64 --decode <<<{job})\n{script}"))
}

/// Runs a script on the host, which is handed on when it has succeeded.
fn run(stage: &Stage, script: &str) -> Result<()> {
    let mut host = stage.host()?;
    host.machine.run(script)?;
    host.hand_on();
    Ok(())
}
