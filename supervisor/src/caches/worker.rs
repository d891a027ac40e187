//! `supervisor cache-worker`: the process that touches the store, and may be abandoned. What it is
//! asked, and what it tells, is in the engine's `request`.
//!
//! The process ends in time although its threads may hang in the storage for ever.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use ::caches::request::{Act, Line, Request, keep, receive};
use ::caches::{Amount, Event, Progress, Stop};
use anyhow::Context;
use init::{Children, Signals, exit_code};
use serde::Serialize;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);
/// What threads get to notice that the time is over.
const GRACE: Duration = Duration::from_millis(400);

/// Does what standard input asks for.
pub(crate) async fn work(children: &Children, signals: &mut Signals) -> anyhow::Result<u8> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let (request, memory) = receive(&stdin)?;
    let budget = Duration::from_millis(request.milliseconds);
    let (stop, progress) = (Stop::within(Some(budget)), Progress::default());
    let (end, mut ended) = tokio::sync::oneshot::channel();
    let shared = (children.clone(), stop.clone(), progress.clone());
    std::thread::Builder::new()
        .name("caches".into())
        .spawn(move || {
            let (children, stop, progress) = shared;
            let done = act(request, (&children, &memory), (&stop, &progress));
            end.send((done, memory)).ok();
        })
        .context("cannot start a thread")?;
    let mut told = Amount::default();
    let mut late = std::pin::pin!(tokio::time::sleep(budget + GRACE));
    loop {
        tokio::select! {
            biased;
            done = &mut ended => {
                let (done, memory) = done.context("the cache's worker has failed")?;
                keep(&stdin, &memory)?;
                tell(&match done {
                    Ok(value) => Line::Done(value),
                    Err(error) => Line::Failed(format!("{error:#}")),
                });
                return Ok(exit_code::DONE);
            }
            () = &mut late => {
                tell(&Line::Failed("CACHE_STORE: the storage did not answer in time".to_owned()));
                return Ok(exit_code::UNAVAILABLE);
            }
            _ = signals.next() => stop.ask(),
            () = tokio::time::sleep(TICK) => {
                let amount = progress.amount();
                if amount != told {
                    tell(&Line::Progress(amount));
                    told = amount;
                }
            }
        }
    }
}

fn act(
    request: Request,
    (children, memory): (&Children, &File),
    (stop, progress): (&Stop, &Progress),
) -> anyhow::Result<String> {
    let event = |event: Event| tell(&Line::Event(event));
    let (caches, at) = (&request.caches, (children, memory));
    let value = match request.act {
        Act::Restore(order) => json(&::caches::restore(
            caches,
            &order,
            at,
            (stop, progress),
            &event,
        ))?,
        Act::Publish(condition) => json(&::caches::publish(
            caches,
            &condition,
            at,
            (stop, progress),
            &event,
        ))?,
        Act::Watch(condition) => json(&::caches::watch(caches, &condition, stop, &event))?,
        Act::List => json(&::caches::list(caches)?)?,
        Act::Verify { only_look } => json(&::caches::verify(caches, only_look, stop, progress)?)?,
        Act::HandOver { uid, gid } => json(&::caches::hand_over(&caches.store, uid, gid)?)?,
        Act::Prune(rules) => json(&::caches::prune(caches, &rules)?)?,
    };
    Ok(value)
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    serde_json::to_string(value).context("cannot tell what was done")
}

/// Tells whoever started us. There may be nobody any more.
fn tell(line: &Line) {
    if let Ok(mut text) = serde_json::to_string(line) {
        text.push('\n');
        std::io::stdout().lock().write_all(text.as_bytes()).ok();
    }
}
