//! Registering and removing, by JIT configuration and by `config.sh`.

use github_double::{Kind, Versions};
use serde_json::json;

use crate::harness::{Listener, PAT, REPOSITORY, Trial, eventually, runner_path};

#[test]
fn a_jit_configuration_has_pascal_case_strings_and_a_byte_order_mark() {
    let trial = Trial::new();
    let listener = trial.listening("jit");
    let text = trial.read(".runner");
    let settings: serde_json::Value =
        serde_json::from_str(text.strip_prefix('\u{feff}').unwrap()).unwrap();
    assert_eq!(settings["Ephemeral"], "True");
    assert_eq!(settings["AgentName"], "jit");
    assert!(settings["AgentId"].is_string());
    drop(listener);
}

#[test]
fn config_sh_registers_and_the_runner_file_has_camel_case_and_true_booleans() {
    let trial = Trial::new();
    let finished = trial.configure(&["--name", "configured", "--ephemeral", "--labels", "a,b"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    for line in [
        "√ Connected to GitHub",
        "√ Runner successfully added",
        "√ Settings Saved.",
    ] {
        assert!(finished.says(line), "{line}: {finished:#?}");
    }
    let text = trial.read(".runner");
    let settings: serde_json::Value =
        serde_json::from_str(text.strip_prefix('\u{feff}').unwrap()).unwrap();
    assert_eq!(settings["ephemeral"], true);
    assert!(settings["agentId"].is_u64());
    let key = trial.root.join(".credentials_rsaparams");
    let mode = std::os::unix::fs::PermissionsExt::mode(&key.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let runner = &trial.double.runners()[0];
    assert!(runner.ephemeral);
    assert_eq!(runner.labels[3..], ["a", "b"]);

    trial.queue("true");
    let mut command = trial.command("bin/Runner.Listener");
    command.arg("run");
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.says("√ Removed .runner"));
    assert_eq!(trial.double.runners(), []);
}

#[test]
fn a_taken_name_ends_config_sh_unless_it_may_replace() {
    let trial = Trial::new();
    let (_, id) = trial.jit("taken");
    let finished = trial.configure(&["--name", "taken", "--ephemeral"]);
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.complains("A runner exists with the same name taken."),
        "{finished:#?}"
    );
    let finished = trial.configure(&["--name", "taken", "--ephemeral", "--replace"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.says("√ Successfully replaced the runner"));
    let runners = trial.double.runners();
    assert_eq!((runners.len(), runners[0].id), (1, id));
}

#[test]
fn a_mistyped_option_registers_a_persistent_runner_with_only_a_warning() {
    let trial = Trial::new();
    let finished = trial.configure(&["--name", "typo", "--ephemerl"]);
    assert_eq!(finished.code, Some(0));
    let warning = "Unrecognized command-line input arguments for command configure: 'ephemerl'";
    assert!(finished.complains(warning), "{finished:#?}");
    assert!(!trial.read(".runner").contains("ephemeral"));
}

#[test]
fn config_sh_refuses_a_second_configuration() {
    let trial = Trial::new();
    trial.configure(&["--name", "one"]);
    let finished = trial.configure(&["--name", "two"]);
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.complains("it is already configured"),
        "{finished:#?}"
    );
}

#[test]
fn config_sh_gets_its_own_token_with_a_pat() {
    let trial = Trial::new();
    let url = trial.double.repo_url(REPOSITORY);
    let mut command = trial.command("config.sh");
    command
        .args(["--unattended", "--name", "by-pat", "--url", &url])
        .env("ACTIONS_RUNNER_INPUT_PAT", PAT);
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let mut command = trial.command("config.sh");
    command.args(["remove", "--pat", PAT]);
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(trial.double.runners(), []);
}

#[test]
fn a_wrong_registration_token_is_a_404_with_its_body() {
    let trial = Trial::new();
    let mut command = trial.command("config.sh");
    let url = trial.double.repo_url(REPOSITORY);
    command.args(["--unattended", "--url", &url, "--token", "WRONG"]);
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.complains("Http response code: NotFound from 'POST"),
        "{finished:#?}"
    );
    assert!(
        finished.complains("\"message\":\"Not Found\""),
        "{finished:#?}"
    );
}

#[test]
fn a_version_below_the_floor_cannot_register_and_is_told_why() {
    let trial = Trial::new();
    trial.double.set_versions(Versions {
        minimum_registration: Some("2.400.0".to_owned()),
        ..Versions::default()
    });
    let finished = trial.configure(&["--name", "old"]);
    assert_eq!(finished.code, Some(1));
    let reason =
        "The minimum runner version required to register with GitHub Actions is now 2.400.0";
    assert!(finished.complains(reason), "{finished:#?}");
}

#[test]
fn config_sh_remove_takes_registration_and_files_away() {
    let trial = Trial::new();
    trial.configure(&["--name", "short"]);
    let mut command = trial.command("config.sh");
    command.args(["remove", "--token", &trial.token("remove")]);
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    for line in [
        "√ Runner removed successfully",
        "√ Removed .credentials",
        "√ Removed .runner",
    ] {
        assert!(finished.says(line), "{line}: {finished:#?}");
    }
    assert_eq!(trial.double.runners(), []);
}

#[test]
fn config_sh_remove_fails_and_keeps_the_files_when_the_registration_is_gone() {
    let trial = Trial::new();
    trial.configure(&["--name", "short"]);
    let id = trial.double.runners()[0].id;
    assert_eq!(trial.rest("DELETE", &runner_path(id), None).0, 204);
    let mut command = trial.command("config.sh");
    command.args(["remove", "--token", &trial.token("remove")]);
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.complains("Failed: Removing runner from the server"),
        "{finished:#?}"
    );
    assert!(trial.has(".runner"));

    let mut command = trial.command("config.sh");
    command.args(["remove", "--local"]);
    assert_eq!(Listener::start(command).finish().code, Some(0));
    assert!(!trial.has(".runner"));
}

#[test]
fn a_busy_runner_cannot_be_deleted() {
    let trial = Trial::new();
    let listener = trial.listening("busy");
    let id = trial.double.runners()[0].id;
    let job = trial.queue("until [ -e \"$RUNNER_TEMP/go\" ]; do sleep 0.02; done");
    trial.wait_for(Kind::JobAcquired);
    let (status, body) = trial.rest("DELETE", &runner_path(id), None);
    assert_eq!(status, 422);
    let text = body["message"].as_str().unwrap();
    assert!(
        text.contains("is currently running a job and cannot be deleted"),
        "{text}"
    );
    let (_, runner) = trial.rest("GET", &runner_path(id), None);
    assert_eq!(
        (&runner["busy"], &runner["status"]),
        (&json!(true), &json!("online"))
    );

    let temp = trial.root.join("_work/_temp");
    eventually(|| temp.exists(), || "no _temp".to_owned());
    trial.wait_for_log(&job, "##[endgroup]");
    std::fs::write(temp.join("go"), "").unwrap();
    assert_eq!(listener.finish().code, Some(0));
    assert_eq!(trial.rest("GET", &runner_path(id), None).0, 404);
}

#[test]
fn a_jit_configuration_is_good_for_one_job() {
    let trial = Trial::new();
    trial.queue("true");
    let (blob, _) = trial.jit("once");
    assert_eq!(
        Listener::start(trial.with_jit(&blob)).finish().code,
        Some(0)
    );
    let finished = Listener::start(trial.with_jit(&blob)).finish();
    assert_eq!(finished.code, Some(1));
    let words =
        "Failed to create a session. The runner registration has been deleted from the server";
    assert!(finished.complains(words), "{finished:#?}");
}
