//! A host in a virtual machine: real systemd, a real boot, project quotas, a power cut. Provisioned by
//! the steps that Packer runs; see `tests/vm/README.md`.
#![expect(
    clippy::disallowed_methods,
    reason = "a test driver is no PID 1 of a container"
)]

mod boots;
mod machine;
mod recipe;
mod tasks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Trial};

use machine::{Hardware, Machine};
use recipe::Workshop;

/// A test: its name, a sentence, and what it does.
type Case = (&'static str, fn(&Stage) -> Result<()>);

/// In this order, and those that can on the machine of the one before.
const CASES: [Case; 11] = [
    (
        "the_first_boot_formats_an_empty_disk_and_starts_in_order",
        boots::first,
    ),
    (
        "limits_of_a_task_and_of_its_sidecar_hold_for_the_containers_of_its_job",
        tasks::limits,
    ),
    (
        "a_fork_bomb_and_a_memory_hog_end_their_container_and_nothing_else",
        tasks::bomb_and_hog,
    ),
    (
        "a_job_that_fills_its_quota_has_no_space_left_and_its_neighbour_has",
        tasks::quota,
    ),
    (
        "golden_images_are_mounted_by_a_host_whose_kernel_cannot_mount_from_a_file",
        tasks::golden,
    ),
    (
        "a_job_of_the_deployed_images_succeeds_with_a_store_on_nfs",
        tasks::chain,
    ),
    (
        "a_store_that_hangs_neither_delays_a_start_nor_keeps_a_runner_registered",
        tasks::store_hangs,
    ),
    (
        "a_task_without_ecs_runs_its_job_under_systemd_and_the_next_one_is_new",
        tasks::services,
    ),
    (
        "a_power_loss_with_three_tasks_leaves_nothing_of_them_and_a_sound_volume",
        boots::power_loss,
    ),
    ("a_disk_with_data_is_never_formatted", boots::foreign_disk),
    (
        "a_missing_disk_keeps_the_agent_from_starting_and_says_why",
        boots::missing_disk,
    ),
];

/// What all tests share: the root disk, and a host that was booted with an empty storage volume.
#[derive(Debug)]
struct Stage {
    workshop: Workshop,
    host: Mutex<Option<Machine>>,
    /// Whether a host has run on the root disk.
    used: AtomicBool,
}

impl Stage {
    fn storage(&self) -> PathBuf {
        self.workshop.file("storage.img")
    }

    /// The host, which runs when no test before has failed on it; else a new one.
    fn host(&self) -> Result<Host<'_>> {
        let mut slot = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = match slot.take() {
            Some(machine) => machine,
            None => {
                // The test that failed may have left anything.
                if self.used.swap(true, Ordering::Relaxed) {
                    self.workshop.make_disk()?;
                }
                empty_disk(&self.storage())?;
                let mut machine = self.boot(Some(&self.storage()), true)?;
                machine.run("until_true 'the agent runs' systemctl is-active ecs")?;
                machine
            }
        };
        Ok(Host { slot, machine })
    }

    /// Nobody else has the root disk then.
    fn end_host(&self) {
        drop(
            self.host
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    fn boot(&self, storage: Option<&Path>, docker: bool) -> Result<Machine> {
        Machine::boot(&Hardware {
            boot: &self.workshop.boot(),
            root: &self.workshop.root(),
            storage,
            docker,
        })
    }
}

/// A machine that is handed on to the next test, or ends with this one.
struct Host<'a> {
    slot: MutexGuard<'a, Option<Machine>>,
    machine: Machine,
}

impl Host<'_> {
    fn hand_on(mut self) {
        *self.slot = Some(self.machine);
    }
}

fn main() -> ExitCode {
    testhost::reexec();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1); // they share the root disk
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("the virtual machine: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let workshop = Workshop::open()?;
    let stage = Arc::new(Stage {
        workshop,
        host: Mutex::default(),
        used: AtomicBool::default(),
    });
    let conclusion = libtest_mimic::run(arguments, trials(Some(&stage)));
    stage.end_host();
    Ok(conclusion.exit_code())
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
