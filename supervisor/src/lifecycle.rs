//! The order of things: the only file that knows it.
//!
//! ```text
//! user, directories
//!   ├ restore caches ┐
//!   ├ GitHub token, version of the runner
//!   ├ Docker answers │ in parallel
//!   ├ externals      │
//!   └ the task's id  ┘
//! owe Deregister ─ register ─ owe PublishCaches ─ listener ─ owe StopRunner ─ job
//!                                     ╎ a signal, at any point
//! settle: stop the runner, then { publish caches ∥ deregister }
//! ```
//!
//! [`Task::prepare_and_serve`] may be dropped at any await. What must happen all the same is in
//! [`Owed`], recorded before the act that makes it necessary, and done by [`crate::settle`].

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::anyhow;
use init::{Children, Deadline, Owed, Signals, exit_code};
use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use crate::caches::{Caches, Condition};
use crate::config::Settings;
use crate::docker;
use crate::ecs::Ecs;
use crate::failure::Failure;
use crate::github::{self, Client};
use crate::http;
use crate::job_report::Reported;
use crate::listener::{Listener, Place};
use crate::listener_output::Ended;
use crate::progress::Progress;
use crate::registration::Registration;
use crate::settle::{Urgency, settle};
use crate::state::Stage;
use crate::summary;

/// How long a blocked standard output may hold up the exit; less than what a stop leaves for it.
const FLUSH: Duration = Duration::from_millis(800);
/// The same when nobody waits for us.
const PATIENT_FLUSH: Duration = Duration::from_secs(60);

/// What must happen before exit.
#[derive(Debug)]
pub(crate) enum Duty {
    Deregister(Registration),
    PublishCaches(Condition),
    StopRunner(Listener),
}

/// Why the work is over.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The listener ended by itself.
    Runner(Ended),
    Asked(Signal),
    /// ECS wants the task to stop, and the signal is still to come.
    Announced,
    Failed(Failure),
}

/// One run of the supervisor: everything that its parts share.
pub(crate) struct Task<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) children: &'a Children,
    pub(crate) progress: &'a Progress,
    pub(crate) ecs: &'a Ecs,
    pub(crate) caches: Option<Caches>,
    /// What the job's hook told.
    pub(crate) reported: Reported,
    /// The job was cut short by us.
    pub(crate) interrupted: Cell<bool>,
    /// How the listener ended, once it did.
    pub(crate) ended: RefCell<Option<Ended>>,
    /// Something is left at GitHub.
    pub(crate) left_behind: Cell<bool>,
}

/// Runs the whole life, tells about it on the HTTP port if there is one, and keeps ECS from ending
/// it while a job runs; the exit code.
pub(crate) async fn run(
    settings: &Settings,
    children: &Children,
    signals: &mut Signals,
) -> anyhow::Result<u8> {
    let port = match settings.http {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    let progress = Progress::new(settings.state_file.clone());
    let ecs = Ecs::new(&settings.ecs);
    let reported = Reported::default();
    let note_origin = async {
        progress.origin(reported.come().await);
        std::future::pending().await
    };
    let tell = async {
        match port {
            Some(port) => http::serve(port, &progress).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        code = live((settings, &ecs, &reported), children, signals, &progress) => Ok(code),
        () = note_origin => unreachable!("it waits for ever"),
        () = tell => unreachable!("it answers for ever"),
        () = ecs.keep_protection() => unreachable!("it goes on for ever"),
    }
}

async fn live(
    (settings, ecs, reported): (&Settings, &Ecs, &Reported),
    children: &Children,
    signals: &mut Signals,
    progress: &Progress,
) -> u8 {
    let mut task = Task {
        settings,
        children,
        progress,
        ecs,
        caches: None,
        reported: reported.clone(),
        interrupted: Cell::new(false),
        ended: RefCell::new(None),
        left_behind: Cell::new(false),
    };
    let mut owed = Owed::default();
    let mut stop = tokio::select! {
        biased;
        signal = signals.next() => Stop::Asked(signal),
        () = ecs.wants_stop() => Stop::Announced,
        ended = task.prepare_and_serve(&mut owed) => ended.map_or_else(Stop::Failed, Stop::Runner),
    };
    tell(&stop);
    progress.enter(Stage::Finishing);
    task.see_off(&mut stop, &mut owed, signals).await;
    // A log driver that was blocked may still have to take what the job printed.
    let patience = match stop {
        Stop::Runner(_) | Stop::Failed(_) => PATIENT_FLUSH,
        Stop::Asked(_) | Stop::Announced => FLUSH,
    };
    if !init::output::flushed(Deadline::within(patience)).await {
        tracing::warn!("standard output does not take the rest of the job's output");
    }
    let code = task.exit_code(&stop);
    progress.ended(code);
    summary::tell(progress, code);
    code
}

fn tell(stop: &Stop) {
    match stop {
        Stop::Runner(ended) => tracing::info!(?ended, "the runner has ended"),
        Stop::Asked(signal) => tracing::info!(%signal, "asked to stop"),
        Stop::Announced => tracing::info!(
            "ECS wants this task to stop: a spot instance is reclaimed, an instance is drained, or the task was stopped"
        ),
        Stop::Failed(failure) => tracing::error!("{:#}", failure.error),
    }
}

impl Task<'_> {
    /// Settles what is owed. Each signal shortens the time and skips nothing.
    async fn see_off(&self, stop: &mut Stop, owed: &mut Owed<Duty>, signals: &mut Signals) {
        let mut urgency = match stop {
            Stop::Asked(_) | Stop::Announced => Urgency::Asked,
            Stop::Runner(_) | Stop::Failed(_) => Urgency::Calm,
        };
        let mut deadline = urgency.deadline(self.settings.stop.timeout);
        // The signal that was announced says nothing new.
        let mut announced = matches!(stop, Stop::Announced);
        loop {
            let signal = tokio::select! {
                () = settle(self, owed, urgency, deadline) => return,
                signal = signals.next(), if urgency != Urgency::Hurried => signal,
            };
            if std::mem::take(&mut announced) {
                tracing::info!(%signal, "asked to stop, as announced");
                continue;
            }
            tracing::info!(%signal, "asked to stop while settling: hurrying");
            urgency = urgency.next();
            // Never later than what was promised before.
            deadline = deadline.min(urgency.deadline(self.settings.stop.timeout));
        }
    }

    async fn prepare_and_serve(&mut self, owed: &mut Owed<Duty>) -> Result<Ended, Failure> {
        let settings = self.settings;
        let user = self.prepare_user()?;
        let caches = settings.caches.as_ref();
        self.caches = caches.map(|caches| Caches::new(caches, Some(user.clone())));
        let task = &*self;
        let mut place = Place {
            runner: &settings.runner,
            user: &user,
            docker: settings.docker.as_ref(),
            groups: Vec::new(),
            hooks: task.listen_for_job(&user),
        };
        let (known, registrant, (), ()) = tokio::try_join!(
            task.restore(),
            task.meet_github(&place),
            task.wait_for_docker(),
            task.fill_externals(&user),
        )?;
        // The sidecar makes its socket when it starts: only now its group is known.
        place.groups = docker::socket_groups(settings.docker.as_ref());
        task.register(owed, &place, registrant).await?;
        if let Some(known) = known {
            owed.owe(Duty::PublishCaches(Condition {
                known,
                ..Condition::default()
            }));
        }
        let (served, over) = oneshot::channel::<()>();
        let serve = async {
            let ended = task.serve(owed, &place).await;
            drop(served);
            ended
        };
        let (ended, ()) = tokio::join!(serve, task.publish_early(over));
        ended
    }

    fn exit_code(&self, stop: &Stop) -> u8 {
        let code = code_of(stop, self.ended.borrow().as_ref(), self.interrupted.get());
        if code == exit_code::DONE && self.left_behind.get() {
            return exit_code::UNAVAILABLE;
        }
        code
    }
}

/// An answer of GitHub as the end of the task, in words for the operator.
pub(crate) fn explain(what: &str, error: &github::Error, client: &Client) -> Failure {
    let text = anyhow!("{what}: {}", error.explain(client.scope()));
    match error {
        github::Error::Unauthorized(_)
        | github::Error::Forbidden(_)
        | github::Error::NotFound(_)
        | github::Error::Conflict(_)
        | github::Error::Unprocessable(_) => Failure::refused(text),
        github::Error::Limited { .. }
        | github::Error::Server { .. }
        | github::Error::Transport { .. } => Failure::unavailable(text),
        github::Error::Unexpected(_) => Failure::from(text),
    }
}

/// The exit code that fits; README.md lists them.
fn code_of(stop: &Stop, ended: Option<&Ended>, interrupted: bool) -> u8 {
    let signal = |signal: Signal| init::Exit::Signal(signal).shell_code();
    match (stop, ended) {
        (_, Some(Ended::JobDone)) if !interrupted => exit_code::DONE,
        (Stop::Failed(failure), _) => failure.code,
        (Stop::Asked(by), _) => signal(*by),
        // As the signal that was to come.
        (Stop::Announced, _) => signal(Signal::SIGTERM),
        (Stop::Runner(ended), _) => match ended {
            Ended::JobDone => exit_code::DONE,
            Ended::TooOld => exit_code::REFUSED,
            Ended::NoJob
            | Ended::RegistrationGone
            | Ended::SessionConflict
            | Ended::Retryable
            | Ended::Updating => exit_code::UNAVAILABLE,
            Ended::Failed(_) => exit_code::UNEXPECTED,
            Ended::Killed(by) => signal(*by),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_the_work_was_done() {
        let asked = || Stop::Asked(Signal::SIGTERM);
        let failed = || Stop::Failed(Failure::refused(anyhow!("no")));
        let by_itself = |ended: &Ended| Stop::Runner(ended.clone());
        for (stop, ended, interrupted, code) in [
            (by_itself(&Ended::JobDone), Some(Ended::JobDone), false, 0),
            (asked(), Some(Ended::JobDone), false, 0),
            (asked(), Some(Ended::JobDone), true, 143),
            (asked(), Some(Ended::NoJob), false, 143),
            (asked(), None, false, 143),
            (Stop::Asked(Signal::SIGINT), None, false, 130),
            (Stop::Announced, Some(Ended::NoJob), false, 143),
            (failed(), None, false, 77),
            (by_itself(&Ended::TooOld), Some(Ended::TooOld), false, 77),
            (by_itself(&Ended::NoJob), Some(Ended::NoJob), false, 69),
            (
                by_itself(&Ended::SessionConflict),
                Some(Ended::SessionConflict),
                false,
                69,
            ),
            (
                by_itself(&Ended::Failed(1)),
                Some(Ended::Failed(1)),
                false,
                1,
            ),
            (by_itself(&Ended::Killed(Signal::SIGKILL)), None, false, 137),
        ] {
            assert_eq!(
                code_of(&stop, ended.as_ref(), interrupted),
                code,
                "{stop:?} {ended:?}"
            );
        }
    }
}
