//! End to end: `images/` as people deploy it. The images from their Dockerfiles with static programs,
//! the containers of a task, the mirror and the collector from `images/compose.yaml` with
//! `images/.env.example`, on a test host.
//!
//! Doubles: GitHub, the runner's listener, Docker Hub (a registry with its name and a certificate of
//! its own), and rsyslog in place of Fluent Bit, which no Debian package brings.

use std::process::ExitCode;

use anyhow::Result;
use chain::driver::{self, Test};
use testhost::{ImageBuild, Plan, PreparedDisk};

#[path = "stack/build.rs"]
mod build;
#[path = "stack/images.rs"]
mod images;
#[path = "stack/mistakes.rs"]
mod mistakes;
#[path = "stack/project.rs"]
mod project;
#[path = "stack/sudo.rs"]
mod sudo;
#[path = "stack/whole.rs"]
mod whole;

fn main() -> ExitCode {
    let cases = [
        &images::CASES[..],
        &mistakes::CASES,
        &sudo::CASES,
        &whole::CASES,
    ]
    .concat();
    driver::main_on(prepare, "stack", cases.iter().map(Test::from).collect())
}

/// The stage's disk, with the packages of the test images besides.
fn prepare(progress: &dyn Fn(&str)) -> Result<PreparedDisk> {
    let warm = ["registry", "syslog"].map(|folder| ImageBuild {
        context: build::top().join("tests/stack").join(folder),
        dockerfile: "Dockerfile".into(),
        target: None,
        arguments: Vec::new(),
        keyed_by: Vec::new(),
    });
    let plan = Plan {
        warm: warm.into(),
        after: Some(Box::new(chain::plan())),
        ..Plan::default()
    };
    testhost::prepare(&plan, progress)
}
