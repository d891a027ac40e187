//! The rows of the table: a phase, how a life is brought to wait in it, and how it goes on.

use std::time::Duration;

use github_double::{
    Action, Rule,
    script::{Act, Phase as Moment, Script},
};

use crate::harness::Supervisor;
use crate::stop::PUBLISHING;
use crate::table::Life;

/// What a phase is about, as far as a fault wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Store(&'static str),
    Docker,
    /// One call of GitHub's: method and path.
    GitHub(&'static str, &'static str),
    Listener(Moment),
}

pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) about: About,
    /// Makes it wait there.
    pub(crate) arrange: fn(&mut Life),
    /// Returns when it is there.
    pub(crate) arrive: fn(&Life, &Supervisor),
    /// Lets it go on, to its end.
    pub(crate) leave: fn(&Life),
}

/// A job that is there from the start, and ends when it is let.
fn patient_job(life: &Life) {
    let wait = life.trial.wait_for_go();
    life.trial.queue_step(&wait);
}

fn do_job(life: &Life) {
    life.trial.queue_step("true");
}

/// The call is slow, so that there is time to arrive.
fn slow(life: &Life, method: &str, path: &str) {
    let pause = Duration::from_millis(700);
    let rule = Rule::on(method, path, Action::Pass).delay(pause).times(1);
    life.trial.double.fail(rule);
}

pub(crate) const TOKENS: &str = "/app/installations/*/access_tokens";
pub(crate) const VERSIONS: &str = "**/deprecations/*";
pub(crate) const REGISTER: &str = "**/generate-jitconfig";
pub(crate) const REMOVE: &str = "**/actions/runners/*";

pub(crate) const PHASES: &[Phase] = &[
    Phase {
        name: "restoring",
        about: About::Store("restore"),
        arrange: |_| {},
        arrive: |_, supervisor| supervisor.wait_for_phase("cache-restore"),
        leave: do_job,
    },
    Phase {
        name: "waiting for Docker",
        about: About::Docker,
        arrange: |life| life.docker.be_silent(true),
        arrive: |_, supervisor| supervisor.wait_for_phase("docker-wait"),
        leave: |life| {
            life.docker.be_silent(false);
            do_job(life);
        },
    },
    Phase {
        name: "getting a token",
        about: About::GitHub("POST", TOKENS),
        arrange: |life| slow(life, "POST", TOKENS),
        arrive: |_, supervisor| supervisor.wait_for_phase("github-credentials"),
        leave: do_job,
    },
    Phase {
        name: "checking the version",
        about: About::GitHub("GET", VERSIONS),
        arrange: |life| slow(life, "GET", VERSIONS),
        arrive: |_, supervisor| supervisor.wait_for_phase("version-check"),
        leave: do_job,
    },
    Phase {
        name: "registering",
        about: About::GitHub("POST", REGISTER),
        arrange: |life| slow(life, "POST", REGISTER),
        arrive: |_, supervisor| supervisor.wait_for_phase("register"),
        leave: do_job,
    },
    Phase {
        name: "starting the listener",
        about: About::Listener(Moment::Start),
        arrange: |_| {},
        arrive: |_, supervisor| supervisor.wait_for_phase("listener-start"),
        leave: do_job,
    },
    Phase {
        name: "idle",
        about: About::Listener(Moment::Listening),
        arrange: |_| {},
        arrive: |_, supervisor| supervisor.wait_for_phase("idle"),
        leave: do_job,
    },
    Phase {
        name: "running a job",
        about: About::Listener(Moment::JobRunning),
        arrange: |life| patient_job(life),
        arrive: |_, supervisor| supervisor.wait_for_phase("job"),
        leave: |life| life.trial.go(),
    },
    Phase {
        name: "publishing",
        about: About::Store("publish"),
        arrange: |life| {
            life.trial.queue_step(PUBLISHING);
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("cache-publish"),
        leave: |_| {},
    },
    Phase {
        name: "deregistering",
        about: About::GitHub("DELETE", REMOVE),
        // A registration that is still there, because the listener gave up without a job.
        arrange: |life| {
            let script = Script::default().at(Moment::Listening, Act::Exit { code: 1 });
            life.trial.script(script);
            slow(life, "DELETE", REMOVE);
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("deregister"),
        leave: |_| {},
    },
];
