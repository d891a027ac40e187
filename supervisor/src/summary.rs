//! The last words: one event that tells the whole run.

use init::exit_code;

use crate::progress::Progress;

/// Tells the run's record.
pub(crate) fn tell(progress: &Progress, code: u8) {
    let state = progress.state();
    let phases: Vec<String> = progress
        .phases()
        .iter()
        .map(|past| format!("{} {} ms", past.phase, past.elapsed_ms))
        .collect();
    let elapsed_ms = u64::try_from(progress.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (runner, job, result) = (state.runner, state.job, state.result);
    let (repository, run_id) = (state.repository, state.run_id);
    let phases = phases.join(", ");
    if code == exit_code::DONE {
        tracing::info!(
            exit_code = code,
            elapsed_ms,
            runner,
            job,
            result,
            repository,
            run_id,
            phases,
            "summary"
        );
    } else {
        tracing::warn!(
            exit_code = code,
            elapsed_ms,
            runner,
            job,
            result,
            repository,
            run_id,
            phases,
            "summary"
        );
    }
}
