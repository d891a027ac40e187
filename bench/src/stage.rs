//! The test host of a section, with the images of a task.

use anyhow::{Result, ensure};
use chain::Stage;

use crate::bench::Bench;
use crate::programs;

/// Where the peers' scripts are in the host.
pub(crate) const PEERS: &str = "/run/bench/peers";
/// An image with a shell, as a tar file in the host.
pub(crate) const IMAGE: &str = "/run/bench/busybox.tar";

/// Boots it, and brings the peers' scripts and the image into it.
pub(crate) fn open(bench: &Bench<'_>) -> Result<Stage> {
    let disk = chain::prepare(&|step| bench.say(step))?;
    let stage = Stage::open(&disk, &|step, elapsed| {
        bench.say(&format!("{step}: {elapsed} ms"));
    })?;
    let host = stage.host();
    host.bind(&programs::checkout().join("bench/peers"), PEERS, true)?;
    let script = format!(
        "set -e; folder=$(mktemp -d); mkdir $folder/bin; cp /bin/busybox $folder/bin/; \
         for name in sh true sleep; do ln -s busybox $folder/bin/$name; done; \
         tar -cf {IMAGE} -C $folder .; rm -r $folder"
    );
    host.run(["sh", "-c", &script])?;
    Ok(stage)
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
