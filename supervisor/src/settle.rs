//! What must happen before exit, inside one deadline: nothing here returns early or fails.
//!
//! First the runner stops, because a job that runs would go on writing what is published. Then the
//! caches and the registration, which know nothing of each other: a store that hangs does not cost
//! the deregistration, and a dead GitHub not the caches.

use std::rc::Rc;
use std::time::Duration;

use init::{Deadline, Owed};

use crate::caches::Condition;
use crate::config::{CachePublish, OnStop};
use crate::github::{Client, retry};
use crate::job_report::{Trust, trust};
use crate::lifecycle::{Duty, Task};
use crate::listener::Listener;
use crate::listener_output::Ended;
use crate::processes;
use crate::registration::{Registration, Removal};

/// What publishing and deregistering get of a stop's time.
const RESERVE: Duration = Duration::from_secs(8);
/// What an interrupted job gets: ten seconds for its step, some for its last words
/// (actions/runner `ProcessInvoker.cs`).
const INTERRUPT: Duration = Duration::from_secs(14);
/// What the last steps of a cancelled run get.
const CANCELLED: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(3);
/// What of it a runner needs to report the end of a job whose steps were killed.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// An idle listener needs not a second.
const IDLE: Duration = Duration::from_secs(5);
/// The question whether an idle runner is idle: a runner that nobody uses is gone within 2 s.
const IDLE_CHECK: Duration = Duration::from_millis(1500);
/// When nobody waits for us. GitHub's lock on a job whose runner died lasts about ten minutes.
const CALM: Duration = Duration::from_secs(960);
/// Longer than the pause of a rate limit that does not say how long it lasts.
const CALM_GITHUB: Duration = Duration::from_secs(180);
/// After a second signal.
const HURRY: Duration = Duration::from_secs(5);

/// How much time there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Nobody asked us to stop.
    Calm,
    /// ECS kills us when the stop's time is over.
    Asked,
    /// Somebody asked again.
    Hurried,
}

impl Urgency {
    pub(crate) fn deadline(self, stop_timeout: Duration) -> Deadline {
        // The last tenth, or second, is for the summary and the exit.
        let budget = stop_timeout - (stop_timeout / 10).min(Duration::from_secs(1));
        Deadline::within(match self {
            Self::Calm => CALM,
            Self::Asked => budget,
            Self::Hurried => budget.min(HURRY),
        })
    }

    pub(crate) fn next(self) -> Self {
        match self {
            Self::Calm => Self::Asked,
            Self::Asked | Self::Hurried => Self::Hurried,
        }
    }
}

/// Does everything that is owed, as far as the time allows.
pub(crate) async fn settle(
    task: &Task<'_>,
    owed: &mut Owed<Duty>,
    urgency: Urgency,
    deadline: Deadline,
) {
    stop_runner(task, owed, urgency, deadline).await;
    // Daemons that the job left behind would go on writing into the caches.
    let killed = processes::kill_descendants();
    if killed > 0 {
        tracing::info!(killed, "killed what the job left running");
    }
    let (mut registration, mut condition) = (None, None);
    for duty in owed.iter_mut() {
        match duty {
            Duty::Deregister(owed) => registration = Some(owed),
            Duty::PublishCaches(owed) => condition = Some(owed),
            Duty::StopRunner(_) => {}
        }
    }
    let (removed, (), ()) = tokio::join!(
        deregister(task, registration, deadline),
        publish(task, condition, deadline),
        task.ecs.release(deadline),
    );
    task.left_behind.set(!removed);
    owed.settled(|duty| matches!(duty, Duty::PublishCaches(_)));
    // What could not be removed stays owed: the log's last line tells its name.
    if removed {
        owed.settled(|duty| matches!(duty, Duty::Deregister(_)));
    }
}

async fn stop_runner(task: &Task<'_>, owed: &mut Owed<Duty>, urgency: Urgency, deadline: Deadline) {
    let (mut registration, mut listener) = (None, None);
    for duty in owed.iter_mut() {
        match duty {
            Duty::Deregister(owed) => registration = Some(owed),
            Duty::StopRunner(owed) => listener = Some(owed),
            Duty::PublishCaches(_) => {}
        }
    }
    let Some(listener) = listener else { return };
    let phase = task.progress.begin("runner-stop");
    let ended = stop(
        task,
        (listener, registration),
        urgency,
        deadline.reserving(RESERVE),
    )
    .await;
    while let Some(state) = listener.missed() {
        task.record(&state);
    }
    phase.done(match &ended {
        Some(ended) => format!("{ended:?}"),
        None => "killed".to_owned(),
    });
    task.ended.replace(ended);
    owed.settled(|duty| matches!(duty, Duty::StopRunner(_)));
}

/// Stops the listener by the mildest means that the time allows; `None` when it was killed.
async fn stop(
    task: &Task<'_>,
    (listener, mut registration): (&mut Listener, Option<&mut Registration>),
    urgency: Urgency,
    deadline: Deadline,
) -> Option<Ended> {
    if listener.is_finishing()
        && let Some(ended) = deadline.at_most(IDLE).bound(listener.ended()).await
    {
        return Some(ended);
    }
    let mut working = listener.is_working() || listener.is_finishing();
    if !working && urgency != Urgency::Hurried {
        // A job may be on its way at this moment. GitHub knows: it removes an idle runner only.
        working = has_job(registration.as_deref_mut(), deadline.at_most(IDLE_CHECK)).await;
    }
    let drains = task.settings.stop.policy == OnStop::Drain && urgency != Urgency::Hurried;
    if working && drains {
        let interrupt = deadline.reserving(INTERRUPT);
        let client = registration.map(|registration| registration.client());
        if let Some(ended) = drain(task, listener, client, interrupt).await {
            return Some(ended);
        }
        tracing::warn!(
            "the time does not suffice for the job; raise STOP_TIMEOUT and the task's stopTimeout"
        );
    }
    if working {
        task.interrupted.set(true);
    }
    listener.interrupt();
    let ended = if working {
        end_job(listener, deadline).await
    } else {
        deadline.at_most(IDLE).bound(listener.ended()).await
    };
    if ended.is_none() {
        tracing::warn!("the runner did not stop when it was interrupted; killing it");
        listener.kill();
    }
    // A job that came after the question was cut short too.
    task.interrupted
        .set(task.interrupted.get() || listener.seen().had_job());
    ended
}

/// Lets the job go on. What does not end in time is cancelled by GitHub, if we may: then its
/// `always()` and post steps run, which an interruption skips (actions/runner `StepsRunner.cs`).
async fn drain(
    task: &Task<'_>,
    listener: &mut Listener,
    client: Option<Rc<Client>>,
    deadline: Deadline,
) -> Option<Ended> {
    let job = task.reported.get();
    let run = job.and_then(|job| Some((job.repository, job.run_id?)));
    let cancel = client.zip(run);
    let first = match &cancel {
        Some(_) => deadline.reserving(CANCELLED),
        None => deadline,
    };
    let seconds = first.remaining().as_secs();
    tracing::info!(seconds, "the job goes on while there is time");
    let ended = first.bound(listener.ended()).await;
    let Some((client, (repository, run))) = cancel.filter(|_| ended.is_none()) else {
        return ended;
    };
    match retry::within(
        deadline.at_most(ANSWER),
        client.cancel_run(&repository, run),
    )
    .await
    {
        Ok(()) => {
            tracing::warn!(
                repository,
                run,
                "the run was cancelled so that its last steps run"
            );
            task.interrupted.set(true);
        }
        Err(error) => tracing::info!(
            %error,
            "the run cannot be cancelled; with the permission \"Actions\": write its always() steps would run"
        ),
    }
    deadline.bound(listener.ended()).await
}

/// Waits for an interrupted job; a step that does not react is killed in time for the rest.
async fn end_job(listener: &mut Listener, deadline: Deadline) -> Option<Ended> {
    let ended = deadline.reserving(LAST_WORDS).bound(listener.ended()).await;
    if ended.is_some() {
        return ended;
    }
    tracing::warn!("the job does not react to the interruption; killing its steps");
    listener.kill_steps();
    deadline.bound(listener.ended()).await
}

async fn has_job(registration: Option<&mut Registration>, deadline: Deadline) -> bool {
    let Some(registration) = registration else {
        return false;
    };
    match deadline.bound(registration.remove_if_idle(deadline)).await {
        Some(Ok(removal)) => removal == Removal::Busy,
        Some(Err(error)) => {
            tracing::debug!(%error, "GitHub does not tell whether a job is on its way");
            false
        }
        None => false,
    }
}

/// Removes the registration; whether it is gone.
async fn deregister(
    task: &Task<'_>,
    registration: Option<&mut Registration>,
    deadline: Deadline,
) -> bool {
    let Some(registration) = registration else {
        return true;
    };
    let phase = task.progress.begin("deregister");
    let answer = deadline.at_most(CALM_GITHUB);
    match registration.remove(answer, deadline).await {
        Ok(Removal::Gone) => {
            phase.done("gone");
            true
        }
        Ok(Removal::Busy) => {
            phase.done("left behind");
            tracing::error!(
                ?registration,
                "GitHub keeps the registration because of its job; supervisor sweep removes it later"
            );
            false
        }
        Err(error) => {
            phase.done("left behind");
            tracing::error!(?registration, %error, "cannot remove the registration; supervisor sweep removes it later");
            false
        }
    }
}

/// Publishes what the job added. Without a job there is nothing.
async fn publish(task: &Task<'_>, condition: Option<&mut Condition>, deadline: Deadline) {
    let (Some(condition), Some(caches), Some(settings)) =
        (condition, &task.caches, &task.settings.caches)
    else {
        return;
    };
    if task.progress.state().job.is_none() {
        return;
    }
    if settings.publish == CachePublish::Trusted {
        match trust(task.reported.get().as_ref()) {
            Trust::Trusted => {}
            Trust::Untrusted(reason) => {
                tracing::info!(
                    reason,
                    "what the job added is not published; see CACHE_PUBLISH"
                );
                return;
            }
            Trust::Unknown => tracing::debug!("it is not known what triggered the job"),
        }
    }
    condition.interrupted = task.interrupted.get();
    condition.dry_run = settings.publish == CachePublish::Report;
    if let Some(report) = task.reported.get() {
        let run = report.run_id.map(|id| id.to_string()).unwrap_or_default();
        condition.by = format!("{} {run}", report.repository);
    }
    let phase = task.progress.begin("cache-publish");
    let deadline = deadline.at_most(settings.publish_timeout);
    let published = caches.publish(task.children, condition, deadline).await;
    for problem in &published.problems {
        tracing::warn!(
            problem,
            "not everything could be published; a later job makes it again"
        );
    }
    if !published.left_out.is_empty() {
        tracing::warn!(left_out = ?published.left_out, "the time did not suffice to publish everything");
    }
    let verb = if condition.dry_run {
        "would be published"
    } else {
        "published"
    };
    phase.done(format_args!(
        "{} units {verb}, {} files, {} bytes: {}",
        published.units.len(),
        published.files,
        published.bytes,
        published.units.join(" ")
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_urgency_leaves_time_for_each_duty_and_for_the_exit() {
        for seconds in [2, 5, 30, 120] {
            let timeout = Duration::from_secs(seconds);
            for urgency in [Urgency::Asked, Urgency::Hurried] {
                let whole = urgency.deadline(timeout);
                assert!(
                    whole.remaining() < timeout,
                    "{whole:?} leaves nothing for the exit"
                );
                let runner = whole.reserving(RESERVE).remaining();
                let settling = whole.remaining() - runner;
                let least = Duration::from_millis(800);
                assert!(
                    runner > least && settling > least,
                    "{runner:?} {settling:?}"
                );
            }
        }
    }

    #[test]
    fn each_request_to_stop_is_more_urgent_than_the_one_before() {
        let timeout = Duration::from_secs(30);
        let mut urgency = Urgency::Calm;
        for longest in [30, 5, 5] {
            urgency = urgency.next();
            let left = urgency.deadline(timeout).remaining();
            assert!(
                left <= Duration::from_secs(longest),
                "{urgency:?}: {left:?}"
            );
        }
    }
}
