//! What a process that works with the caches is asked, and what it tells.
//!
//! Its standard input is a file with the request and, behind it, what a former one remembered; a
//! restore leaves there what it remembers. Its standard output is lines of JSON.

use std::fs::File;
use std::io::{Read, Seek, Write};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{Amount, Caches, Condition, Event, Order, Rules};

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// With what.
    pub caches: Caches,
    /// How long it may take.
    pub milliseconds: u64,
    /// What.
    pub act: Act,
}

/// A piece of work.
#[derive(Debug, Serialize, Deserialize)]
pub enum Act {
    /// Brings the local directories up to the store.
    Restore(Order),
    /// Puts what is new into the store.
    Publish(Condition),
    /// Publishes what appears, until it is asked to end.
    Watch(Condition),
    /// Names the complete units.
    List,
    /// Compares all packs with their checksums.
    Verify {
        /// Nothing is quarantined.
        only_look: bool,
    },
    /// Removes what the rules name and what nobody needs.
    Prune(Rules),
    /// Gives the store's directories to a user.
    HandOver {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// A line on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line {
    /// How far the work is.
    Progress(Amount),
    /// What happened.
    Event(Event),
    /// It is done, and this came out, as JSON.
    Done(String),
    /// It could not be done, and why.
    Failed(String),
}

/// Writes a request for a worker's standard input.
///
/// # Errors
/// When there is no memory for it, or what is remembered cannot be read.
pub fn send(request: &Request, memory: Option<&File>) -> anyhow::Result<File> {
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
///
/// # Errors
/// When it is not what [`send`] wrote.
pub fn receive(mut stdin: &File) -> anyhow::Result<(Request, File)> {
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

/// Leaves what is remembered for whoever sent the request.
///
/// # Errors
/// When the files cannot be read or written.
pub fn keep(mut stdin: &File, mut memory: &File) -> anyhow::Result<()> {
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
