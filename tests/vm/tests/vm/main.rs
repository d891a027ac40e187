//! A host in a virtual machine: real systemd, a real boot, project quotas, a power cut. Provisioned by
//! the steps that Packer runs; see `tests/vm/README.md`.
#![expect(
    clippy::disallowed_methods,
    reason = "a test driver is no PID 1 of a container"
)]

mod boots;
mod machine;
mod recipe;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Trial};

use machine::{Hardware, Machine};
use recipe::Workshop;

/// A test: its name, a sentence, and what it does.
type Case = (&'static str, fn(&Stage) -> Result<()>);

const CASES: [Case; 3] = [
    (
        "the_first_boot_formats_and_the_one_after_a_power_loss_only_removes_what_tasks_left",
        boots::first_and_after_a_power_loss,
    ),
    ("a_disk_with_data_is_never_formatted", boots::foreign_disk),
    (
        "a_missing_disk_keeps_the_agent_from_starting_and_says_why",
        boots::missing_disk,
    ),
];

/// What all tests share: the root disk, one after the other.
#[derive(Debug)]
struct Stage {
    workshop: Workshop,
}

impl Stage {
    fn storage(&self) -> PathBuf {
        self.workshop.file("storage.img")
    }

    fn boot(&self, storage: Option<&Path>) -> Result<Machine> {
        Machine::boot(&Hardware {
            boot: &self.workshop.boot(),
            root: &self.workshop.root(),
            storage,
        })
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1); // they share the root disk
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    match Workshop::open().and_then(|workshop| run(&arguments, workshop)) {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("the virtual machine: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, workshop: Workshop) -> Result<ExitCode> {
    let stage = Arc::new(Stage { workshop });
    Ok(libtest_mimic::run(arguments, trials(Some(&stage))).exit_code())
}

fn trials(stage: Option<&Arc<Stage>>) -> Vec<Trial> {
    let trial = |&(name, case): &Case| {
        let stage = stage.cloned();
        Trial::test(name, move || {
            let run = || case(stage.as_deref().context("listed only")?);
            run().map_err(|error| format!("{error:#}").into())
        })
    };
    CASES.iter().map(trial).collect()
}

/// A disk on which nothing is.
fn empty_disk(path: &Path) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("make {}", path.display()))?;
    file.set_len(8 << 30).context("size a disk")
}

fn tell(text: &str) {
    drop(std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{text}\n").as_bytes(),
    ));
}
