//! The last words: one event that tells the whole run.

use init::exit_code;

use crate::progress::Progress;

/// Tells the run's record.
pub(crate) fn tell(progress: &Progress, code: u8) {
    let state = progress.state();
    let past = progress.phases();
    let detail = |phase: &str| {
        let of_phase = past.iter().rev().find(|past| past.phase == phase);
        of_phase.map(|past| past.detail.clone())
    };
    // What was owed, and what became of it.
    let restored = detail("cache-restore");
    let published = detail("cache-publish");
    let deregistered = detail("deregister");
    let phases: Vec<String> = past
        .iter()
        .map(|past| format!("{} {} ms", past.phase, past.elapsed_ms))
        .collect();
    let elapsed_ms = u64::try_from(progress.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (runner, job, result) = (state.runner, state.job, state.result);
    let (repository, run_id) = (state.repository, state.run_id);
    let phases = phases.join(", ");
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(
                exit_code = code,
                elapsed_ms,
                runner,
                job,
                result,
                repository,
                run_id,
                restored,
                published,
                deregistered,
                phases,
                "summary"
            )
        };
    }
    if code == exit_code::DONE {
        tell!(info);
    } else {
        tell!(warn);
    }
}
