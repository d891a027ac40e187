//! The test host of a section, with the images of a task.

use anyhow::{Result, ensure};
use chain::Stage;

use crate::bench::Bench;

/// Boots it.
pub(crate) fn open(bench: &Bench<'_>) -> Result<Stage> {
    let disk = chain::prepare(&|step| bench.say(step))?;
    Stage::open(&disk, &|step, elapsed| {
        bench.say(&format!("{step}: {elapsed} ms"));
    })
}

/// Ends it.
///
/// # Errors
/// Something is left that should not be.
pub(crate) fn close(stage: Stage) -> Result<()> {
    let left = stage.close()?;
    ensure!(left.is_empty(), "not everything is gone:\n{left}");
    Ok(())
}
