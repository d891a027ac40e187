//! The last words: one event that tells the whole run, as a table for people or as fields for
//! machines.

use init::exit_code;
use init::log::{self, Format};

use crate::progress::{Past, Progress};
use crate::state::State;

/// The whole run.
struct Record {
    code: u8,
    elapsed_ms: u64,
    state: State,
    phases: Vec<Past>,
}

/// Tells the run's record.
pub(crate) fn tell(progress: &Progress, code: u8) {
    let record = Record {
        code,
        elapsed_ms: u64::try_from(progress.elapsed().as_millis()).unwrap_or(u64::MAX),
        state: progress.state(),
        phases: progress.phases(),
    };
    match (log::format(), code == exit_code::DONE) {
        (Some(Format::Text), true) => tracing::info!("{}", record.table()),
        (Some(Format::Text), false) => tracing::warn!("{}", record.table()),
        (_, done) => record.tell_machines(done),
    }
}

impl Record {
    /// What a phase brought when it ran last.
    fn detail(&self, phase: &str) -> Option<&str> {
        let past = self.phases.iter().rev().find(|past| past.phase == phase)?;
        Some(&past.detail)
    }

    /// How long a phase took, all its times together.
    fn took(&self, phase: &str) -> Option<u64> {
        let times = self.phases.iter().filter(|past| past.phase == phase);
        times
            .map(|past| past.elapsed_ms)
            .reduce(|all, one| all + one)
    }

    /// A field for each phase that there was, so that log queries can do sums. What was owed, and
    /// what became of it, is in `restored`, `published` and `deregistered`.
    fn tell_machines(&self, done: bool) {
        let state = &self.state;
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    exit_code = self.code,
                    elapsed_ms = self.elapsed_ms,
                    runner = state.runner,
                    job = state.job,
                    result = state.result,
                    repository = state.repository,
                    run_id = state.run_id,
                    restored = self.detail("cache-restore"),
                    published = self.detail("cache-publish"),
                    deregistered = self.detail("deregister"),
                    directories_ms = self.took("directories"),
                    cache_restore_ms = self.took("cache-restore"),
                    docker_wait_ms = self.took("docker-wait"),
                    shared_directories_ms = self.took("shared-directories"),
                    github_credentials_ms = self.took("github-credentials"),
                    version_check_ms = self.took("version-check"),
                    externals_ms = self.took("externals"),
                    register_ms = self.took("register"),
                    listener_start_ms = self.took("listener-start"),
                    idle_ms = self.took("idle"),
                    job_ms = self.took("job"),
                    runner_stop_ms = self.took("runner-stop"),
                    cache_publish_ms = self.took("cache-publish"),
                    deregister_ms = self.took("deregister"),
                    "summary"
                )
            };
        }
        if done {
            tell!(info);
        } else {
            tell!(warn);
        }
    }

    /// For people: a line for each phase, in the order in which they ended.
    fn table(&self) -> String {
        let state = &self.state;
        let mut table = format!(
            "summary: exit code {} after {} ms",
            self.code, self.elapsed_ms
        );
        let mut row = |name: &str, middle: &str, detail: &str| {
            // Names of jobs are other people's: none begins a line of its own.
            let detail = detail.replace(char::is_control, "\u{fffd}");
            let line = format!("  {name:<20} {middle:>10}  {detail}");
            table = format!("{table}\n{}", line.trim_end());
        };
        row("runner", "", state.runner.as_deref().unwrap_or("none"));
        let mut job = state.job.clone().unwrap_or_else(|| "none".to_owned());
        for more in [&state.result, &state.repository].into_iter().flatten() {
            job = format!("{job}, {more}");
        }
        row("job", "", &job);
        for past in &self.phases {
            row(past.phase, &format!("{} ms", past.elapsed_ms), &past.detail);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(phase: &'static str, elapsed_ms: u64, detail: &str) -> Past {
        Past {
            phase,
            elapsed_ms,
            detail: detail.to_owned(),
        }
    }

    fn record() -> Record {
        let mut state = State::new();
        state.runner = Some("ecs-1".into());
        state.job = Some("bu\nild".into());
        state.result = Some("Succeeded".into());
        Record {
            code: 0,
            elapsed_ms: 1234,
            state,
            phases: vec![
                past("register", 100, "interrupted"),
                past("register", 34, "ecs-1"),
                past("deregister", 5, "gone"),
            ],
        }
    }

    #[test]
    fn people_read_a_table_with_a_line_for_each_phase() {
        let expected = [
            "summary: exit code 0 after 1234 ms",
            "  runner                           ecs-1",
            "  job                              bu\u{fffd}ild, Succeeded",
            "  register                 100 ms  interrupted",
            "  register                  34 ms  ecs-1",
            "  deregister                 5 ms  gone",
        ];
        assert_eq!(record().table(), expected.join("\n"));
    }

    #[test]
    fn a_phase_that_ran_twice_took_both_times_and_brought_what_the_last_one_brought() {
        let record = record();
        assert_eq!(record.took("register"), Some(134));
        assert_eq!(record.detail("register"), Some("ecs-1"));
        assert_eq!((record.took("job"), record.detail("job")), (None, None));
    }
}
