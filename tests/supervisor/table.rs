//! The table of the README: every fault in every phase, and what comes of it.
//!
//! The README is the list of cases: each cell is one life of a supervisor, with the exit code that
//! the cell says, in the time that the fault is given, and with nothing left behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::docker_double::DockerDouble;
use crate::harness::{Trial, wait_until};
use crate::table_faults::{FAULTS, Fault};
use crate::table_phases::{PHASES, Phase};

/// Most of a life is waiting.
const AT_ONCE: usize = 8;
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// One life.
pub(crate) struct Life {
    /// Ended first: its socket is in the trial's folder.
    pub(crate) docker: DockerDouble,
    pub(crate) trial: Trial,
}

struct Cell {
    phase: &'static Phase,
    fault: &'static Fault,
    code: i32,
}

/// Every row of a table of the README's section about faults: its first cell and the others.
fn rows() -> Vec<Vec<String>> {
    let readme = include_str!("../../supervisor/README.md");
    let section = readme
        .split("\n## ")
        .find(|part| part.starts_with("Faults"));
    let rows = section
        .expect("the README has a section about faults")
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect()
    })
    .collect()
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut heads = Vec::new();
    for row in rows() {
        if row[0] == "phase" {
            heads = row[1..].to_vec();
            continue;
        }
        let phase = PHASES
            .iter()
            .find(|phase| phase.name == row[0])
            .unwrap_or_else(|| panic!("{}: no such phase", row[0]));
        for (head, cell) in heads.iter().zip(&row[1..]) {
            let fault = FAULTS
                .iter()
                .find(|fault| fault.name == head)
                .unwrap_or_else(|| panic!("{head}: no such fault"));
            let happens = (fault.happens)(phase);
            assert_eq!(happens, cell != "–", "{head} while {}", phase.name);
            if happens {
                let code = cell
                    .parse()
                    .unwrap_or_else(|_| panic!("{cell}: no exit code"));
                cells.push(Cell { phase, fault, code });
            }
        }
    }
    let possible = PHASES.iter().flat_map(|phase| {
        FAULTS
            .iter()
            .filter(|fault| (fault.happens)(phase))
            .map(|fault| (phase.name, fault.name))
    });
    let listed: Vec<_> = cells
        .iter()
        .map(|cell| (cell.phase.name, cell.fault.name))
        .collect();
    for case in possible {
        assert!(listed.contains(&case), "the README does not list {case:?}");
    }
    cells
}

impl Cell {
    fn name(&self) -> String {
        format!("{} while {}", self.fault.name, self.phase.name)
    }

    fn live(&self) {
        let mut trial = Trial::with_job_lock(self.fault.job_lock);
        trial
            .set("RUNNER_NAME", "")
            .set("RUNNER_NAME_PREFIX", "trial")
            .set("STOP_TIMEOUT", STOP_TIMEOUT.as_secs())
            .set("WAIT_FOR_DOCKER", 3)
            .set("CACHE_RESTORE_TIMEOUT", 2);
        let docker = DockerDouble::of(&mut trial);
        let mut life = Life { trial, docker };
        (self.phase.arrange)(&mut life);
        (self.fault.arrange)(&mut life, self.phase);
        let supervisor = life.trial.start(&[]);
        (self.phase.arrive)(&life, &supervisor);
        let struck = Instant::now();
        (self.fault.strike)(&mut life, self.phase, &supervisor);
        if self.fault.goes_on {
            (self.phase.leave)(&life);
        }
        let ended = supervisor.end();
        let took = struck.elapsed();
        assert_eq!(ended.code, self.code, "{}", ended.log_text());
        assert!(took < self.fault.budget, "it took {took:?}");
        life.trial.double.clear_faults();
        if self.fault.sweeps {
            sweep(&life.trial);
        } else {
            assert_eq!(ended.log.last().unwrap()["message"], "summary");
        }
        life.trial.assert_nothing_is_left(&self.name());
    }
}

/// As the operator does it after a supervisor was killed.
fn sweep(trial: &Trial) {
    // In a container they die with PID 1.
    trial.kill_orphans();
    wait_until("GitHub takes the runner for lost", || {
        trial
            .double
            .runners()
            .iter()
            .all(|runner| !runner.online && !runner.busy)
    });
    assert_eq!(trial.start(&["sweep", "--delete"]).end().code, 0);
}

#[test]
fn every_fault_in_every_phase_has_the_documented_outcome() {
    let only = std::env::var("CELL").unwrap_or_default();
    let cells: Vec<Cell> = cells()
        .into_iter()
        .filter(|cell| cell.name().contains(&only))
        .collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if catch_unwind(AssertUnwindSafe(|| cell.live())).is_err() {
                        failed.lock().unwrap().push(cell.name());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {} cells: {failed:#?}",
        failed.len(),
        cells.len()
    );
}
