//! PID 1 of dockerd's namespaces: dindd once more, on the inside.
//!
//! Owns dockerd's process: arranges its mounts, filters its calls, starts it, passes signals on,
//! reaps what it and its shims leave, and returns what it returns. When this process ends, however
//! it ends, the kernel kills everything else in the namespace and undoes every mount in it. It
//! knows its dindd only by a socket: the first line says what to do, the end of it means that dindd
//! is gone. What it sends back, once, is who receives the filter's questions.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use init::log::Format;
use init::settings::Environment;
use init::{Children, Signals, exit_code};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::error;

use crate::filter;
use crate::mounts::{self, View};

/// The hidden command.
pub(crate) const NAME: &str = "inside";

/// Variables of ours, and of a Docker client, that would change what dockerd does
/// (docker/cli `opts`, moby `cmd/dockerd/options.go`: `DOCKER_TLS_VERIFY`, `DOCKER_CERT_PATH`).
const KEPT_FROM_DOCKERD: [&str; 5] = [
    "DINDD_",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "DOCKER_TLS",
    "DOCKER_CERT_PATH",
];

/// What to do, as one line of JSON.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Plan {
    pub(crate) view: View,
    /// Program and arguments.
    pub(crate) dockerd: Vec<String>,
    pub(crate) path: String,
    pub(crate) log_json: bool,
    pub(crate) log_level: String,
    /// Whether a quota counts what is written.
    pub(crate) quota: bool,
}

/// Whether this process is the inner half.
pub(crate) fn is_asked() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == NAME)
}

/// Its life; the code to exit with.
pub(crate) fn run() -> u8 {
    match try_run() {
        Ok(code) => code,
        Err(cause) => {
            error!("dockerd cannot be started: {cause:#}");
            exit_code::UNEXPECTED
        }
    }
}

fn try_run() -> Result<u8> {
    let mut lifeline = BufReader::new(File::from(std::io::stdin().as_fd().try_clone_to_owned()?));
    let mut line = String::new();
    lifeline
        .read_line(&mut line)
        .context("cannot read what to do")?;
    let plan: Plan = serde_json::from_str(&line).context("what to do makes no sense")?;
    let format = if plan.log_json {
        Format::Json
    } else {
        Format::Text
    };
    init::log::start(format, &plan.log_level)?;
    // Before there is a second thread, which is what answers signals.
    let _arranged = mounts::arrange(&plan.view)?;
    let (children, signals) = init::start().context("cannot take over signals")?;
    let listener = filter::install(plan.quota)?;
    hand_over(lifeline.get_ref(), listener)?;
    let orphaned = watch(lifeline)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(attend(&plan, &children, signals, orphaned))
}

/// Says that everything is arranged, and hands over the filter's listener if there is one.
fn hand_over(lifeline: &File, listener: Option<OwnedFd>) -> Result<()> {
    let descriptors: Vec<_> = listener.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = match descriptors[..] {
        [] => vec![],
        ref some => vec![ControlMessage::ScmRights(some)],
    };
    let word = [IoSlice::new(b"arranged")];
    sendmsg::<()>(
        lifeline.as_raw_fd(),
        &word,
        &rights,
        MsgFlags::empty(),
        None,
    )
    .context("cannot hand the filter's questions over")?;
    Ok(())
}

/// Reports the end of the socket: dindd is gone, and with it the reason for everything here.
fn watch(mut lifeline: BufReader<File>) -> Result<oneshot::Receiver<()>> {
    let (report, gone) = oneshot::channel();
    std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(move || {
            std::io::copy(&mut lifeline, &mut std::io::sink()).ok();
            // Nobody waits any more when dockerd has just ended.
            report.send(()).ok();
        })?;
    Ok(gone)
}

async fn attend(
    plan: &Plan,
    children: &Children,
    mut signals: Signals,
    mut orphaned: oneshot::Receiver<()>,
) -> Result<u8> {
    let mut dockerd = children
        .spawn(&mut command(plan)?)
        .with_context(|| format!("cannot start {}", plan.dockerd.join(" ")))?;
    loop {
        tokio::select! {
            exit = dockerd.exited() => return Ok(exit.shell_code()),
            signal = signals.next() => dockerd.signal(signal),
            _ = &mut orphaned => return Ok(exit_code::UNEXPECTED),
        }
    }
}

fn command(plan: &Plan) -> Result<Command> {
    let (program, arguments) = plan.dockerd.split_first().context("no program to start")?;
    let environment = Environment::of_process();
    let inherited = environment.iter().filter(|(name, _)| {
        !KEPT_FROM_DOCKERD
            .iter()
            .any(|prefix| name.starts_with(prefix))
    });
    // Everything that dockerd says is a child's output and goes where ours goes.
    let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(inherited)
        .env("PATH", &plan.path)
        // What containerd and runc look at to leave AppArmor profiles alone (moby hack/dind).
        .env("container", "docker")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    Ok(command)
}
