//! What happens at a boot: with an empty disk, again after a power loss, with another's disk, with
//! none.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{Stage, empty_disk};

pub(crate) fn first(stage: &Stage) -> Result<()> {
    let mut host = stage.host()?;
    host.machine.run(include_str!("cases/first-boot.sh"))?;
    host.hand_on();
    Ok(())
}

pub(crate) fn power_loss(stage: &Stage) -> Result<()> {
    let mut host = stage.host()?;
    host.machine.run(include_str!("cases/three-tasks.sh"))?;
    // Between two writes.
    drop(host);
    let mut machine = stage.boot(Some(&stage.storage()), true)?;
    machine.run(include_str!("cases/second-boot.sh"))?;
    machine.power_off()?;
    let check = Command::new("xfs_repair")
        .args(["-n", "-f"])
        .arg(stage.storage())
        .output()
        .context("start xfs_repair")?;
    let said = [check.stdout, check.stderr].concat();
    ensure!(
        check.status.success(),
        "the volume is damaged:\n{}",
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

pub(crate) fn foreign_disk(stage: &Stage) -> Result<()> {
    let disk = stage.workshop.file("foreign.img");
    empty_disk(&disk)?;
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-L", "precious"])
        .arg(&disk)
        .status()
        .context("start mke2fs")?;
    ensure!(made.success(), "mke2fs: {made}");
    stage.end_host();
    let mut machine = stage.boot(Some(&disk), false)?;
    machine.run(include_str!("cases/foreign-disk.sh")).map(drop)
}

pub(crate) fn missing_disk(stage: &Stage) -> Result<()> {
    stage.end_host();
    let mut machine = stage.boot(None, false)?;
    machine.run(include_str!("cases/missing-disk.sh")).map(drop)
}
