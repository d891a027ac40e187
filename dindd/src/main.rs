#![doc = include_str!("../README.md")]

mod bpf;
mod broker;
mod cgroup;
mod check;
mod cli;
mod config;
mod data_root;
mod dockerd;
mod errand;
mod filter;
mod firewall;
mod golden;
mod health;
mod health_server;
mod inside;
mod isolation;
mod kernel;
mod lifecycle;
mod mirrors;
mod mounts;
mod nest;
mod overlay;
mod privileges;
mod probe;
mod quota;
mod reap;
mod removal;
mod report;
mod runc;
mod seccomp;
mod sockets;
mod stop;
mod storage;
mod sysctls;

use std::process::ExitCode;

fn main() -> ExitCode {
    // As the container runtime, the process becomes runc at once: it has no child to wait for, and
    // the handlers below would only cost every container a little of its start.
    if let Some(refused) = runc::become_runc_if_asked() {
        return refused;
    }
    // Both need a process of one thread.
    if inside::is_asked() {
        return ExitCode::from(inside::run());
    }
    if probe::is_asked() {
        return ExitCode::from(probe::run());
    }
    match init::start() {
        Ok((children, signals)) => ExitCode::from(cli::run(children, signals)),
        Err(_) => ExitCode::from(init::exit_code::UNEXPECTED),
    }
}
