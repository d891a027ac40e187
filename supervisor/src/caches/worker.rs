//! `supervisor cache-worker`: the process that touches the store, and may be abandoned.
//!
//! Standard input is a file with the request and, behind it, what a former worker remembered; a
//! restore leaves there what it remembers. Standard output is lines of JSON. The process ends in
//! time although its threads may hang in the storage for ever.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use ::caches::{Amount, Condition, Event, Order, Progress, Rules, Stop};
use anyhow::Context;
use init::{Children, Signals, exit_code};
use serde::{Deserialize, Serialize};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);
/// What threads get to notice that the time is over.
const GRACE: Duration = Duration::from_millis(400);

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) caches: ::caches::Caches,
    pub(super) milliseconds: u64,
    pub(super) act: Act,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Act {
    Restore(Order),
    Publish(Condition),
    /// Publishes what appears, until it is asked to end.
    Watch(Condition),
    List,
    Verify {
        only_look: bool,
    },
    Prune(Rules),
    /// Gives the store's directories to a user.
    HandOver {
        uid: u32,
        gid: u32,
    },
}

/// A line on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Line {
    Progress(Amount),
    Event(Event),
    /// It is done, and this came out.
    Done(String),
    Failed(String),
}

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

/// Writes a request for a worker's standard input.
pub(super) fn send(request: &Request, memory: Option<&File>) -> anyhow::Result<File> {
    let mut file = anonymous()?;
    let json = serde_json::to_vec(request).context("cannot write the request")?;
    file.write_all(&(json.len() as u64).to_le_bytes())?;
    file.write_all(&json)?;
    if let Some(mut memory) = memory {
        memory.rewind()?;
        std::io::copy(&mut memory, &mut file)?;
    }
    file.rewind()?;
    Ok(file)
}

/// Reads the request, and puts what follows into a file of its own.
fn receive(mut stdin: &File) -> anyhow::Result<(Request, File)> {
    let mut length = [0; 8];
    stdin
        .read_exact(&mut length)
        .context("there is no request")?;
    let mut json = vec![0; usize::try_from(u64::from_le_bytes(length))?];
    stdin
        .read_exact(&mut json)
        .context("the request is cut off")?;
    let request = serde_json::from_slice(&json).context("the request cannot be read")?;
    let mut memory = anonymous()?;
    std::io::copy(&mut stdin, &mut memory)?;
    Ok((request, memory))
}

/// Leaves what is remembered for whoever started us.
fn keep(mut stdin: &File, mut memory: &File) -> anyhow::Result<()> {
    stdin.set_len(0)?;
    stdin.rewind()?;
    memory.rewind()?;
    std::io::copy(&mut memory, &mut stdin)?;
    Ok(())
}

/// A file without a name: nobody else can open it.
fn anonymous() -> anyhow::Result<File> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let file =
        nix::sys::memfd::memfd_create(c"caches", flags).context("cannot make a file in memory")?;
    Ok(File::from(file))
}
