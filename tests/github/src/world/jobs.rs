//! The job queue: what is to be run, who has it, how it ended, and its log.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::World;
use super::credentials::Holder;
use super::job_spec::JobSpec;
use super::refusal::Refusal;
use super::runners::Registration;
use super::sessions::Message;
use crate::clock::rest_time;
use crate::events::{Event, Kind};

/// A job offered and not taken goes back to the queue (docs "Usage limits").
const OFFER: SignedDuration = SignedDuration::from_secs(60);
/// The annotation by which a runner says that it was shut down (actions/runner `JobRunner.cs`).
pub const SHUTDOWN_ANNOTATION: &str = "The runner has received a shutdown signal. This can happen when the runner service is stopped, or a manually started runner is canceled.";

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum JobState {
    Queued,
    Offered {
        runner: String,
        #[serde(skip)]
        runner_id: u64,
        #[serde(skip)]
        since: Timestamp,
    },
    Running {
        runner: String,
        #[serde(skip)]
        runner_id: u64,
        locked_until: Timestamp,
    },
    /// `succeeded`, `failed`, `canceled` or `lost`.
    Completed {
        conclusion: String,
    },
}

/// What the control plane tells about a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobView {
    pub id: String,
    pub run_id: u64,
    pub name: String,
    #[serde(flatten)]
    pub state: JobState,
    /// Of each step that the runner reported: name and conclusion.
    pub steps: Vec<(String, String)>,
    pub annotations: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Job {
    id: String,
    run_id: u64,
    spec: JobSpec,
    state: JobState,
    steps: Vec<(String, String)>,
    annotations: Vec<String>,
    pub(crate) log: Vec<u8>,
}

impl World {
    pub(crate) fn queue_job(&mut self, spec: JobSpec) -> (String, u64) {
        self.last_run += 1;
        let run_id = spec.run_id.unwrap_or(self.last_run);
        let id = super::random_guid();
        let event = Event::new(Kind::JobQueued).job(&id);
        self.events.append(event.detail(&spec.name));
        self.jobs.push(Job {
            id: id.clone(),
            run_id,
            spec,
            state: JobState::Queued,
            steps: Vec::new(),
            annotations: Vec::new(),
            log: Vec::new(),
        });
        (id, run_id)
    }

    pub(crate) fn job(&self, id: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }

    pub(crate) fn job_mut(&mut self, id: &str) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }

    pub(crate) fn job_views(&self) -> Vec<JobView> {
        self.jobs.iter().map(Job::view).collect()
    }

    pub(crate) fn is_running(&self, id: &str) -> bool {
        self.job(id)
            .is_some_and(|job| matches!(job.state, JobState::Running { .. }))
    }

    /// Offers the oldest fitting job to an idle runner and makes the message for it.
    pub(crate) fn offer_job(&mut self, runner_id: u64, base: &str) -> Option<Message> {
        let now = self.now();
        let runner = self.present().find(|runner| runner.id == runner_id)?;
        if runner.job.is_some() || (runner.ephemeral && runner.consumed) {
            return None;
        }
        let name = runner.name.clone();
        let fits = |job: &Job| {
            let labels = |wanted: &String| {
                runner
                    .labels
                    .iter()
                    .any(|own| own.eq_ignore_ascii_case(wanted))
            };
            job.state == JobState::Queued
                && runner.scope.serves(&job.spec.repository)
                && job.spec.runs_on.iter().all(labels)
        };
        let id = self.jobs.iter().find(|job| fits(job))?.id.clone();
        self.job_mut(&id)?.state = JobState::Offered {
            runner: name.clone(),
            runner_id,
            since: now,
        };
        self.runner_mut(runner_id)?.job = Some(id.clone());
        self.events
            .append(Event::new(Kind::JobOffered).runner(name).job(&id));
        self.last_message += 1;
        Some(Message {
            message_id: self.last_message,
            message_type: "RunnerJobRequest".to_owned(),
            body: json!({
                "id": id,
                "runner_request_id": id,
                "should_acknowledge": true,
                "run_service_url": format!("{base}/"),
                "billing_owner_id": "1",
            })
            .to_string(),
        })
    }

    /// An offer whose runner went away is an offer no more.
    pub(crate) fn release_offer(&mut self, runner_id: u64) {
        let Some(id) = self
            .runner_mut(runner_id)
            .and_then(|runner| runner.job.clone())
        else {
            return;
        };
        let Some(job) = self.job_mut(&id) else { return };
        if matches!(job.state, JobState::Offered { .. }) {
            job.state = JobState::Queued;
            if let Some(runner) = self.runner_mut(runner_id) {
                runner.job = None;
            }
        }
    }

    /// Whether an offered job is still there to be acknowledged.
    pub(crate) fn acknowledge(&self, runner_id: u64, id: &str) -> Result<(), Refusal> {
        match self.job(id).map(|job| &job.state) {
            Some(JobState::Offered { runner_id: own, .. }) if *own == runner_id => Ok(()),
            _ => Err(Refusal::broker(
                404,
                "AcknowledgeJobNotFound",
                "The job is not there any more.",
            )),
        }
    }

    /// The runner takes the job it was offered, and is busy from here on.
    pub(crate) fn acquire(
        &mut self,
        runner_id: u64,
        id: &str,
        base: &str,
    ) -> Result<Value, Refusal> {
        let locked_until = self.lock_end();
        let missing = || Refusal::run_service(404, "job not found");
        let job = self.job_mut(id).ok_or_else(missing)?;
        match &job.state {
            JobState::Offered {
                runner_id: own,
                runner,
                ..
            } if *own == runner_id => {
                job.state = JobState::Running {
                    runner: runner.clone(),
                    runner_id,
                    locked_until,
                };
            }
            JobState::Running { .. } | JobState::Offered { .. } => {
                return Err(Refusal::run_service(409, "job is already acquired"));
            }
            JobState::Queued | JobState::Completed { .. } => return Err(missing()),
        }
        let (spec, run_id) = (job.spec.clone(), job.run_id);
        let runner = self.runner_mut(runner_id).ok_or_else(missing)?;
        runner.consumed = true;
        let event = Event::new(Kind::JobAcquired).runner(&runner.name).job(id);
        self.events.append(event);
        let issued = self.issue("job_", Holder::Job(id.to_owned()), 6 * 3600);
        Ok(job_message(id, run_id, &spec, &[base, &issued.token]))
    }

    pub(crate) fn renew(&mut self, id: &str) -> Result<Value, Refusal> {
        let end = self.lock_end();
        match self.job_mut(id).map(|job| &mut job.state) {
            Some(JobState::Running { locked_until, .. }) => {
                *locked_until = end;
                Ok(json!({ "lockedUntil": rest_time(end) }))
            }
            _ => Err(Refusal::run_service(404, "job not found")),
        }
    }

    /// The worker reports the end. An ephemeral registration goes with it, unless the runner was
    /// shut down: then it stays until somebody removes it.
    pub(crate) fn complete(&mut self, id: &str, report: Report) -> Result<(), Refusal> {
        let job = self
            .job_mut(id)
            .ok_or_else(|| Refusal::run_service(404, "job not found"))?;
        let JobState::Running { runner_id, .. } = job.state else {
            return Err(Refusal::run_service(404, "job is not running"));
        };
        job.steps = report.steps;
        job.annotations = report.annotations;
        let shut_down = job
            .annotations
            .iter()
            .any(|text| text == SHUTDOWN_ANNOTATION);
        self.finish(id, &report.conclusion);
        let ephemeral = self
            .runner_mut(runner_id)
            .is_some_and(|runner| runner.ephemeral);
        if ephemeral && !shut_down {
            self.forget(runner_id, Registration::Completed, "completed");
        }
        Ok(())
    }

    fn finish(&mut self, id: &str, conclusion: &str) {
        let Some(job) = self.job_mut(id) else { return };
        let runner_id = match job.state {
            JobState::Offered { runner_id, .. } | JobState::Running { runner_id, .. } => {
                Some(runner_id)
            }
            JobState::Queued | JobState::Completed { .. } => None,
        };
        job.state = JobState::Completed {
            conclusion: conclusion.to_owned(),
        };
        let mut event = Event::new(Kind::JobCompleted).job(id).detail(conclusion);
        if let Some(runner) = runner_id.and_then(|runner| self.runner_mut(runner)) {
            runner.job = None;
            event = event.runner(&runner.name);
        }
        self.events.append(event);
    }

    /// Cancels what is left of a run: 404 for an unknown one, 409 for one that is over.
    pub(crate) fn cancel_run(&mut self, repository: &str, run_id: u64) -> Result<(), Refusal> {
        let of_run = |job: &&Job| job.run_id == run_id && job.spec.repository == repository;
        let over = |job: &Job| matches!(job.state, JobState::Completed { .. });
        let jobs: Vec<&Job> = self.jobs.iter().filter(of_run).collect();
        if jobs.is_empty() {
            return Err(Refusal::not_found());
        }
        let open: Vec<String> = jobs
            .into_iter()
            .filter(|job| !over(job))
            .map(|job| job.id.clone())
            .collect();
        if open.is_empty() {
            return Err(Refusal::rest(
                409,
                "Cannot cancel a workflow run that is completed.",
            ));
        }
        for id in open {
            self.cancel_job(&id);
        }
        Ok(())
    }

    /// `false` when there is nothing left to cancel.
    pub(crate) fn cancel_job(&mut self, id: &str) -> bool {
        let Some(job) = self.job(id) else {
            return false;
        };
        let running_on = match &job.state {
            JobState::Completed { .. } => return false,
            JobState::Running { runner_id, .. } => Some(*runner_id),
            JobState::Queued | JobState::Offered { .. } => None,
        };
        self.events.append(Event::new(Kind::JobCancelled).job(id));
        match running_on {
            Some(runner_id) => {
                let body = json!({ "jobId": id, "timeout": "00:05:00" });
                self.post(runner_id, "JobCancellation", &body);
            }
            None => self.finish(id, "canceled"),
        }
        true
    }

    /// What time alone changes: untaken offers and unrenewed locks.
    pub(crate) fn expire_jobs(&mut self) {
        let now = self.now();
        let mut untaken = Vec::new();
        let mut lost = Vec::new();
        for job in &self.jobs {
            match &job.state {
                JobState::Offered {
                    runner_id, since, ..
                } => {
                    if now.duration_since(*since) > OFFER {
                        untaken.push(*runner_id);
                    }
                }
                JobState::Running {
                    runner_id,
                    locked_until,
                    ..
                } => {
                    if *locked_until < now {
                        lost.push((job.id.clone(), *runner_id));
                    }
                }
                JobState::Queued | JobState::Completed { .. } => {}
            }
        }
        for runner_id in untaken {
            self.release_offer(runner_id);
        }
        for (id, runner_id) in lost {
            self.events.append(Event::new(Kind::JobLost).job(&id));
            self.finish(&id, "lost");
            if self
                .runner_mut(runner_id)
                .is_some_and(|runner| runner.ephemeral)
            {
                self.forget(runner_id, Registration::Deleted, "lost");
            }
        }
    }
}

/// What a worker reports at the end of a job.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) conclusion: String,
    pub(crate) steps: Vec<(String, String)>,
    pub(crate) annotations: Vec<String>,
}

impl Job {
    pub(crate) fn view(&self) -> JobView {
        JobView {
            id: self.id.clone(),
            run_id: self.run_id,
            name: self.spec.name.clone(),
            state: self.state.clone(),
            steps: self.steps.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

/// The parts of the real job message that exist here keep their names; the steps are the
/// double's own, far simpler than the real ones.
fn job_message(id: &str, run_id: u64, spec: &JobSpec, connection: &[&str; 2]) -> Value {
    let [base, token] = connection;
    json!({
        "messageType": "RunnerJobRequest",
        "jobId": id,
        "jobDisplayName": spec.name,
        "plan": { "planId": id },
        "resources": { "endpoints": [{
            "name": "SystemVssConnection",
            "url": format!("{base}/"),
            "authorization": { "scheme": "OAuth", "parameters": { "AccessToken": token } },
        }] },
        "contextData": { "github": {
            "repository": spec.repository,
            "run_id": run_id.to_string(),
            "server_url": base,
            "api_url": format!("{base}/api/v3"),
        } },
        "environmentVariables": spec.env,
        "steps": spec.steps,
    })
}
