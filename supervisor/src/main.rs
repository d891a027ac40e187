#![doc = include_str!("../README.md")]

mod cache_command;
mod caches;
mod capabilities;
mod check;
mod cli;
mod config;
mod config_script;
mod docker;
mod ecs;
mod failure;
mod github;
mod http;
mod job_hooks;
mod job_report;
mod lifecycle;
mod listener;
mod listener_output;
mod prepare;
mod processes;
mod progress;
mod register;
mod registration;
mod runner_files;
mod serve;
mod settle;
mod shared;
mod state;
mod sudo;
mod summary;
mod sweep;
mod timeline;
mod user;
mod version;

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Nobody else, root in this container included, may look into our memory and environment.
    // First of all, and before there is a second thread, which would keep what it was given.
    let hidden = nix::sys::prctl::set_dumpable(false).map_err(io::Error::from);
    let hidden = hidden.and_then(|()| Ok(capabilities::drop_unneeded()?));
    let started = init::start();
    ExitCode::from(cli::main(started, hidden))
}
