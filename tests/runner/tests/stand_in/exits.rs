//! Every documented way in which a listener ends by itself or by a signal.

use github_double::script::Script;
use github_double::{Action, Kind, Options, Rule, Versions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{Finished, LIMIT, Listener, Trial, eventually, runner_path};

/// The lines that a supervisor keys on, without their times.
fn states(finished: &Finished) -> Vec<&str> {
    let marks = [
        "Connected to GitHub",
        "Current runner version",
        "Listening for Jobs",
        "Running job",
        "completed with result",
        "Exiting...",
        "Removed",
    ];
    finished
        .output
        .iter()
        .filter_map(|line| marks.iter().find(|mark| line.contains(**mark)))
        .copied()
        .collect()
}

#[test]
fn a_jit_runner_does_one_job_and_leaves_no_configuration_and_no_registration() {
    let trial = Trial::new();
    let job = trial.queue("echo hello from the step");
    let (blob, id) = trial.jit("jit-1");
    let finished = Listener::start(trial.with_jit(&blob)).finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.output[0].contains("stand-in"), "{finished:#?}");
    let expected = [
        "Connected to GitHub",
        "Current runner version",
        "Listening for Jobs",
        "Running job",
        "completed with result",
        "Removed",
        "Removed",
    ];
    assert_eq!(states(&finished), expected);
    assert!(finished.says("√ Removed .runner"));
    assert!(!finished.says("hello from the step"), "{finished:#?}");
    assert!(trial.job_log(&job).contains("hello from the step\n"));
    assert_eq!(trial.conclusion(&job), "succeeded");
    assert!(!trial.has(".runner") && !trial.has(".credentials"));
    assert!(!trial.has(".credentials_rsaparams"));
    assert_eq!(trial.rest("GET", &runner_path(id), None).0, 404);
    trial.wait_for(Kind::SessionDeleted);
}

#[test]
fn state_lines_carry_the_documented_time_stamp() {
    let trial = Trial::new();
    trial.queue("true");
    let finished = Listener::start(trial.with_jit(&trial.jit("jit").0)).finish();
    for text in [
        ": Listening for Jobs",
        ": Running job: build",
        ": Job build completed with result: Succeeded",
    ] {
        let line = finished.output.iter().find(|line| line.ends_with(text));
        let time = line.unwrap().strip_suffix(text).unwrap();
        let shape: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(shape, "0000-00-00 00:00:00Z");
    }
}

#[test]
fn a_jit_configuration_that_does_not_decode_ends_with_1() {
    let trial = Trial::new();
    let finished = Listener::start(trial.with_jit("not base64!")).finish();
    assert_eq!(finished.code, Some(1), "{finished:#?}");
    assert!(finished.complains("the JIT configuration is no base64"));
}

#[test]
fn a_runner_that_is_not_configured_ends_with_1() {
    let trial = Trial::new();
    let mut command = trial.command("bin/Runner.Listener");
    command.arg("run");
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.complains("An error occurred: Not configured."),
        "{finished:#?}"
    );
}

#[test]
fn the_version_is_all_that_standard_output_says() {
    let trial = Trial::new();
    let mut command = trial.command("bin/Runner.Listener");
    command.arg("--version");
    let finished = Listener::start(command).finish();
    assert_eq!(
        (finished.code, finished.output),
        (Some(0), vec!["2.336.0".to_owned()])
    );
}

#[test]
fn root_is_refused_unless_allowed() {
    let trial = Trial::new();
    let mut command = trial.command("bin/Runner.Listener");
    command.arg("run").env_remove("RUNNER_ALLOW_RUNASROOT");
    let finished = Listener::start(command).finish();
    let refused = finished.says("Must not run interactively with sudo");
    assert_eq!(refused, nix::unistd::geteuid().is_root(), "{finished:#?}");
    assert_eq!(finished.code, Some(1));
}

#[test]
fn an_interrupt_while_idle_leaves_files_and_registration() {
    let trial = Trial::new();
    let listener = trial.listening("idle");
    assert!(trial.double.runners()[0].online);
    listener.signal(Signal::SIGINT);
    let finished = listener.finish();
    assert_eq!(finished.code, Some(0));
    assert!(finished.output.contains(&"Exiting...".to_owned()));
    assert!(trial.has(".runner"));
    let runners = trial.double.runners();
    assert_eq!((runners.len(), runners[0].online), (1, false));
    trial.wait_for(Kind::SessionDeleted);
}

#[test]
fn a_termination_while_idle_ends_with_143_and_without_a_word() {
    let trial = Trial::new();
    let listener = trial.listening("idle");
    listener.signal(Signal::SIGTERM);
    let finished = listener.finish();
    assert_eq!(finished.code, Some(143));
    assert!(!finished.says("Exiting..."));
    trial.wait_for(Kind::SessionDeleted);
}

#[test]
fn an_idle_interrupted_configuration_may_be_used_again() {
    let trial = Trial::new();
    let (blob, _) = trial.jit("again");
    let first = Listener::start(trial.with_jit(&blob));
    first.wait_for_line("Listening for Jobs");
    first.signal(Signal::SIGINT);
    first.finish();
    trial.queue("true");
    assert_eq!(
        Listener::start(trial.with_jit(&blob)).finish().code,
        Some(0)
    );
}

#[test]
fn a_version_too_old_listens_first_and_has_its_own_code_when_asked_for() {
    let trial = Trial::new();
    trial.double.set_versions(Versions {
        minimum_runtime: Some("2.337.0".to_owned()),
        ..Versions::default()
    });
    let (blob, _) = trial.jit("old");
    for (wish, code) in [("", 1), ("1", 7), ("true", 7)] {
        let mut command = trial.with_jit(&blob);
        command.env("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE", wish);
        let finished = Listener::start(command).finish();
        assert_eq!(finished.code, Some(code), "{finished:#?}");
        assert!(finished.says("Listening for Jobs"));
        let words =
            "An error occurred: Runner version v2.336.0 is deprecated and cannot receive messages.";
        assert!(finished.complains(words), "{finished:#?}");
    }
}

#[test]
fn a_second_session_is_a_conflict_and_ends_with_5_after_eight_attempts() {
    let trial = Trial::new();
    trial
        .double
        .script(None, Script::default().wait_scale(0.001));
    let (blob, _) = trial.jit("twice");
    let first = Listener::start(trial.with_jit(&blob));
    first.wait_for_line("Listening for Jobs");
    let second = Listener::start(trial.with_jit(&blob)).finish();
    assert_eq!(second.code, Some(5), "{second:#?}");
    let attempts = |text: &str| {
        second
            .errors
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    assert_eq!(attempts("A session for this runner already exists."), 8);
    assert_eq!(
        attempts("Runner connect error: Error: Conflict. Retrying until reconnected."),
        1
    );
    assert!(
        second.complains("Stop retry on SessionConflictException after retried for 240 seconds.")
    );
}

#[test]
fn ten_broker_errors_in_a_row_end_with_2_and_fewer_do_not() {
    let trial = Trial::new();
    trial
        .double
        .script(None, Script::default().wait_scale(0.0001));
    let broken = Rule::on("GET", "/message", Action::status(503));
    trial.double.fail(broken.clone().times(9));
    let listener = trial.listening("patient");
    listener.wait_for_error("Runner connect error: Failed to get job message.");
    trial.queue("true");
    let finished = listener.finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.says("Runner reconnected."));

    trial.double.fail(broken);
    let finished = Listener::start(trial.with_jit(&trial.jit("impatient").0)).finish();
    assert_eq!(finished.code, Some(2), "{finished:#?}");
    assert!(finished.complains("An error occurred: Failed to get job message."));
}

#[test]
fn a_service_out_of_reach_is_retried_and_said_once() {
    let trial = Trial::new();
    trial
        .double
        .script(None, Script::default().wait_scale(0.001));
    trial
        .double
        .fail(Rule::on("POST", "/session", Action::status(500)).times(3));
    let listener = trial.listening("late");
    listener.wait_for_line("Runner reconnected.");
    listener.signal(Signal::SIGINT);
    let finished = listener.finish();
    let complaints = finished
        .errors
        .iter()
        .filter(|line| line.contains("Runner connect error"))
        .count();
    assert_eq!(complaints, 1, "{finished:#?}");
    let attempts = finished
        .output
        .iter()
        .filter(|line| *line == "√ Connected to GitHub")
        .count();
    assert_eq!(attempts, 4);
}

#[test]
fn a_clock_out_of_step_is_said_in_so_many_words() {
    let trial = Trial::new();
    trial
        .double
        .script(None, Script::default().wait_scale(0.001));
    let (blob, _) = trial.jit("skewed");
    trial.double.set_clock_offset(3600);
    let finished = Listener::start(trial.with_jit(&blob)).finish();
    assert_eq!(finished.code, Some(1), "{finished:#?}");
    assert!(finished.complains("clock may be out of sync with the server time"));
}

#[test]
fn a_registration_deleted_under_an_idle_listener_cleans_up_and_ends_well() {
    let trial = Trial::new();
    let listener = trial.listening("deleted");
    let id = trial.double.runners()[0].id;
    assert_eq!(trial.rest("DELETE", &runner_path(id), None).0, 204);
    let finished = listener.finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let words = "The runner no longer exists on the server. Cleaning up local configuration.";
    assert!(finished.complains(words));
    assert!(!trial.has(".runner"));
}

#[test]
fn an_update_ends_with_4_for_an_ephemeral_runner_and_3_for_another() {
    let trial = Trial::new();
    let update = json!({ "target_version": "2.337.0" });
    let listener = trial.listening("once");
    assert!(trial.double.send_message("once", "RunnerRefresh", &update));
    let finished = listener.finish();
    assert_eq!(finished.code, Some(4), "{finished:#?}");
    for line in [
        "Runner update in progress, do not shutdown runner.",
        "Downloading 2.337.0 runner",
        "Runner will exit shortly for update, should be back online within 10 seconds.",
    ] {
        assert!(finished.says(line), "{line}: {finished:#?}");
    }
    eventually(
        || trial.has("update.finished"),
        || "no update.finished".to_owned(),
    );

    let trial = Trial::new();
    trial.configure(&["--name", "persistent"]);
    let mut command = trial.command("bin/Runner.Listener");
    command.arg("run");
    let listener = Listener::start(command);
    listener.wait_for_line("Listening for Jobs");
    assert!(
        trial
            .double
            .send_message("persistent", "RunnerRefresh", &update)
    );
    assert_eq!(listener.finish().code, Some(3));
}

#[test]
fn a_job_that_cannot_be_acquired_leaves_no_word() {
    let trial = Trial::new();
    let gone =
        json!({ "source": "actions-run-service", "statusCode": 409, "errorMessage": "taken" });
    let taken = Action::status(409).body(gone);
    trial.double.fail(Rule::on("POST", "/acquirejob", taken));
    let listener = trial.listening("ghost");
    trial.queue("true");
    trial
        .double
        .wait_for(|event| event.is_request("POST", "/acquirejob"), LIMIT)
        .unwrap();
    listener.signal(Signal::SIGINT);
    let finished = listener.finish();
    assert_eq!(finished.code, Some(0));
    assert!(!finished.says("Running job"), "{finished:#?}");
}

#[test]
fn a_job_gone_at_acknowledging_ends_the_runner_without_a_job_line() {
    let trial = Trial::new();
    let gone = json!({ "source": "actions-broker-listener", "errorKind": "AcknowledgeJobNotFound",
        "statusCode": 404, "errorMessage": "gone" });
    trial.double.fail(Rule::on(
        "POST",
        "/acknowledge",
        Action::status(404).body(gone),
    ));
    let listener = trial.listening("ghost");
    trial.queue("true");
    let finished = listener.finish();
    assert_eq!(finished.code, Some(0));
    assert!(!finished.says("Running job"), "{finished:#?}");
    assert!(!trial.has(".runner"));
}

#[test]
fn the_job_result_is_the_code_when_asked_for() {
    let trial = Trial::new();
    for (script, code) in [("true", 100), ("false", 102)] {
        trial.queue(script);
        let mut command = trial.with_jit(&trial.jit("result").0);
        command.env("ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED", "true");
        assert_eq!(Listener::start(command).finish().code, Some(code));
    }
}

#[test]
fn a_killed_listener_is_offline_and_its_configuration_is_spent() {
    let trial = Trial::with(Options {
        offline_after: std::time::Duration::from_millis(1),
        ..Options::default()
    });
    let listener = trial.listening("victim");
    let job = trial.queue("echo begun; exec sleep 300");
    trial.wait_for_log(&job, "begun");
    listener.signal(Signal::SIGKILL);
    let view = || trial.double.runners();
    eventually(
        || view().iter().all(|runner| !runner.online),
        || format!("{:?}", view()),
    );
    // The worker notices, ends its step and reports a shutdown; so the registration stays.
    trial.wait_for(Kind::JobCompleted);
    assert_eq!((view().len(), view()[0].busy), (1, false));
    let mut command = trial.command("bin/Runner.Listener");
    command.arg("run");
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(1));
    let words = "The runner registration has been deleted";
    assert!(finished.complains(words), "{finished:#?}");
}

#[test]
fn a_job_whose_listener_and_worker_are_killed_is_lost_when_its_lock_ends() {
    let trial = Trial::new();
    let listener = trial.listening("victim");
    let job = trial.queue("echo step=$$ worker=$PPID; exec sleep 300");
    trial.wait_for_log(&job, "worker=");
    let log = trial.job_log(&job);
    let pid = |name: &str| {
        let text = log.split(name).nth(1).unwrap();
        Pid::from_raw(text.split_whitespace().next().unwrap().parse().unwrap())
    };
    kill(pid("worker="), Signal::SIGSTOP).unwrap();
    listener.signal(Signal::SIGKILL);
    for process in ["worker=", "step="] {
        kill(pid(process), Signal::SIGKILL).unwrap();
    }
    drop(listener);
    let runner = trial.double.runners().remove(0);
    assert!(runner.busy);
    assert_eq!(trial.rest("DELETE", &runner_path(runner.id), None).0, 422);
    trial.double.set_clock_offset(601);
    trial.wait_for(Kind::JobLost);
    assert_eq!(trial.conclusion(&job), "lost");
    assert_eq!(trial.double.runners(), []);
}
