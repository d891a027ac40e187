//! Which iptables works on the host's kernel, and the one rule of ours.
//!
//! Owns the choice between the two flavours that Debian installs side by side; dockerd takes the
//! `iptables` that it finds first. Rules of one flavour are invisible to the other, so whoever
//! already has rules in this network namespace decides (docker-library/docker
//! `dockerd-entrypoint.sh` knows the same rule).

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use init::{Children, Deadline};
use tracing::debug;

/// How long one look at the tables may take; loading the modules for it is slow at times.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the kernel lists the legacy tables that are in use.
const LEGACY_IN_USE: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// What dockerd and docker-proxy call, and what stands for it in the legacy flavour.
const PROGRAMS: [(&str, &str); 6] = [
    ("iptables", "iptables-legacy"),
    ("iptables-save", "iptables-legacy-save"),
    ("iptables-restore", "iptables-legacy-restore"),
    ("ip6tables", "ip6tables-legacy"),
    ("ip6tables-save", "ip6tables-legacy-save"),
    ("ip6tables-restore", "ip6tables-legacy-restore"),
];

/// The programs of both families, and the bytes of a packet that are not TCP's (RFC 9293 3.7.1,
/// RFC 8200 8.3).
const FAMILIES: [(&str, &str, u32); 2] = [
    ("iptables", "iptables-legacy", 40),
    ("ip6tables", "ip6tables-legacy", 60),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// What is installed as `iptables`.
    Installed,
    /// `iptables-legacy`.
    Legacy,
}

/// Finds the flavour that works.
///
/// # Errors
/// When none does, with what the tools said.
pub(crate) async fn choose(children: &Children) -> Result<Flavour> {
    if LEGACY_IN_USE
        .iter()
        .any(|list| fs::read_to_string(list).is_ok_and(|names| names.len() > 1))
        && find("iptables-legacy").is_some()
    {
        return Ok(Flavour::Legacy);
    }
    let Err(installed) = look("iptables", children).await else {
        return Ok(Flavour::Installed);
    };
    debug!("iptables does not work: {installed:#}");
    if let Err(legacy) = look("iptables-legacy", children).await {
        bail!(
            "no iptables works here; load nf_tables and nft_compat, or ip_tables and iptable_nat, \
             on the host, or pass --iptables=false by DINDD_DOCKERD_ARGS ({installed:#}; \
             {legacy:#})"
        );
    }
    Ok(Flavour::Legacy)
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Installed => "iptables as it is installed",
            Self::Legacy => "iptables-legacy",
        })
    }
}

impl Flavour {
    /// Puts what dockerd must find first into `folder`.
    ///
    /// # Errors
    /// When the volume cannot be written.
    pub(crate) fn install(self, folder: &Path) -> Result<()> {
        match self {
            Self::Installed => Ok(()),
            Self::Legacy => {
                for (name, legacy) in PROGRAMS {
                    if let Some(program) = find(legacy) {
                        symlink(program, folder.join(name))
                            .with_context(|| format!("cannot link {name}"))?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Keeps the packets of forwarded TCP connections below `mtu`, whatever the MTU of the containers'
/// networks is.
///
/// # Errors
/// When IPv4 cannot have the rule. IPv6 may be missing altogether.
pub(crate) async fn clamp(flavour: Flavour, mtu: u32, children: &Children) -> Result<()> {
    let mut outcome = Ok(());
    for (installed, legacy, headers) in FAMILIES.into_iter().rev() {
        let program = match flavour {
            Flavour::Installed => installed,
            Flavour::Legacy => legacy,
        };
        let rule = format!(
            "FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {}",
            mtu.saturating_sub(headers)
        );
        // A restarted container may have the network namespace of the one before.
        let call = async |act: &str| {
            let mut command = Command::new(program);
            command
                .args(["--wait", "-t", "mangle", act])
                .args(rule.split(' '));
            let run = children.run(&mut command, Deadline::within(PATIENCE));
            run.await.and_then(|captured| captured.checked().map(drop))
        };
        outcome = match call("-C").await {
            Ok(()) => Ok(()),
            Err(_) => call("-A").await,
        };
    }
    outcome
}

/// dockerd's first act is to look at the nat table; do the same.
async fn look(program: &str, children: &Children) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["--wait", "-t", "nat", "-S", "PREROUTING"]);
    let captured = children
        .run(&mut command, Deadline::within(PATIENCE))
        .await?;
    captured.checked().map(drop)
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
}
