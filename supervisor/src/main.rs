#![doc = include_str!("../README.md")]

mod cache_command;
mod caches;
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
mod summary;
mod sweep;
mod user;
mod version;

use std::process::ExitCode;

fn main() -> ExitCode {
    let started = init::start();
    // Nobody else, root in this container included, may look into our memory and environment.
    let hidden = nix::sys::prctl::set_dumpable(false);
    ExitCode::from(cli::main(started, hidden))
}
