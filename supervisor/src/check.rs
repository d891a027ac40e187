//! `supervisor check`: every precondition with its remedy, before anything is started.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use init::settings::{Environment, Given};
use init::{Children, Deadline, exit_code};
use serde::Serialize;

use crate::config::{CacheMode, Docker, Runner, Settings};
use crate::docker;
use crate::github::{self, Client, retry};
use crate::listener::{self, Place};
use crate::shared::{self, Sight};
use crate::user::User;

/// GitHub and Docker get this long each; `run` is more patient.
const LIMIT: Duration = Duration::from_secs(10);

/// One precondition.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    /// What was found, or what is wrong and what to do.
    detail: String,
}

/// Looks at everything and tells it; 0 when it would run.
pub(crate) async fn run(
    mut given: Given<'_>,
    environment: &Environment,
    children: &Children,
    json: bool,
) -> anyhow::Result<u8> {
    let settings = Settings::read(&mut given, environment);
    let findings = match (given.finish(), settings) {
        (Ok(()), Some(settings)) => examine(&settings, children).await,
        (mistakes, _) => vec![Finding {
            what: "settings",
            ok: false,
            detail: mistakes
                .err()
                .map(|mistakes| mistakes.to_string())
                .unwrap_or_default(),
        }],
    };
    let ok = findings.iter().all(|finding| finding.ok);
    let mut out = std::io::stdout().lock();
    if json {
        let all = serde_json::json!({ "ok": ok, "checks": findings });
        writeln!(out, "{all}")?;
    } else {
        for finding in &findings {
            let mark = if finding.ok { "ok  " } else { "FAIL" };
            writeln!(out, "{mark}  {:<12} {}", finding.what, finding.detail)?;
        }
    }
    Ok(if ok {
        exit_code::DONE
    } else {
        exit_code::UNEXPECTED
    })
}

async fn examine(settings: &Settings, children: &Children) -> Vec<Finding> {
    let mut findings = vec![finding("settings", Ok("valid".to_owned()))];
    let runner = &settings.runner;
    findings.push(finding(
        "runner",
        listener::find(&runner.home).map(|()| runner.home.display().to_string()),
    ));
    let user = User::find(&runner.user, Path::new("/")).map_err(|failure| failure.error);
    if let (Ok(user), true) = (&user, findings.iter().all(|finding| finding.ok)) {
        let place = Place {
            runner,
            user,
            docker: settings.docker.as_ref(),
            groups: Vec::new(),
            hooks: Vec::new(),
        };
        findings.push(finding("version", place.version(children).await));
    }
    findings.push(finding(
        "user",
        user.map(|user| format!("{} ({})", user.name, user.uid)),
    ));
    findings.push(finding(
        "rsync",
        caches::rsync::check(children, Deadline::within(LIMIT)).await,
    ));
    if let Some(docker) = &settings.docker {
        let answer = Deadline::within(LIMIT)
            .bound(docker::ask(&docker.address))
            .await;
        let answer = answer.unwrap_or_else(|| Err(anyhow::anyhow!("no answer")));
        let remedy = || {
            format!(
                "DOCKER_HOST: Docker at {} does not answer; is the sidecar healthy?",
                docker.address
            )
        };
        let answers = answer.is_ok();
        findings.push(finding(
            "docker",
            answer.map_err(|error| error.context(remedy())),
        ));
        if answers && !docker.wait.is_zero() {
            findings.push(finding("shared", shared(runner, docker).await));
        }
    }
    findings.push(finding("github", github(settings).await));
    if let Some(caches) = &settings.caches {
        findings.push(finding("store", store(&caches.place.store, caches.mode)));
    }
    findings
}

fn finding(what: &'static str, found: anyhow::Result<String>) -> Finding {
    let ok = found.is_ok();
    let detail = found.unwrap_or_else(|error| format!("{error:#}"));
    Finding { what, ok, detail }
}

/// Whether jobs' containers will find what the runner puts into the shared directories.
async fn shared(runner: &Runner, docker: &Docker) -> anyhow::Result<String> {
    match shared::compare(runner, docker).await? {
        Sight::Same(directories) => Ok(format!("{directories:?} are the same storage in Docker")),
        Sight::Unknown(error) => Ok(format!("Docker does not tell of its storage: {error:#}")),
    }
}

async fn github(settings: &Settings) -> anyhow::Result<String> {
    let Some(access) = settings.identity.github() else {
        return Ok("not needed: the registration is given".to_owned());
    };
    let client = Client::new(access, github::http()?)?;
    // Reading the list needs the same permission as registering, but for writing.
    let asked = retry::within(Deadline::within(LIMIT), client.list(None)).await;
    match asked {
        Ok(runners) => Ok(format!("{} with {} runners", client.scope(), runners.len())),
        Err(error) => anyhow::bail!("{}", error.explain(client.scope())),
    }
}

fn store(store: &Path, mode: CacheMode) -> anyhow::Result<String> {
    let writable = nix::unistd::access(store, nix::unistd::AccessFlags::W_OK).is_ok();
    match (store.is_dir(), writable, mode) {
        (false, ..) => Ok(format!(
            "{} is not there yet and is made by the first publication",
            store.display()
        )),
        (true, false, CacheMode::ReadWrite) => anyhow::bail!(
            "CACHE_STORE: {} cannot be written; mount it read-write or set CACHE_MODE=read-only",
            store.display()
        ),
        (true, ..) => Ok(store.display().to_string()),
    }
}
