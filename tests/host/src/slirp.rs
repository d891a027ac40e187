//! Interface to `slirp4netns`, which gives a host access to the machine's networks and changes
//! nothing of the machine's own.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::until;

/// Address of its DNS forwarder (slirp4netns(1)).
pub(crate) const DNS: &str = "10.0.2.3";

/// The network's process; it ends when its standard input is closed.
#[derive(Debug)]
pub(crate) struct Slirp {
    child: Child,
}

impl Slirp {
    pub(crate) fn start(pid: i32) -> Result<Self> {
        let mut command = Command::new("slirp4netns");
        command.args([
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--exit-fd=0",
        ]);
        let mut child = command
            .arg(pid.to_string())
            .arg("tap0")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start slirp4netns")?;
        let routes = format!("/proc/{pid}/net/route");
        let default_route = || {
            let text = fs::read_to_string(&routes).unwrap_or_default();
            text.lines()
                .any(|line| line.split_whitespace().nth(1) == Some("00000000"))
        };
        if !until(Duration::from_secs(30), || {
            default_route() || !matches!(child.try_wait(), Ok(None))
        }) {
            drop(child.kill());
        }
        if !default_route() {
            bail!("slirp4netns gave the host no network: {:?}", child.wait());
        }
        Ok(Self { child })
    }

    pub(crate) fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let child = &mut self.child;
        if !until(Duration::from_secs(5), || {
            !matches!(child.try_wait(), Ok(None))
        }) {
            self.child.kill().context("kill slirp4netns")?;
        }
        self.child.wait().context("wait for slirp4netns").map(drop)
    }
}
