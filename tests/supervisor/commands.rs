//! The commands beside `run`.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::github::jit_configuration;
use crate::harness::{Trial, set_mode, wait_until};

#[test]
fn check_names_what_is_missing() {
    let mut trial = Trial::new();
    let ended = trial.start(&["check"]).end();
    assert_eq!(ended.code, 0, "{}", ended.stdout);
    trial
        .set(
            "DOCKER_HOST",
            format!("unix://{}", trial.path("none.sock").display()),
        )
        .set("GITHUB_PAT", "wrong-token");
    let ended = trial.start(&["check", "--json"]).end();
    assert_eq!(ended.code, 1);
    let answer: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    let failed: Vec<&str> = answer["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| check["what"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["docker", "github"], "{answer}");
    assert!(trial.registrations().is_empty());
}

#[test]
fn check_tells_wrong_settings_like_any_other_finding() {
    let mut trial = Trial::new();
    trial.set("ON_STOP", "maybe");
    let ended = trial.start(&["check"]).end();
    assert_eq!(ended.code, 1);
    assert!(
        ended.stdout.contains("FAIL  settings") && ended.stdout.contains("ON_STOP"),
        "{}",
        ended.stdout
    );
}

#[test]
fn status_is_healthy_while_the_supervisor_runs() {
    let trial = Trial::new();
    assert_eq!(trial.start(&["status"]).end().code, 1, "nobody runs yet");
    let supervisor = trial.idle();
    wait_until("the state is idle", || {
        std::fs::read_to_string(trial.path("state.json"))
            .unwrap()
            .contains("idle")
    });
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_supervisor"))
        .args(["status", "--state-file"])
        .arg(trial.path("state.json"))
        .output()
        .unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(
        status.status.success() && text.contains("runner   trial\n"),
        "{text}"
    );
    supervisor.terminate();
    supervisor.end();
    assert_eq!(
        trial.start(&["status"]).end().code,
        1,
        "it was ended by a signal"
    );
}

#[test]
fn a_state_file_that_cannot_be_written_is_told_and_no_more() {
    let mut trial = Trial::new();
    trial.set("SUPERVISOR_STATE_FILE", "/proc/nowhere/state.json");
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    assert!(
        ended.log_text().contains("supervisor status will not work"),
        "{}",
        ended.log_text()
    );
}

#[test]
fn sweep_lists_what_a_killed_supervisor_left_and_removes_it_when_told() {
    let mut trial = Trial::new();
    trial
        .set("RUNNER_NAME", "")
        .set("RUNNER_NAME_PREFIX", "swept");
    jit_configuration(&trial, "swept-1");
    jit_configuration(&trial, "sweptnot-2");
    let listed = trial.start(&["sweep"]).end();
    assert_eq!(listed.code, 0, "{}", listed.log_text());
    assert!(
        listed.stdout.contains("swept-1") && !listed.stdout.contains("sweptnot-2"),
        "{}",
        listed.stdout
    );
    assert_eq!(trial.registrations().len(), 2);
    let removed = trial.start(&["sweep", "--delete"]).end();
    assert!(removed.stdout.starts_with("removed"), "{}", removed.stdout);
    assert_eq!(trial.registrations(), ["sweptnot-2"]);
}

#[test]
fn a_supervisor_that_was_killed_is_cleaned_up_by_the_sweep() {
    let mut trial = Trial::new();
    trial
        .set("RUNNER_NAME", "")
        .set("RUNNER_NAME_PREFIX", "killed");
    let supervisor = trial.idle();
    supervisor.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(supervisor.end().code, 137);
    wait_until("the runner is offline", || {
        trial.double.runners().iter().all(|runner| !runner.online)
    });
    let swept = trial.start(&["sweep", "--delete"]).end();
    assert_eq!(swept.code, 0);
    assert!(trial.registrations().is_empty(), "{}", swept.stdout);
}

#[test]
fn health_and_metrics_are_served_on_request() {
    let mut trial = Trial::new();
    // Nobody else has ports of this address: connections from 127.0.0.1 take them at random.
    let port = std::net::TcpListener::bind("127.0.0.2:0")
        .unwrap()
        .local_addr()
        .unwrap();
    trial.set("SUPERVISOR_HTTP_ADDR", port);
    let supervisor = trial.idle();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(port).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    wait_until("healthz says idle", || {
        get("/healthz").contains("\"phase\":\"idle\"")
    });
    let metrics = get("/metrics");
    assert!(
        metrics.contains("supervisor_phase_seconds{phase=\"register\"}"),
        "{metrics}"
    );
    assert!(get("/other").starts_with("HTTP/1.1 404"));
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
}

#[test]
fn a_timeline_is_drawn_from_the_log_of_a_run_with_everything_around_it() {
    let trial = Trial::new();
    trial.queue(
        github_double::JobSpec::new(crate::harness::REPOSITORY, "<build> & \"test\"")
            .step("only", "true"),
    );
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let log = trial.path("whole.log");
    std::fs::write(&log, format!("{}{}", ended.stdout, ended.log_text())).unwrap();
    let drawn = trial.start(&["timeline", log.to_str().unwrap()]).end();
    assert_eq!(drawn.code, 0, "{}", drawn.log_text());
    assert!(drawn.stdout.starts_with("<svg "), "{}", drawn.stdout);
    for phase in ended.phases() {
        assert!(
            drawn.stdout.contains(&format!(">{phase}</text>")),
            "{phase}"
        );
    }
    assert!(
        drawn
            .stdout
            .contains("&lt;build&gt; &amp; &quot;test&quot;: Succeeded")
    );
    std::fs::write(&log, "nothing of ours\n").unwrap();
    let refused = trial.start(&["timeline", log.to_str().unwrap()]).end();
    assert_eq!(refused.code, 1);
    assert!(
        refused.errors().contains("LOG_FORMAT=json"),
        "{}",
        refused.errors()
    );
}

#[test]
fn help_and_version_need_no_settings() {
    let trial = Trial::new();
    for words in [["--help"], ["--version"]] {
        let ended = trial.start(&words).end();
        assert_eq!((ended.code, ended.log.len()), (0, 0), "{words:?}");
    }
    assert_eq!(
        std::process::Command::new(env!("CARGO_BIN_EXE_supervisor"))
            .arg("--nonsense")
            .output()
            .unwrap()
            .status
            .code(),
        Some(64)
    );
    // The secret's flag takes a file: a value on the command line could be read by everybody.
    let help = trial.start(&["--help"]).end().stdout;
    assert!(
        help.contains("--github-pat-file") && !help.contains("--github-pat "),
        "{help}"
    );
    set_mode(&trial.path("store"), 0o755);
}
