//! What the runner's listener says and what its end means. Pure: lines and numbers in, states out.
//!
//! The lines are those of actions/runner (`Runner.cs`, `JobDispatcher.cs`,
//! `BrokerMessageListener.cs`, `MessageListener.cs`, `ConfigurationManager.cs`), the numbers those
//! of `Constants.cs`. A job's name is the workflow author's text and may look like any of them:
//! a line counts only from its first byte, after the time stamp that the listener puts there.
//! A job can write to this output too, so a state here never proves that a job is over; only the
//! listener's exit does.

use init::Exit;
use nix::sys::signal::Signal;

/// A line that means something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Connected,
    Version(String),
    Listening,
    JobStarted(String),
    JobCompleted { name: String, result: String },
    ConnectError,
    Reconnected,
    SessionConflict,
    RegistrationGone,
    TooOld,
    Updating,
    Stopping,
}

impl Line {
    /// Reads a line without its end; `None` for one that means nothing.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        // Job logs can come this way by the gigabyte: most lines are told by their first byte.
        match line.first()? {
            b'0'..=b'9' => Self::after_time_stamp(line),
            0xe2 | b'A' | b'C' | b'E' | b'F' | b'R' | b'S' | b'T' => Self::plain(line),
            _ => None,
        }
    }

    fn after_time_stamp(line: &[u8]) -> Option<Self> {
        let stamp = line.get(..20)?;
        // Most lines of a job's log begin with a time, and few with this form of it.
        if (stamp[10], stamp[19]) != (b' ', b'Z') {
            return None;
        }
        let shape = b"dddd-dd-dd dd:dd:ddZ";
        let fits = |(byte, like): (&u8, &u8)| {
            if *like == b'd' {
                byte.is_ascii_digit()
            } else {
                byte == like
            }
        };
        if !stamp.iter().zip(shape).all(fits) {
            return None;
        }
        let text = String::from_utf8_lossy(line.get(20..)?.strip_prefix(b": ")?);
        let text = text.trim_end();
        if let Some(name) = text.strip_prefix("Running job: ") {
            return Some(Self::JobStarted(name.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("Job ") {
            // The last one: the name before it may contain the same words.
            let (name, result) = rest.rsplit_once(" completed with result: ")?;
            return Some(Self::JobCompleted {
                name: name.to_owned(),
                result: result.to_owned(),
            });
        }
        match text {
            "Listening for Jobs" => Some(Self::Listening),
            "Runner reconnected." => Some(Self::Reconnected),
            _ if text.starts_with("Runner connect error: ") => Some(Self::ConnectError),
            _ => None,
        }
    }

    fn plain(line: &[u8]) -> Option<Self> {
        let text = str::from_utf8(line.get(..line.len().min(512))?)
            .ok()?
            .trim_end();
        if let Some(rest) = text.strip_prefix("Current runner version: '") {
            return Some(Self::Version(rest.trim_end_matches('\'').to_owned()));
        }
        let starts = |prefix: &str| text.starts_with(prefix);
        if starts("An error occurred: Runner version v")
            && text.ends_with("is deprecated and cannot receive messages.")
        {
            return Some(Self::TooOld);
        }
        if starts("Failed to create a session. The runner registration has been deleted")
            || starts("The runner no longer exists on the server.")
        {
            return Some(Self::RegistrationGone);
        }
        match text {
            "√ Connected to GitHub" => Some(Self::Connected),
            "Exiting..." => Some(Self::Stopping),
            "A session for this runner already exists." => Some(Self::SessionConflict),
            _ if starts("Runner update in progress") => Some(Self::Updating),
            _ => None,
        }
    }
}

/// Where the listener stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It was executed.
    Started,
    /// It speaks to GitHub and may not take jobs yet.
    Connected,
    /// It takes jobs.
    Idle,
    Busy {
        job: String,
    },
    /// Its one job is over; it finishes.
    Done {
        job: String,
        result: String,
    },
    /// It was told to stop.
    Stopping,
}

/// All that was learnt from the lines so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: State,
    /// The job that was started, whatever became of it.
    pub(crate) job: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) version: Option<String>,
    /// It cannot reach GitHub at the moment.
    pub(crate) disconnected: bool,
    pub(crate) conflict: bool,
    pub(crate) registration_gone: bool,
    pub(crate) too_old: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            state: State::Started,
            job: None,
            result: None,
            version: None,
            disconnected: false,
            conflict: false,
            registration_gone: false,
            too_old: false,
        }
    }
}

impl Seen {
    /// What is known after one more line.
    pub(crate) fn note(&mut self, line: Line) {
        match line {
            Line::Connected if self.state == State::Started => self.state = State::Connected,
            Line::Connected | Line::Updating => {}
            Line::Version(version) => self.version = Some(version),
            // After each new session: a runner that lost its session while a job runs is busy.
            Line::Listening if self.job.is_none() => self.state = State::Idle,
            Line::Listening => {}
            Line::JobStarted(job) => {
                if self.job.is_none() {
                    self.job = Some(job.clone());
                    self.state = State::Busy { job };
                }
            }
            Line::JobCompleted { name, result } => {
                // A line about another job than the one that runs is not the listener's.
                if self.job.as_ref() == Some(&name) {
                    self.result = Some(result.clone());
                    self.state = State::Done { job: name, result };
                }
            }
            Line::ConnectError => self.disconnected = true,
            Line::Reconnected => self.disconnected = false,
            Line::SessionConflict => self.conflict = true,
            Line::RegistrationGone => self.registration_gone = true,
            Line::TooOld => self.too_old = true,
            Line::Stopping => {
                if self.job.is_none() {
                    self.state = State::Stopping;
                }
            }
        }
    }

    /// Whether a job was started.
    pub(crate) fn had_job(&self) -> bool {
        self.job.is_some()
    }
}

/// What the listener's exit means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its job is over, whatever the job's result.
    JobDone,
    /// It ended in order and no job had come: stopped, or taken off the server.
    NoJob,
    /// GitHub does not know the registration (any more).
    RegistrationGone,
    /// GitHub refuses this version of the runner.
    TooOld,
    /// Another listener uses the registration.
    SessionConflict,
    /// A start with the same registration can help.
    Retryable,
    /// It wants to be started again after its update.
    Updating,
    /// It gave up for another reason.
    Failed(u8),
    /// Somebody killed it.
    Killed(Signal),
}

/// Reads the listener's exit in the light of what it said.
pub(crate) fn meaning(exit: Exit, seen: &Seen) -> Ended {
    let code = match exit {
        Exit::Signal(signal) => return Ended::Killed(signal),
        Exit::Code(code) => code,
    };
    match code {
        // A job that ran is not run again, and its processes may have written any of the lines.
        0 if seen.had_job() => Ended::JobDone,
        // With ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED the job's result is added to 100.
        100..=105 => Ended::JobDone,
        other if seen.had_job() => Ended::Failed(other),
        7 => Ended::TooOld,
        _ if seen.too_old => Ended::TooOld,
        _ if seen.registration_gone => Ended::RegistrationGone,
        0 => Ended::NoJob,
        2 => Ended::Retryable,
        3 | 4 => Ended::Updating,
        5 => Ended::SessionConflict,
        other => Ended::Failed(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Line> {
        Line::read(line.as_bytes())
    }

    #[test]
    fn the_documented_lines_are_understood() {
        let at = "2026-11-21 09:00:00Z: ";
        let job = |name: &str| Some(Line::JobStarted(name.into()));
        let done = |name: &str, result: &str| {
            Some(Line::JobCompleted {
                name: name.into(),
                result: result.into(),
            })
        };
        for (line, expected) in [
            ("√ Connected to GitHub".into(), Some(Line::Connected)),
            ("Current runner version: '2.336.0'".into(), Some(Line::Version("2.336.0".into()))),
            (format!("{at}Listening for Jobs"), Some(Line::Listening)),
            (format!("{at}Running job: build"), job("build")),
            (format!("{at}Job build completed with result: Failed"), done("build", "Failed")),
            (format!("{at}Runner connect error: x. Retrying until reconnected."), Some(Line::ConnectError)),
            (format!("{at}Runner reconnected."), Some(Line::Reconnected)),
            ("A session for this runner already exists.".into(), Some(Line::SessionConflict)),
            ("The runner no longer exists on the server. Cleaning up local configuration.".into(), Some(Line::RegistrationGone)),
            ("Failed to create a session. The runner registration has been deleted from the server, please re-configure.".into(), Some(Line::RegistrationGone)),
            ("An error occurred: Runner version v2.3.0 is deprecated and cannot receive messages.".into(), Some(Line::TooOld)),
            ("Runner update in progress, do not shutdown runner.".into(), Some(Line::Updating)),
            ("Exiting...".into(), Some(Line::Stopping)),
            ("Listening for Jobs".into(), None),
            ("Running job: build".into(), None),
            ("".into(), None),
            ("[WORKER 2026-11-21 09:00:00Z INFO x] 2026-11-21 09:00:00Z: Running job: y".into(), None),
        ] {
            assert_eq!(read(&line), expected, "{line}");
        }
    }

    #[test]
    fn a_hostile_job_name_is_only_a_name() {
        let at = "2026-11-21 09:00:00Z: ";
        let name = "x completed with result: Succeeded";
        let mut seen = Seen::default();
        for line in [
            format!("{at}Listening for Jobs"),
            format!("{at}Running job: {name}"),
        ] {
            seen.note(read(&line).unwrap());
        }
        assert_eq!(seen.state, State::Busy { job: name.into() });
        seen.note(read(&format!("{at}Job other completed with result: Succeeded")).unwrap());
        seen.note(read(&format!("{at}Running job: second")).unwrap());
        assert_eq!(
            seen.state,
            State::Busy { job: name.into() },
            "a forged line was believed"
        );
        seen.note(read(&format!("{at}Job {name} completed with result: Failed")).unwrap());
        let expected = State::Done {
            job: name.into(),
            result: "Failed".into(),
        };
        assert_eq!(seen.state, expected);
    }

    #[test]
    fn bytes_that_are_no_text_mean_nothing() {
        assert_eq!(Line::read(b"\xe2\xff\xfe"), None);
        assert_eq!(Line::read(b"2026-11-21 09:00:00Z: \xff"), None);
    }

    #[test]
    fn an_exit_is_read_in_the_light_of_what_was_said() {
        let idle = Seen::default();
        let job = Seen {
            job: Some("build".into()),
            ..Seen::default()
        };
        let gone = Seen {
            registration_gone: true,
            ..Seen::default()
        };
        let old = Seen {
            too_old: true,
            ..Seen::default()
        };
        for (code, seen, expected) in [
            (0, &job, Ended::JobDone),
            (0, &idle, Ended::NoJob),
            (0, &gone, Ended::RegistrationGone),
            (1, &idle, Ended::Failed(1)),
            (1, &gone, Ended::RegistrationGone),
            (1, &old, Ended::TooOld),
            (2, &idle, Ended::Retryable),
            (2, &gone, Ended::RegistrationGone),
            (2, &job, Ended::Failed(2)),
            (3, &idle, Ended::Updating),
            (4, &idle, Ended::Updating),
            (5, &idle, Ended::SessionConflict),
            (7, &idle, Ended::TooOld),
            (102, &job, Ended::JobDone),
            (139, &idle, Ended::Failed(139)),
        ] {
            assert_eq!(meaning(Exit::Code(code), seen), expected, "{code} {seen:?}");
        }
        let killed = meaning(Exit::Signal(Signal::SIGKILL), &job);
        assert_eq!(killed, Ended::Killed(Signal::SIGKILL));
    }
}
