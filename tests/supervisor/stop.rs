//! A request to stop, or two, at every point at which the supervisor waits for something.

use std::time::Duration;

use github_double::{
    Action, Condition, JobSpec, Kind, Rule,
    script::{Act, Deafness, Phase, Script},
};
use nix::sys::signal::Signal;

use crate::harness::{REPOSITORY, Supervisor, Trial, wait_until};

/// A point at which the supervisor waits.
struct Point {
    name: &'static str,
    /// Makes it wait there.
    arrange: fn(&mut Trial),
    /// Returns when it waits there.
    arrive: fn(&Trial, &Supervisor),
    /// The exit code after a SIGTERM there.
    code: i32,
}

const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A step after which there is a tool and a loose file to publish.
pub(crate) const PUBLISHING: &str = "mkdir -p $RUNNER_TOOL_CACHE/a/1/x64 && touch $RUNNER_TOOL_CACHE/a/1/x64.complete $RUNNER_TOOL_CACHE/loose";

fn never(method: &str, path: &str) -> Rule {
    Rule::on(method, path, Action::NeverAnswer { effect: false })
}

const POINTS: &[Point] = &[
    Point {
        name: "restore",
        arrange: |_| {},
        arrive: |_, supervisor| supervisor.wait_for_phase("cache-restore"),
        code: 143,
    },
    Point {
        name: "externals",
        arrange: |trial| trial.rsync("externals", "hang"),
        arrive: |trial, _| trial.wait_for_journal("externals"),
        code: 143,
    },
    Point {
        name: "docker wait",
        arrange: |trial| {
            let socket = format!("unix://{}", trial.path("docker.sock").display());
            trial.set("DOCKER_HOST", socket);
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("docker-wait"),
        code: 143,
    },
    Point {
        name: "version check",
        arrange: |trial| {
            trial.double.fail(never("GET", "**/deprecations/*"));
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("version-check"),
        code: 143,
    },
    Point {
        name: "credentials",
        arrange: |trial| {
            crate::github::use_app(trial);
            trial
                .double
                .fail(never("POST", "/app/installations/*/access_tokens"));
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("github-credentials"),
        code: 143,
    },
    Point {
        name: "register, before it took effect",
        arrange: |trial| {
            trial.double.fail(never("POST", "**/generate-jitconfig"));
        },
        arrive: |trial, _| {
            trial.wait_for(Kind::Fault);
        },
        code: 143,
    },
    Point {
        name: "register, after it took effect",
        arrange: |trial| {
            let action = Action::NeverAnswer { effect: true };
            trial
                .double
                .fail(Rule::on("POST", "**/generate-jitconfig", action));
        },
        arrive: |trial, _| {
            trial.wait_for(Kind::RunnerRegistered);
        },
        code: 143,
    },
    Point {
        name: "register, slowly",
        arrange: |trial| {
            let delay = Duration::from_secs(1);
            trial
                .double
                .fail(Rule::on("POST", "**/generate-jitconfig", Action::Pass).delay(delay));
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("register"),
        code: 143,
    },
    Point {
        name: "listener start",
        arrange: |trial| {
            trial.script(Script::default().at(Phase::Start, Act::Hang));
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("listener-start"),
        code: 143,
    },
    Point {
        name: "idle",
        arrange: |_| {},
        arrive: |_, supervisor| supervisor.wait_for_output("Listening for Jobs"),
        code: 143,
    },
    Point {
        name: "job that is cancelled",
        arrange: |trial| {
            trial.set("ON_STOP", "cancel").queue_step("sleep 600");
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("job"),
        code: 143,
    },
    Point {
        name: "publish",
        arrange: |trial| {
            trial.queue_step(PUBLISHING);
            trial.rsync("publish", "hang");
        },
        arrive: |trial, _| trial.wait_for_journal("publish"),
        code: 0,
    },
    Point {
        name: "deregister",
        arrange: |trial| {
            trial.queue_step("true");
            trial
                .double
                .fail(never("DELETE", "**/actions/runners/*").times(1));
        },
        arrive: |_, supervisor| supervisor.wait_for_phase("deregister"),
        code: 0,
    },
];

fn stop_at(point: &Point, signals: u32) {
    let case = format!("{signals} signals at {}", point.name);
    let mut trial = Trial::new();
    trial.set("STOP_TIMEOUT", STOP_TIMEOUT.as_secs());
    (point.arrange)(&mut trial);
    let supervisor = trial.start(&[]);
    (point.arrive)(&trial, &supervisor);
    let asked = std::time::Instant::now();
    for _ in 0..signals {
        supervisor.terminate();
    }
    let ended = supervisor.end();
    let took = asked.elapsed();
    assert_eq!(ended.code, point.code, "{case}: {}", ended.log_text());
    assert!(took < STOP_TIMEOUT, "{case} took {took:?}");
    assert_eq!(ended.log.last().unwrap()["message"], "summary", "{case}");
    trial.assert_nothing_is_left(&case);
}

#[test]
fn a_request_to_stop_at_any_point_leaves_nothing() {
    for point in POINTS {
        stop_at(point, 1);
    }
}

#[test]
fn two_requests_to_stop_at_any_point_leave_nothing() {
    for point in POINTS {
        stop_at(point, 2);
    }
}

#[test]
fn an_idle_runner_is_gone_in_two_seconds() {
    // A busy machine may hold one up.
    let mut took = [Duration::MAX; 3];
    for took in &mut took {
        let trial = Trial::new();
        let supervisor = trial.idle();
        let asked = std::time::Instant::now();
        supervisor.terminate();
        let ended = supervisor.end();
        *took = asked.elapsed();
        assert_eq!(ended.code, 143);
        trial.assert_nothing_is_left("idle");
        if *took < Duration::from_secs(2) {
            return;
        }
    }
    panic!("{took:?}");
}

#[test]
fn an_idle_runner_is_stopped_in_time_when_github_is_silent() {
    let mut trial = Trial::new();
    trial.set("STOP_TIMEOUT", 10);
    let supervisor = trial.idle();
    trial.double.fail(never("DELETE", "**"));
    supervisor.terminate();
    let ended = supervisor.end();
    assert!(ended.stdout.contains("Exiting..."), "{}", ended.stdout);
    assert_eq!(ended.code, 143);
    assert!(
        ended.errors().contains("cannot remove the registration"),
        "{}",
        ended.errors()
    );
}

#[test]
fn a_job_that_can_finish_in_time_does() {
    let mut trial = Trial::new();
    trial.set("STOP_TIMEOUT", 60);
    let job = trial.queue(
        JobSpec::new(REPOSITORY, "build")
            .step("wait", &trial.wait_for_go())
            .step("after", "echo finished"),
    );
    let supervisor = trial.start(&[]);
    supervisor.wait_for_phase("job");
    trial.wait_for(Kind::JobAcquired);
    supervisor.terminate();
    supervisor.wait_for_log("the job goes on while there is time");
    trial.go();
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let log = String::from_utf8_lossy(&trial.double.job_log(&job, 0).unwrap()).into_owned();
    assert!(log.contains("finished"), "{log}");
    trial.assert_nothing_is_left("after draining");
}

/// Goes on until it is told to stop.
const PATIENT: &str = "trap 'exit 1' INT TERM; while :; do sleep 0.1; done";

#[test]
fn the_last_steps_of_a_job_that_cannot_finish_run_because_its_run_is_cancelled() {
    let mut trial = Trial::new();
    trial.set("STOP_TIMEOUT", 12);
    let job = trial.queue(
        JobSpec::new(REPOSITORY, "build")
            .step("wait", PATIENT)
            .step_if(Condition::Always, "last", "echo cleaned up"),
    );
    let supervisor = trial.start(&[]);
    supervisor.wait_for_phase("job");
    wait_until("the job is known", || !trial.path("job.sock").exists());
    supervisor.terminate();
    let ended = supervisor.end();
    assert_eq!(ended.code, 143, "{}", ended.log_text());
    let log = String::from_utf8_lossy(&trial.double.job_log(&job, 0).unwrap()).into_owned();
    assert!(log.contains("cleaned up"), "{log}");
    trial.assert_nothing_is_left("after cancelling the run");
}

#[test]
fn a_run_that_may_not_be_cancelled_is_interrupted() {
    let mut trial = Trial::new();
    trial.set("STOP_TIMEOUT", 12);
    let action = Action::status(403);
    trial.double.fail(Rule::on("POST", "**/cancel", action));
    trial.queue_step(PATIENT);
    let supervisor = trial.start(&[]);
    supervisor.wait_for_phase("job");
    wait_until("the job is known", || !trial.path("job.sock").exists());
    supervisor.terminate();
    let ended = supervisor.end();
    assert_eq!(ended.code, 143, "{}", ended.log_text());
    assert!(ended.stdout.contains("Exiting..."), "{}", ended.stdout);
    trial.assert_nothing_is_left("after an interruption");
}

#[test]
fn a_job_that_cannot_finish_in_time_is_interrupted_and_what_it_added_is_published() {
    let mut trial = Trial::new();
    trial.set("STOP_TIMEOUT", STOP_TIMEOUT.as_secs());
    let job = trial.queue_step(&format!("{PUBLISHING}\nsleep 600"));
    let supervisor = trial.start(&[]);
    wait_until("the job has added its tool", || {
        trial.path("tools/a/1/x64.complete").exists()
    });
    let asked = std::time::Instant::now();
    supervisor.terminate();
    let ended = supervisor.end();
    assert!(asked.elapsed() < STOP_TIMEOUT, "{:?}", asked.elapsed());
    assert_eq!(ended.code, 143);
    assert!(ended.stdout.contains("Exiting..."), "{}", ended.stdout);
    assert!(
        trial.path("store/units/a@1@x64.tar.zst").exists(),
        "{}",
        ended.log_text()
    );
    assert!(trial.double.job(&job).is_some());
    trial.assert_nothing_is_left("after an interruption");
}

#[test]
fn a_listener_that_is_deaf_loses_its_steps_and_reports_the_job() {
    let mut trial = Trial::new();
    trial.set("STOP_TIMEOUT", 5).set("ON_STOP", "cancel");
    trial.script(Script::default().deaf_to(Deafness::Interrupt));
    trial.queue_step("trap '' INT TERM; while :; do sleep 1; done");
    let supervisor = trial.start(&[]);
    supervisor.wait_for_phase("job");
    supervisor.terminate();
    let ended = supervisor.end();
    assert_eq!(ended.code, 143, "{}", ended.log_text());
    trial.assert_nothing_is_left("after killing the steps");
}

#[test]
fn a_listener_that_hangs_with_its_job_is_killed_in_time_and_what_is_left_is_told() {
    let mut trial = Trial::new();
    trial
        .set("STOP_TIMEOUT", STOP_TIMEOUT.as_secs())
        .set("ON_STOP", "cancel");
    trial.script(
        Script::default()
            .deaf_to(Deafness::Interrupt)
            .at(Phase::JobRunning, Act::Hang),
    );
    trial.queue_step("true");
    let supervisor = trial.start(&[]);
    supervisor.wait_for_phase("job");
    let asked = std::time::Instant::now();
    supervisor.terminate();
    let ended = supervisor.end();
    assert_eq!(ended.code, 143, "{}", ended.log_text());
    let took = asked.elapsed();
    assert!(took < STOP_TIMEOUT, "{took:?}");
    // GitHub keeps a runner with a job until the job's lock runs out.
    let errors = ended.errors();
    assert!(errors.contains("because of its job"), "{errors}");
}

#[test]
fn other_signals_ask_to_stop_as_well() {
    for (signal, code) in [
        (Signal::SIGINT, 130),
        (Signal::SIGQUIT, 131),
        (Signal::SIGHUP, 129),
    ] {
        let trial = Trial::new();
        let supervisor = trial.idle();
        supervisor.signal(signal);
        assert_eq!(supervisor.end().code, code);
        trial.assert_nothing_is_left(signal.as_str());
    }
}

#[test]
fn a_grandchild_that_holds_the_output_does_not_hold_up_the_exit() {
    let trial = Trial::new();
    trial.script(Script::default().at(Phase::JobDone, Act::Grandchild { seconds: 600 }));
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    assert!(
        ended.elapsed < Duration::from_secs(30),
        "{:?}",
        ended.elapsed
    );
    trial.assert_nothing_is_left("after a grandchild");
}
