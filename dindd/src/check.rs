//! `dindd check`: every precondition with its remedy, for people and for machines.
//!
//! Owns the list and its two forms. It asks the same questions as the start and changes nothing
//! that outlives it.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use init::{Children, exit_code};
use serde::Serialize;
use tracing::error;

use crate::config::{Settings, Tcp};
use crate::isolation::Isolation;
use crate::{
    cgroup, dockerd, firewall, health, health_server, isolation, kernel, mirrors, privileges,
    quota, storage,
};

/// What was found for one precondition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// dindd would run, with less than it could have.
    Weak,
    /// dindd would not run.
    Missing,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    verdict: Verdict,
    /// What was found, or what is missing and the remedy.
    detail: String,
}

impl Row {
    fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
        }
    }

    fn of(name: &'static str, found: Result<String>) -> Self {
        match found {
            Ok(detail) => Self::new(name, Verdict::Ok, detail),
            Err(cause) => Self::new(name, Verdict::Missing, format!("{cause:#}")),
        }
    }
}

/// Asks everything and prints it; the code to exit with.
pub(crate) async fn run(settings: &Settings, children: &Children, json: bool) -> u8 {
    let rows = rows(settings, children).await;
    let mut out = io::stdout().lock();
    let told = if json {
        let whole = serde_json::json!({ "ok": would_run(&rows), "checks": rows });
        writeln!(out, "{whole:#}")
    } else {
        tell(&mut out, &rows)
    };
    if let Err(cause) = told {
        error!("cannot write to standard output: {cause}");
        return exit_code::UNEXPECTED;
    }
    if would_run(&rows) {
        exit_code::DONE
    } else {
        exit_code::UNEXPECTED
    }
}

fn would_run(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.verdict != Verdict::Missing)
}

async fn rows(settings: &Settings, children: &Children) -> Vec<Row> {
    let storage = &settings.storage;
    let suitable = storage::require_suitable(storage, settings.allow_any_fs);
    let [seccomp, outside] = isolation(children).await;
    vec![
        capabilities(settings),
        seccomp,
        outside,
        Row::of(
            "cgroup",
            cgroup::require_own_namespace()
                .and_then(|()| cgroup::require_our_own(&settings.cgroup))
                .map(|()| "v2, a namespace of its own".into()),
        ),
        Row::of(
            "filesystem",
            suitable.map(|()| storage.display().to_string()),
        ),
        space(settings),
        quota(settings),
        Row::of(
            "engine",
            dockerd::major_version(children)
                .await
                .map(|version| format!("dockerd {version}")),
        ),
        Row::of(
            "iptables",
            firewall::choose(children)
                .await
                .map(|found| found.to_string()),
        ),
        modules(),
        sysctls(settings),
        mirrors(settings).await,
        Row::of(
            "log-target",
            dockerd::require_log_target(&settings.engine)
                .map(|()| settings.engine.log_driver.clone()),
        ),
        health_port(settings).await,
    ]
}

fn space(settings: &Settings) -> Row {
    match storage::Space::of(&settings.storage) {
        Ok(space) => {
            let verdict = if space.is_tight() {
                Verdict::Weak
            } else {
                Verdict::Ok
            };
            if let Err(cause) = space.require_enough(&settings.storage) {
                return Row::new("space", Verdict::Missing, cause.to_string());
            }
            let mebibytes = |bytes: u64| bytes >> 20;
            let (free, total) = (mebibytes(space.free_bytes), mebibytes(space.total_bytes));
            Row::new("space", verdict, format!("{free} of {total} MiB free"))
        }
        Err(cause) => Row::new("space", Verdict::Missing, format!("{cause:#}")),
    }
}

async fn health_port(settings: &Settings) -> Row {
    let address = settings.health_addr;
    let name = "health-port";
    if settings.engine.tcp == Tcp::Full {
        let detail = format!("DINDD_TCP=full: {address} is root for whoever reaches it");
        return Row::new(name, Verdict::Weak, detail);
    }
    match health_server::bind(address).await {
        Ok(_) => Row::new(name, Verdict::Ok, format!("{address} is free")),
        // In the container of a dindd that runs, the port is its own.
        Err(_) if health::is_served(address).await => {
            Row::new(name, Verdict::Ok, format!("dindd serves {address}"))
        }
        Err(cause) => Row::new(name, Verdict::Missing, format!("{cause:#}")),
    }
}

fn capabilities(settings: &Settings) -> Row {
    let remapped = settings.engine.remapped;
    let found = privileges::require().and_then(|()| match remapped {
        true => privileges::require_tracing().map(|()| "SYS_ADMIN, NET_ADMIN, SYS_PTRACE"),
        false => Ok("SYS_ADMIN, NET_ADMIN"),
    });
    Row::of("capabilities", found.map(str::to_owned))
}

fn quota(settings: &Settings) -> Row {
    let Some(bytes) = settings.quota else {
        return Row::new("quota", Verdict::Ok, "none asked for (DINDD_QUOTA)");
    };
    let found = quota::require(&settings.storage);
    Row::of("quota", found.map(|()| format!("{} MiB", bytes >> 20)))
}

fn modules() -> Row {
    let unseen = kernel::unseen_modules(Path::new("/"));
    if unseen.is_empty() {
        return Row::new("modules", Verdict::Ok, "all are there");
    }
    let detail = format!(
        "no trace of {}: unless they are part of the kernel, load them on the host \
         (/etc/modules-load.d)",
        unseen.join(", ")
    );
    Row::new("modules", Verdict::Weak, detail)
}

fn sysctls(settings: &Settings) -> Row {
    let (told, enough) = kernel::sysctls(Path::new("/"), settings.engine.remapped);
    let verdict = if enough { Verdict::Ok } else { Verdict::Weak };
    Row::new("sysctls", verdict, told)
}

/// What the host allows decides how containers are kept apart, and from what is started from outside.
async fn isolation(children: &Children) -> [Row; 2] {
    let names = ["seccomp", "outside"];
    let allowed = match isolation::probe(children).await {
        Ok(allowed) => allowed,
        Err(cause) => {
            return names.map(|name| Row::new(name, Verdict::Missing, format!("{cause:#}")));
        }
    };
    let chosen = Isolation::strongest(allowed);
    let seccomp = match chosen {
        Isolation::Plain => Row::new(names[0], Verdict::Ok, chosen.to_string()),
        Isolation::Wrapped(_) => {
            let detail = format!("{chosen}; stronger would be: {}", chosen.stronger());
            Row::new(names[0], Verdict::Weak, detail)
        }
    };
    let outside = if allowed.user_namespaces {
        let detail = "no job can change what is started from outside, such as the health check";
        Row::new(names[1], Verdict::Ok, detail)
    } else {
        let detail = "a privileged job could change what is started from outside, such as the health \
                      check; allow user namespaces on the host (sysctl user.max_user_namespaces)";
        Row::new(names[1], Verdict::Weak, detail)
    };
    [seccomp, outside]
}

async fn mirrors(settings: &Settings) -> Row {
    let asked = &settings.engine.mirrors;
    let answering = mirrors::that_answer(asked).await;
    let detail = format!("{} of {} answer", answering.len(), asked.len());
    let verdict = if answering.len() == asked.len() {
        Verdict::Ok
    } else {
        Verdict::Weak
    };
    Row::new("mirrors", verdict, detail)
}

fn tell(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let width = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or_default();
    for row in rows {
        let verdict = match row.verdict {
            Verdict::Ok => "ok",
            Verdict::Weak => "weak",
            Verdict::Missing => "MISSING",
        };
        writeln!(out, "{:width$}  {verdict:7}  {}", row.name, row.detail)?;
    }
    Ok(())
}
