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
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use init::{Children, Deadline, Owed, Signals, exit_code};
use nix::sys::signal::Signal;

use crate::caches::{Caches, Condition};
use crate::config::{CacheMode, CachePublish, Name, Settings};
use crate::docker;
use crate::ecs;
use crate::failure::Failure;
use crate::github::{self, Client, retry};
use crate::http;
use crate::listener::{self, Listener, Next, Place};
use crate::listener_output::{Ended, State};
use crate::progress::{Phase, Progress};
use crate::registration::{Registration, with_suffix};
use crate::runner_files;
use crate::settle::{Urgency, settle};
use crate::shared;
use crate::state::Stage;
use crate::summary;
use crate::user::User;
use crate::version::{self, Support};

/// How often a listener that could go on is started again.
const RESTARTS: u32 = 3;
const RESTART_PAUSE: Duration = Duration::from_secs(5);
/// How long the runner's update script may take (actions/runner `run-helper.sh.template`).
const UPDATE_LIMIT: Duration = Duration::from_secs(31);
/// The check of the version may not hold up a start for long.
const VERSION_ANSWER: Duration = Duration::from_secs(5);
const EXTERNALS_LIMIT: Duration = Duration::from_secs(300);

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
    Failed(Failure),
}

/// One run of the supervisor: everything that its parts share.
pub(crate) struct Task<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) children: &'a Children,
    pub(crate) progress: &'a Progress,
    pub(crate) caches: Option<Caches>,
    /// The job was cut short by us.
    pub(crate) interrupted: Cell<bool>,
    /// How the listener ended, once it did.
    pub(crate) ended: RefCell<Option<Ended>>,
    /// Something is left at GitHub.
    pub(crate) left_behind: Cell<bool>,
}

/// Runs the whole life, and tells about it on the HTTP port if there is one; the exit code.
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
    let tell = async {
        match port {
            Some(port) => http::serve(port, &progress).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        code = live(settings, children, signals, &progress) => Ok(code),
        () = tell => unreachable!("it answers for ever"),
    }
}

async fn live(
    settings: &Settings,
    children: &Children,
    signals: &mut Signals,
    progress: &Progress,
) -> u8 {
    let mut task = Task {
        settings,
        children,
        progress,
        caches: None,
        interrupted: Cell::new(false),
        ended: RefCell::new(None),
        left_behind: Cell::new(false),
    };
    let mut owed = Owed::default();
    let mut stop = tokio::select! {
        biased;
        signal = signals.next() => Stop::Asked(signal),
        ended = task.prepare_and_serve(&mut owed) => ended.map_or_else(Stop::Failed, Stop::Runner),
    };
    tell(&stop);
    progress.enter(Stage::Finishing);
    task.see_off(&mut stop, &mut owed, signals).await;
    let code = task.exit_code(&stop);
    progress.ended(code);
    summary::tell(progress, code);
    code
}

fn tell(stop: &Stop) {
    match stop {
        Stop::Runner(ended) => tracing::info!(?ended, "the runner has ended"),
        Stop::Asked(signal) => tracing::info!(%signal, "asked to stop"),
        Stop::Failed(failure) => tracing::error!("{:#}", failure.error),
    }
}

impl Task<'_> {
    /// Settles what is owed. Each signal shortens the time and skips nothing.
    async fn see_off(&self, stop: &mut Stop, owed: &mut Owed<Duty>, signals: &mut Signals) {
        let mut urgency = match stop {
            Stop::Asked(_) => Urgency::Asked,
            Stop::Runner(_) | Stop::Failed(_) => Urgency::Calm,
        };
        let mut deadline = urgency.deadline(self.settings.stop.timeout);
        loop {
            let settled = tokio::select! {
                () = settle(self, owed, urgency, deadline) => true,
                signal = signals.next(), if urgency != Urgency::Hurried => {
                    tracing::info!(%signal, "asked to stop while settling: hurrying");
                    false
                }
            };
            if settled {
                return;
            }
            urgency = urgency.next();
            // Never later than what was promised before.
            deadline = deadline.min(urgency.deadline(self.settings.stop.timeout));
        }
    }

    async fn prepare_and_serve(&mut self, owed: &mut Owed<Duty>) -> Result<Ended, Failure> {
        let settings = self.settings;
        let user = self.prepare_user()?;
        self.caches = settings.caches.as_ref().map(|caches| Caches {
            store: caches.store.clone(),
            roots: caches.roots.clone(),
            owner: Some(user.clone()),
        });
        let task = &*self;
        let mut place = Place {
            runner: &settings.runner,
            user: &user,
            docker: settings.docker.as_ref(),
            groups: Vec::new(),
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
        task.serve(owed, &place).await
    }

    /// What is needed before anything is asked of others.
    fn prepare_user(&self) -> Result<User, Failure> {
        let runner = &self.settings.runner;
        let phase = self.progress.begin("directories");
        let user = User::find(&runner.user, Path::new("/"))?;
        listener::find(&runner.home).map_err(Failure::unavailable)?;
        if runner.sudo {
            user.allow_sudo()?;
        }
        runner_files::clean(&runner.home)?;
        shared::make(runner, self.settings.caches.as_ref(), &user)?;
        phase.done(format_args!("user {}", user.name));
        Ok(user)
    }

    /// The units that are there before the job; `None` when nothing will be published.
    async fn restore(&self) -> Result<Option<BTreeSet<crate::caches::Unit>>, Failure> {
        let (Some(caches), Some(settings)) = (&self.caches, &self.settings.caches) else {
            return Ok(None);
        };
        let phase = self.progress.begin("cache-restore");
        let deadline = Deadline::within(settings.restore_timeout);
        let restored = caches.restore(self.children, deadline).await;
        for problem in &restored.problems {
            tracing::warn!(
                problem,
                "not everything could be restored; the job makes it anew"
            );
        }
        phase.done(format_args!(
            "{} units, {} files, {} bytes",
            restored.units, restored.files, restored.bytes
        ));
        if settings.mode != CacheMode::ReadWrite || settings.publish == CachePublish::Off {
            return Ok(None);
        }
        match caches
            .local_units(Deadline::within(settings.restore_timeout))
            .await
        {
            Ok(known) => Ok(Some(known)),
            Err(error) => {
                tracing::warn!("nothing will be published: {error:#}");
                Ok(None)
            }
        }
    }

    /// Everything that is asked of others by HTTP: a client that is let in and the runner's name.
    async fn meet_github(
        &self,
        place: &Place<'_>,
    ) -> Result<(Option<Rc<Client>>, String), Failure> {
        // Reading the system's certificates takes tens of milliseconds: not on this thread.
        let http = tokio::task::spawn_blocking(github::http).await;
        let http = http.context("cannot prepare HTTPS")??;
        let access = self.settings.identity.github();
        let client = access.map(|access| Client::new(access, http.clone()));
        let client = client.transpose()?.map(Rc::new);
        let ((), name) = tokio::try_join!(
            self.be_let_in(client.as_deref(), place),
            self.choose_name(&http)
        )?;
        Ok((client, name))
    }

    /// A token, and whether GitHub takes this version of the runner.
    async fn be_let_in(&self, client: Option<&Client>, place: &Place<'_>) -> Result<(), Failure> {
        let (Some(client), Some(access)) = (client, self.settings.identity.github()) else {
            return Ok(());
        };
        let authenticate = async {
            let phase = self.progress.begin("github-credentials");
            let deadline = Deadline::within(access.timeout);
            retry::until(deadline, "authenticate", async || {
                client.authenticate().await
            })
            .await
            .map_err(|error| explain("cannot authenticate at GitHub", &error, client))?;
            phase.done(client.scope());
            Ok(())
        };
        let ask_version = async {
            let version = place.version(self.children).await;
            version.map_err(|error| {
                Failure::unavailable(error.context("the runner's program does not work"))
            })
        };
        let ((), version) = tokio::try_join!(authenticate, ask_version)?;
        let phase = self.progress.begin("version-check");
        let answer = retry::within(
            Deadline::within(VERSION_ANSWER),
            client.deprecations(&version),
        )
        .await;
        let deprecations = answer.unwrap_or_else(|error| {
            tracing::debug!(%error, "GitHub does not tell until when the version is good");
            None
        });
        match version::support(deprecations.as_ref(), version::today()) {
            Support::Over(date) => {
                return Err(Failure::refused(anyhow!(
                    "the runner's version {version} is refused by GitHub since {date}; build the image with a newer RUNNER_VERSION"
                )));
            }
            Support::Unknown => phase.done(format_args!("{version}")),
            support @ Support::Until(days) => {
                if support.is_short() {
                    tracing::warn!(
                        version,
                        days_left = days,
                        "GitHub will refuse this version of the runner soon; build the image with a newer RUNNER_VERSION"
                    );
                }
                phase.done(format_args!("{version}, {days} days left"));
            }
        }
        Ok(())
    }

    async fn wait_for_docker(&self) -> Result<(), Failure> {
        let Some(docker) = self
            .settings
            .docker
            .as_ref()
            .filter(|docker| !docker.wait.is_zero())
        else {
            return Ok(());
        };
        let phase = self.progress.begin("docker-wait");
        let version = docker::wait(docker).await.map_err(Failure::unavailable)?;
        phase.done(format_args!("Docker {version}"));
        Ok(())
    }

    async fn fill_externals(&self, user: &User) -> Result<(), Failure> {
        let phase = self.progress.begin("externals");
        let deadline = Deadline::within(EXTERNALS_LIMIT);
        match shared::fill_externals(&self.settings.runner.home, user, self.children, deadline)
            .await?
        {
            Some(copied) => phase.done(format_args!(
                "{} files, {} bytes",
                copied.files, copied.bytes
            )),
            None => phase.done("nothing to copy"),
        }
        Ok(())
    }

    async fn choose_name(&self, http: &reqwest::Client) -> Result<String, Failure> {
        let runner = &self.settings.runner;
        let task = match (&runner.name, &self.settings.ecs) {
            (Name::Given(name), _) => return Ok(name.clone()),
            (Name::Unique, Some(endpoint)) => ecs::task_id(http, endpoint).await,
            (Name::Unique, None) => None,
        };
        let prefix = runner.prefix.trim_end_matches('-');
        Ok(match task {
            Some(id) => {
                let kept = crate::config::LONGEST_NAME.saturating_sub(id.len() + 1);
                format!("{}-{id}", prefix.chars().take(kept).collect::<String>())
            }
            None => with_suffix(prefix),
        })
    }

    /// Starts the listener, and again when that helps, until its end means something.
    async fn serve(&self, owed: &mut Owed<Duty>, place: &Place<'_>) -> Result<Ended, Failure> {
        let mut starts = 0;
        loop {
            self.progress.enter(Stage::Connecting);
            let phase = self.progress.begin("listener-start");
            let listener = Listener::start(place, self.children)?;
            // No await between the start and the debt.
            let Duty::StopRunner(listener) = owed.owe(Duty::StopRunner(listener)) else {
                unreachable!("this duty was just owed");
            };
            let ended = self.follow(listener, phase).await;
            owed.done();
            starts += 1;
            self.ended.replace(Some(ended.clone()));
            if starts > RESTARTS {
                return Ok(ended);
            }
            match ended {
                Ended::Retryable => {
                    tracing::warn!(
                        starts,
                        "the runner's listener failed and may be started again"
                    );
                    tokio::time::sleep(RESTART_PAUSE * starts).await;
                }
                Ended::Updating => {
                    tracing::warn!(
                        "the runner updates itself, which costs every task a minute; build the image with a newer RUNNER_VERSION"
                    );
                    self.wait_for_update().await;
                }
                Ended::JobDone
                | Ended::NoJob
                | Ended::RegistrationGone
                | Ended::TooOld
                | Ended::SessionConflict
                | Ended::Failed(_)
                | Ended::Killed(_) => return Ok(ended),
            }
        }
    }

    async fn follow(&self, listener: &mut Listener, phase: Phase<'_>) -> Ended {
        let mut phase = Some(phase);
        let mut advance = |state: &State| {
            self.record(state);
            let (next, detail) = match state {
                State::Started | State::Connected | State::Stopping => return,
                State::Idle => (Some("idle"), "listening for jobs".to_owned()),
                State::Busy { job } => (Some("job"), job.clone()),
                State::Done { job, result } => (None, format!("{job}: {result}")),
            };
            if let Some(phase) = phase.take() {
                phase.done(detail);
            }
            phase = next.map(|name| self.progress.begin(name));
        };
        let ended = loop {
            match listener.next().await {
                Next::Changed(state) => advance(&state),
                Next::Ended(ended) => break ended,
            }
        };
        while let Some(state) = listener.missed() {
            advance(&state);
        }
        if let Some(phase) = phase {
            phase.done("the listener has ended");
        }
        ended
    }

    /// Tells the job's record.
    pub(crate) fn record(&self, state: &State) {
        match state {
            State::Started | State::Connected | State::Stopping => {}
            State::Idle => self.progress.enter(Stage::Idle),
            State::Busy { job } => self.progress.job(job),
            State::Done { result, .. } => self.progress.result(result),
        }
    }

    async fn wait_for_update(&self) {
        let finished = self.settings.runner.home.join("update.finished");
        let deadline = Deadline::within(UPDATE_LIMIT);
        while !finished.exists() && !deadline.is_over() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
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
