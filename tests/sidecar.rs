//! End to end: the Docker sidecar alone, with real parts on a test host. What a job can do with its
//! Docker, what it cannot reach, many sidecars on one volume, and sidecars that are killed.

use std::process::ExitCode;

use chain::driver::{self, Case};

#[path = "sidecar/isolation.rs"]
mod isolation;
#[path = "sidecar/jobs.rs"]
mod jobs;
#[path = "sidecar/many.rs"]
mod many;

fn main() -> ExitCode {
    let cases: Vec<Case> = [&isolation::CASES[..], &jobs::CASES, &many::CASES].concat();
    driver::main("sidecar", &cases)
}
