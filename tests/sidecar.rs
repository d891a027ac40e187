//! End to end: the Docker sidecar alone, with real parts on a test host. What a job can do with its
//! Docker, what it cannot reach, many sidecars on one volume, and sidecars that are killed.

use std::process::ExitCode;

use chain::driver::{self, Test};

#[path = "sidecar/faults.rs"]
mod faults;
#[path = "sidecar/isolation.rs"]
mod isolation;
#[path = "sidecar/jobs.rs"]
mod jobs;
#[path = "sidecar/many.rs"]
mod many;
#[path = "sidecar/mounting.rs"]
mod mounting;
#[path = "sidecar/settings.rs"]
mod settings;
#[path = "sidecar/shared.rs"]
mod shared;
#[path = "sidecar/storage.rs"]
mod storage;
#[path = "sidecar/userns.rs"]
mod userns;

fn main() -> ExitCode {
    let cases = [
        &isolation::CASES[..],
        &faults::CASES,
        &many::CASES,
        &mounting::CASES,
        &userns::CASES,
    ]
    .concat();
    let tests = cases.iter().map(Test::from);
    let tests = tests
        .chain(jobs::tests())
        .chain(settings::tests())
        .chain(shared::tests());
    driver::main_on(chain::prepare_all_engines, "sidecar", tests.collect())
}
