//! End to end: golden image stores, with real parts on a test host. How stores are made and kept,
//! what a job can do with attached images and what it cannot do to them, and a new version that
//! comes while tasks run.

use std::process::ExitCode;

use chain::driver::{self, Case, Test};

#[path = "golden/keeping.rs"]
mod keeping;
#[path = "golden/rollout.rs"]
mod rollout;
#[path = "golden/store.rs"]
mod store;
#[path = "golden/uses.rs"]
mod uses;

fn main() -> ExitCode {
    let cases: Vec<Case> = [&keeping::CASES[..], &uses::CASES, &rollout::CASES].concat();
    let tests = cases
        .iter()
        .map(Test::from)
        .chain(uses::with_every_engine());
    driver::main_on(chain::prepare_all_engines, "golden", tests.collect())
}
